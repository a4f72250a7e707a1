# Sends requests to the workspace's proxy byte by byte, each after the response to the one before. Prints the responses as a JSON list
# of {head, body, whole}; `whole` is false if the connection ended before the response did.
# Arguments: the proxy's socket; how often to do it all; a JSON list of connections, each a list of requests, in which `{n}` stands for
# the number of the repetition.
import json
import socket
import sys

LIMIT = 20


def chunks(stream):
    body = b""
    while line := stream.readline():
        size = int(line, 16)
        data = stream.read(size)
        body += data
        if len(data) < size or not stream.readline().endswith(b"\r\n"):
            break
        if size == 0:
            return body, True
    return body, False


def response(stream, method):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        head += line
        if not line:
            return head, b"", False
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        return head, *chunks(stream)
    length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in lower else 0
    body = b"" if method == "HEAD" else stream.read(length)
    return head, body, method == "HEAD" or len(body) == length


proxy, times, connections = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
told = []
for number in range(times):
    for requests in connections:
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as stream:
            connection.settimeout(LIMIT)
            connection.connect(proxy)
            for request in requests:
                connection.sendall(request.replace("{n}", str(number)).encode("latin-1"))
                head, body, whole = response(stream, request.split(" ")[0])
                told.append({"head": head.decode("latin-1"), "body": body.decode("latin-1"), "whole": whole})
print(json.dumps(told))
