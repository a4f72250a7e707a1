# Sends requests with random faults to the workspace's proxy until the time is over, over several connections at once: heads and bodies that
# break off, are repeated, swapped, or carry another request. Prints how many it has sent, and how many were answered.
# Arguments: the proxy's socket; a seed; seconds; hosts that may be asked, separated by commas.
import random
import socket
import sys
import threading
import time

proxy, seed, seconds, hosts = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4].split(",")
until = time.monotonic() + seconds
sent, answered = [0] * 8, [0] * 8
METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "get", "GET "]
INNER = "GET /evil HTTP/1.1\r\nHost: x\r\n\r\n"


def request(rng):
    host, method = rng.choice(hosts), rng.choice(METHODS)
    target = rng.choice([f"http://{host}/hostile", f"{host}:80", "/hostile", f"http://{host}:80//a/../hostile", "*"])
    body = rng.choice(["", INNER, "5\r\nhello\r\n0\r\n\r\n", "x" * rng.randrange(3000), "POST /store HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n"])
    length = rng.choice([len(body), len(body) + 7, max(0, len(body) - 3), -1, "0x5"])
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    for line in [f"Content-Length: {length}", "Transfer-Encoding: chunked", "Expect: 100-continue", "Connection: close", "X-A: \x0b", "Host: other"]:
        if rng.random() < 0.3:
            lines.append(line)
    text = "\r\n".join(lines) + "\r\n\r\n" + body
    data = bytearray(text.encode("latin-1"))
    for _ in range(rng.choice([0, 0, 1, 3])):
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(3)] = bytes(rng.randrange(256) for _ in range(rng.randrange(4)))
    return bytes(data[: rng.choice([len(data), len(data), rng.randrange(len(data))])])


def work(number):
    rng = random.Random(seed * 100 + number)
    while time.monotonic() < until:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(0.2)
                connection.connect(proxy)
                for _ in range(rng.randrange(1, 5)):
                    connection.sendall(request(rng))
                    sent[number] += 1
                    if rng.random() < 0.7 and connection.recv(65536):
                        answered[number] += 1
        except OSError:
            pass


threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sum(sent), sum(answered))
