# Asks the workspace's proxy for a host that is not allowed, on many connections at once. Prints how many requests were refused with 403.
# Arguments: the proxy's socket; the host; how many connections; for how many seconds.
import asyncio
import sys
import time

proxy, host, count, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
request = f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
end = time.monotonic() + seconds


async def client():
    refused = 0
    while time.monotonic() < end:
        try:
            reader, writer = await asyncio.open_unix_connection(proxy)
        except OSError:
            await asyncio.sleep(0)
            continue
        try:
            while time.monotonic() < end:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
                refused += head.startswith(b"HTTP/1.1 403 ")
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
    return refused


async def clients():
    return sum(await asyncio.gather(*(client() for _ in range(count))))


print(asyncio.run(clients()))
