# A WebSocket client (RFC 6455) of the standard library's, through the CONNECT proxy of the environment. Prints one JSON object.
# Arguments: ws or wss URL, the authority's certificate.
import base64
import hashlib
import json
import os
import socket
import ssl
import struct
import sys
from urllib.parse import urlsplit

url, ca = urlsplit(sys.argv[1]), sys.argv[2]
port = url.port or (443 if url.scheme == "wss" else 80)
proxy = urlsplit(os.environ["HTTPS_PROXY"])
stream = socket.create_connection((proxy.hostname, proxy.port), timeout=10)


def head():
    """The head of an answer, and not one byte more."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte:
            raise EOFError(data)
        data += byte
    return data.decode()


def exactly(size):
    data = b""
    while len(data) < size:
        more = stream.recv(size - len(data))
        if not more:
            raise EOFError(f"{len(data)} of {size} bytes")
        data += more
    return data


def send(opcode, payload):
    length = len(payload)
    if length < 126:
        size = struct.pack("!B", 0x80 | length)
    elif length < 65536:
        size = struct.pack("!BH", 0x80 | 126, length)
    else:
        size = struct.pack("!BQ", 0x80 | 127, length)
    mask = os.urandom(4)
    keys = (mask * (length // 4 + 1))[:length]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(length, "big")
    stream.sendall(bytes([0x80 | opcode]) + size + mask + masked)


def receive():
    first, second = exactly(2)
    if second & 0x80:
        raise ValueError("a server does not mask")
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", exactly(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", exactly(8))
    return first, exactly(length)


authority = f"{url.hostname}:{port}"
stream.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
told = {"connect": head().splitlines()[0].split(" ")[1]}
if told["connect"] == "200":
    if url.scheme == "wss":
        stream = ssl.create_default_context(cafile=ca).wrap_socket(stream, server_hostname=url.hostname)
    key = base64.b64encode(os.urandom(16)).decode()
    stream.sendall(
        f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    answer = head()
    told["status"] = answer.split(" ")[1]
    accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    told["accepted"] = f"sec-websocket-accept: {base64.b64encode(accept).decode()}\r\n".lower() in answer.lower()

    text, binary = "一軒 one roof", os.urandom(70_000)
    send(0x1, text.encode())
    told["text"] = receive() == (0x81, text.encode())
    send(0x2, binary)
    told["binary"] = receive() == (0x82, binary)
    send(0x9, b"are you there")
    told["pong"] = receive() == (0x8A, b"are you there")
    send(0x8, struct.pack("!H", 1000) + b"done")
    opcode, reason = receive()
    told["closed"] = [opcode, struct.unpack("!H", reason[:2])[0]]
    # The server closes the connection first (RFC 6455, 7.1.1).
    told["rest"] = len(stream.recv(1))
print(json.dumps(told))
