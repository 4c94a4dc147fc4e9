# Serves connections that a test holds on to. The first line says what a connection is for:
#   ask          every further line is answered by IDENTITY, the number of the answer on this connection, and the line
#   echo         every byte comes back
#   full N M     N bytes are sent at once; M bytes are left unread until "go" was said on another connection, then their digest is the answer
#   go           see full
#   stream       each line is a number of bytes, which are sent
#   gap          the longest time that the program stood still since this was asked last, in nanoseconds by CLOCK_REALTIME
#   dial IP PORT a connection of its own to there: a numbered line every 10 ms; what comes from there comes back
#   relay IP P   a connection of its own to a program like this one: every line goes there, every line from there comes back
#   inside NAME  how often it has asked itself over its connection "unix" or "ipv6"
#   half         once the other end has said its last byte: a numbered line every 10 ms
#   mute         ends its own direction at once and hears the other one to its end
#   heard        number and digest of the bytes that the last such connection brought
# On the next port it listens, too, but takes nobody in before "go" was said. Datagrams to the first port are answered as in "ask", by a socket without an address.
# All of that over IPv4 and, by sockets of their own, over IPv6.
import asyncio
import hashlib
import os
import resource
import socket
import sys
import time

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
identity = os.urandom(8).hex()
port = int(sys.argv[1])
go = asyncio.Event()
longest = 0
heard = b"nothing"
asked = {}


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
    try:
        while line := await reader.readline():
            writer.write(line)
    finally:
        task.cancel()
        writer.close()


async def ask_itself(name, reader, writer):
    writer.write(b"ask\n")
    asked[name] = 0
    while True:
        writer.write(b"%s\n" % name)
        line = await reader.readline()
        if line.split() != [identity.encode(), b"%d" % (asked[name] + 1), name]:
            print("bad", name, line, flush=True)
            return
        asked[name] += 1
        await asyncio.sleep(0.01)


async def relay(reader, writer, from_there, there):
    there.write(b"ask\n")
    try:
        while line := await reader.readline():
            there.write(line)
            await there.drain()
            writer.write(await from_there.readline())
            await writer.drain()
    finally:
        there.close()


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.counts = {}

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, peer):
        self.counts[peer] = self.counts.get(peer, 0) + 1
        self.transport.sendto(b"%s %d %s" % (identity.encode(), self.counts[peer], data), peer)


async def serve(reader, writer):
    global longest, heard
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
    elif what[0] == b"relay":
        await relay(reader, writer, *await asyncio.open_connection(what[1].decode(), int(what[2])))
    elif what[0] == b"inside":
        writer.write(b"%s %d\n" % (identity.encode(), asked.get(what[1], 0)))
    elif what[0] == b"half":
        await reader.read()
        n = 0
        while True:
            n += 1
            writer.write(b"%s %d\n" % (identity.encode(), n))
            await writer.drain()
            await asyncio.sleep(0.01)
    elif what[0] == b"mute":
        writer.write_eof()
        data = await reader.read()
        heard = b"%d %s" % (len(data), hashlib.sha256(data).hexdigest().encode())
    elif what[0] == b"heard":
        writer.write(heard + b"\n")


async def handle(reader, writer):
    try:
        await serve(reader, writer)
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        print("bad", error, flush=True)
    finally:
        # An error that is kept, as a reader keeps that of its connection, keeps this writer too: it would be closed when Python looks for cycles, after minutes.
        writer.close()


async def late(family, ip):
    listener = socket.create_server((ip, port + 1), family=family, backlog=64)
    await go.wait()
    return await asyncio.start_server(handle, sock=listener, limit=1024)


async def main():
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(handle, "0.0.0.0", port, backlog=4096, limit=1024)
    others = [await asyncio.start_unix_server(handle, "\0talker"), asyncio.create_task(late(socket.AF_INET, "0.0.0.0")), asyncio.create_task(watch())]
    others.append(asyncio.create_task(ask_itself(b"unix", *await asyncio.open_unix_connection("\0talker"))))
    try:
        others.append(await asyncio.start_server(handle, "::", port, backlog=4096, limit=1024))
        others.append(asyncio.create_task(late(socket.AF_INET6, "::")))
        others.append(asyncio.create_task(ask_itself(b"ipv6", *await asyncio.open_connection("::1", port))))
        datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        datagrams.bind(("::", port))
        others.append(await loop.create_datagram_endpoint(Datagrams, sock=datagrams))
    except OSError as error:
        print("no IPv6:", error, flush=True)
    others.append(await loop.create_datagram_endpoint(Datagrams, local_addr=("0.0.0.0", port)))
    print("good 1", identity, flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
