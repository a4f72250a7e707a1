"""An agent that speaks the protocol of version 4 as far as it must, and then misbehaves as the prompt says.

It dials agent.sock and is the HTTP/2 server (RFC 9113) of whoever accepts. Requests are told apart by whether they have a body: those
without are answered as /health, the first with one is /execute.
"""

import json, re, socket, struct, time

# The names are looked for in the prompt, in this order.
WAYS = ["forged-ids", "memory", "backward-numbers", "long-ids", "unknown-cancels", "withheld-decisions", "withheld-answers",
        "numbers", "tools", "servers", "frames", "junk", "holograms", "asks", "values"]
CONFIRM = object()
HEALTH = {"status": "ok", "version": "hostile", "driver": "none", "cli_version": None, "protocol": 4}


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def event(number, name, data):
    return f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()


def line(number, data):
    """A line of the driver's."""
    return event(number, "frame", data)


def ask(number, request_id, subtype="can_use_tool"):
    """A request of the driver's."""
    return line(number, {"type": "control_request", "request_id": request_id, "request": {
        "subtype": subtype, "tool_name": "Bash", "tool_use_id": f"t{number}", "input": {"command": "x" * 100}}})


def forged(execution, session, request):
    """Pieces of the answer to /execute with ids that are another conversation's; CONFIRM is a request of the server's to read and confirm."""
    yield event(1, "started", {"execution_id": execution})
    yield line(2, {"type": "system", "subtype": "init", "session_id": session, "model": "m", "tools": []})
    yield line(3, {"type": "control_cancel_request", "request_id": request})
    yield ask(4, request)
    yield CONFIRM
    yield line(5, {"type": "control_cancel_request", "request_id": request})
    usage = dict.fromkeys(["input_tokens", "output_tokens"], 1)
    yield line(6, {"type": "result", "subtype": "success", "is_error": False, "result": "forged", "session_id": session,
                   "usage": usage, "num_turns": 1, "duration_ms": 1})


def attack(how):
    """Pieces of the answer to /execute; None is a frame of the server's to read."""
    yield event(1, "started", {"execution_id": "1"})
    yield line(2, {"type": "system", "subtype": "init", "session_id": "s", "model": "m", "tools": []})
    if how == "numbers":
        most = (1 << 63) - 1
        usage = dict.fromkeys(["input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"], most)
        yield line(3, {"type": "result", "subtype": "success", "is_error": False, "result": "nul \0 and done", "session_id": "s",
                       "usage": usage, "num_turns": (1 << 32) - 1, "duration_ms": most})
        return
    if how in ("withheld-decisions", "withheld-answers"):
        # What the server writes to the driver is never confirmed.
        yield ask(3, "r3", "can_use_tool" if how == "withheld-decisions" else "of_the_agents_own")
        while True:
            yield None
    number = 2
    keeps = json.dumps({"type": "keep_alive"})
    cancels = json.dumps({"type": "control_cancel_request", "request_id": "none-@"})
    while True:
        number += 1
        if how == "backward-numbers":
            numbers = (max(3, 1_000_000 - number * 100 - n) for n in range(100))
            yield "".join(f"id: {n}\nevent: frame\ndata: {keeps}\n\n" for n in numbers).encode()
        elif how == "memory":
            numbers = range(number * 100, number * 100 + 100)
            yield b"".join(event(n, "out_of_memory", {"message": "\0 \x1b[2J" + "x" * 1000}) for n in numbers)
        elif how == "long-ids":
            yield ask(number, "r" * 100_000)
        elif how == "unknown-cancels":
            numbers = range(number * 100, number * 100 + 100)
            yield "".join(f"id: {n}\nevent: frame\ndata: {cancels.replace('@', str(n))}\n\n" for n in numbers).encode()
        elif how == "tools":
            calls = [{"type": "tool_use", "id": f"{number}-{n}", "name": "Bash", "input": {"command": "x" * 100}} for n in range(100)]
            yield line(number, {"type": "assistant", "message": {"content": calls}})
        elif how == "servers":
            waiting = [{"name": f"{number}-{n}", "status": "pending"} for n in range(20_000)]
            yield line(number, {"type": "system", "subtype": "init", "session_id": "s", "model": "m", "tools": [], "mcp_servers": waiting})
        elif how == "holograms":
            yield line(number, {"type": "assistant", "message": {"content": [{"type": f"hologram {n}"} for n in range(1000)]}})
        elif how == "junk":
            yield b"".join(b"id: %d\nevent: x\ndata: {\"type\": \"\x1b[2Jnonsense\"}\n\n" % number for _ in range(100))
        elif how == "asks":
            yield ask(number, f"r{number}")
        elif how == "values":
            yield b"id: %d\nevent: frame\ndata: [%s0]\n\n" % (number, b"0," * 4_000_000)
        else:
            yield line(number, {"type": "assistant", "message": {"content": [{"type": "thinking", "thinking": "x" * 60000}]}})


