# Serves connections that a test holds on to. The first line says what a connection is for:
#   ask          every further line is answered by IDENTITY, the number of the answer on this connection, and the line
#   echo         every byte comes back
#   full N M     N bytes are sent at once; M bytes are left unread until "go" was said on another connection, then their digest is the answer
#   go           see full
#   stream       each line is a number of bytes, which are sent
#   gap          the longest time that the program stood still since this was asked last, in nanoseconds by CLOCK_REALTIME
#   dial IP PORT a connection of its own to there: a numbered line every 10 ms; what comes from there comes back
import asyncio
import hashlib
import os
import resource
import sys
import time

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
identity = os.urandom(8).hex()
go = asyncio.Event()
longest = 0


async def watch():
    global longest
    before = time.time_ns()
    while True:
        await asyncio.sleep(0.001)
        now = time.time_ns()
        longest = max(longest, now - before)
        before = now


def pattern(length):
    block = hashlib.sha256(b"full").digest()
    return (block * (length // len(block) + 1))[:length]


async def dial(ip, port):
    reader, writer = await asyncio.open_connection(ip, int(port))

    async def count():
        n = 0
        while True:
            n += 1
            writer.write(b"%s %d\n" % (identity.encode(), n))
            await writer.drain()
            await asyncio.sleep(0.01)

    task = asyncio.create_task(count())
    while line := await reader.readline():
        writer.write(line)
    task.cancel()


async def serve(reader, writer):
    global longest
    what = (await reader.readline()).split()
    if what[0] == b"ask":
        n = 0
        while line := await reader.readline():
            n += 1
            writer.write(b"%s %d %s" % (identity.encode(), n, line))
            await writer.drain()
    elif what[0] == b"echo":
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    elif what[0] == b"full":
        reader._transport.pause_reading()
        writer.write(pattern(int(what[1])))
        await go.wait()
        reader._transport.resume_reading()
        data = await reader.readexactly(int(what[2]))
        writer.write(hashlib.sha256(data).hexdigest().encode() + b"\n")
        await writer.drain()
        await reader.read()
    elif what[0] == b"go":
        go.set()
        writer.write(b"gone\n")
    elif what[0] == b"stream":
        while line := await reader.readline():
            left = int(line)
            while left > 0:
                writer.write(bytes(min(left, 1 << 16)))
                left -= 1 << 16
                await writer.drain()
    elif what[0] == b"gap":
        writer.write(b"%d\n" % longest)
        longest = 0
    elif what[0] == b"dial":
        await dial(what[1].decode(), what[2])
    writer.close()


async def handle(reader, writer):
    try:
        await serve(reader, writer)
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        print("bad", error, flush=True)


async def main():
    server = await asyncio.start_server(handle, "0.0.0.0", int(sys.argv[1]), backlog=4096, limit=1024)
    print("good 1", identity, flush=True)
    watching = asyncio.create_task(watch())
    async with server:
        await server.serve_forever()


asyncio.run(main())
