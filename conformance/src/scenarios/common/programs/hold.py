# Holds silent connections to the workspace's proxy, and opens each again that is closed. Prints a line once all are open.
# Arguments: the proxy's socket; how many.
import select
import socket
import sys

proxy, count = sys.argv[1], int(sys.argv[2])
held, closed = {}, select.poll()


def hold_another():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(proxy)
    held[connection.fileno()] = connection
    closed.register(connection, select.POLLIN)


for _ in range(count):
    hold_another()
print(f"{count} are open", flush=True)
while True:
    for descriptor, _ in closed.poll():
        closed.unregister(descriptor)
        held.pop(descriptor).close()
        hold_another()