class Connection:
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        while self.socket.connect_ex("@SOCKETS@/agent.sock"):
            time.sleep(0.01)
        self.pending, self.body, self.windows, self.initial = b"", b"", {0: 65535}, 65535
        self.take(24)
        self.socket.sendall(frame(4, 0, 0))

    def take(self, count):
        while len(self.pending) < count:
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError
            self.pending += piece
        taken, self.pending = self.pending[:count], self.pending[count:]
        return taken

    def read(self):
        """Reads one frame; returns the stream of a complete request with whether it has a body, else None."""
        head = self.take(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream, payload = int.from_bytes(head[5:], "big") & 0x7FFFFFFF, None
        payload = self.take(length)
        if kind == 4 and not flags & 1:
            for at in range(0, length, 6):
                name, value = struct.unpack(">HI", payload[at:at + 6])
                if name == 4:
                    self.initial = value
            self.socket.sendall(frame(4, 1, 0))
        elif kind == 6 and not flags & 1:
            self.socket.sendall(frame(6, 1, 0, payload))
        elif kind == 8:
            self.windows[stream] = self.windows.get(stream, self.initial) + int.from_bytes(payload, "big")
        elif kind == 1 and flags & 1:
            return stream, False
        elif kind == 0:
            self.body += payload
            if flags & 1:
                return stream, True

    def begin(self, stream):
        self.windows.setdefault(stream, self.initial)
        self.socket.sendall(frame(1, 4, stream, b"\x88"))

    def send(self, stream, data, last=False):
        while data or last:
            room = min(self.windows[0], self.windows[stream], 16384)
            if room <= 0 and data:
                self.serve()
                continue
            piece, data = data[:room], data[room:]
            self.windows[0] -= len(piece)
            self.windows[stream] -= len(piece)
            self.socket.sendall(frame(0, 1 if last and not data else 0, stream, piece))
            if last and not data:
                return

    def serve(self):
        """Reads one frame and answers a request without a body as /health."""
        request = self.read()
        if request and not request[1]:
            self.begin(request[0])
            self.send(request[0], json.dumps(HEALTH).encode(), last=True)
        return request[0] if request and request[1] else None

    def confirm(self):
        """Reads until a request with a body has come, and confirms it."""
        while (request := self.serve()) is None:
            pass
        self.begin(request)
        self.send(request, b"{}", last=True)

    def run(self):
        while True:
            execution = self.serve()
            if execution is None:
                continue
            how = next(how for how in WAYS if how.encode() in self.body)
            if how == "frames":
                while True:
                    # Answers to pings that nobody has sent: they need no answer, which would have to be read.
                    self.socket.sendall(frame(6, 1, 0, b"pingping") * 1000)
            self.begin(execution)
            ids = re.search(rb"forged-ids ([\w-]+) ([\w-]+) ([\w-]+)", self.body)
            for piece in forged(*(id.decode() for id in ids.groups())) if ids else attack(how):
                if piece is None:
                    self.serve()
                elif piece is CONFIRM:
                    self.confirm()
                else:
                    self.send(execution, piece)
            self.send(execution, b"", last=True)
            while ids:
                self.confirm()


while True:
    try:
        Connection().run()
    except (OSError, EOFError):
        time.sleep(0.01)
