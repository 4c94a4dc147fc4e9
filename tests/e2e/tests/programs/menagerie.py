# One of everything that a process can hold. Twenty times a second all of it is used and compared with what must be there; any difference ends the process.
#
#   main ── pipes ── child "adder" (adds one)
#     │ ─── socketpair, shared memory ── child "prover" (proves that main's locks hold, counts in shared memory)
#     ├ threads: two that pass a ball, one that accepts on a unix socket
#     └ eventfd, timerfd, epoll, interval timer, a blocked and pending signal, unread bytes in a pipe, an unlinked file, a memfd, a file position
import fcntl
import hashlib
import mmap
import os
import queue
import select
import signal
import socket
import struct
import sys
import threading
import time

identity = os.urandom(8).hex()
os.makedirs("/tmp/menagerie", exist_ok=True)
os.chdir("/tmp/menagerie")
os.umask(0o027)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
# How long to wait for what must come. Longer than any freeze: while it stands still, time may go on.
PATIENCE = 60


def fail(what):
    print("bad", what, flush=True)
    os._exit(3)


def expect(what, seen, wanted):
    if seen != wanted:
        fail(f"{what}: {seen!r}, not {wanted!r}")


# Locks of both kinds, held by main for ever.
flocked = open("flock", "w")
fcntl.flock(flocked, fcntl.LOCK_EX)
ranged = open("range", "w+")
ranged.write("x" * 100)
ranged.flush()
fcntl.lockf(ranged, fcntl.LOCK_EX, 10, 50)

shared = mmap.mmap(-1, 4096)
to_adder, from_adder = os.pipe(), os.pipe()
prover_end, prover = socket.socketpair()

adder = os.fork()
if adder == 0:
    while True:
        number = struct.unpack("q", os.read(to_adder[0], 8))[0]
        os.write(from_adder[1], struct.pack("q", number + 1))

prover_pid = os.fork()
if prover_pid == 0:
    def locked(function, *arguments):
        try:
            function(*arguments)
            return "free"
        except OSError:
            return "locked"

    flock_file, range_file = open("flock"), open("range", "r+")
    while prover.recv(1):
        shared[:8] = struct.pack("q", struct.unpack("q", shared[:8])[0] + 1)
        one = locked(fcntl.flock, flock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        two = locked(fcntl.lockf, range_file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 50)
        prover.send(f"{one} {two}".encode())

# Blocked in every thread, and pending from now on.
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
os.kill(os.getpid(), signal.SIGUSR2)

# Threads: a ball between two, and a server on a unix socket.
there, back = queue.Queue(), queue.Queue()


def player():
    while True:
        back.put(there.get() + 1)


listener = socket.socket(socket.AF_UNIX)
if os.path.exists("door"):
    os.unlink("door")
listener.bind("door")
listener.listen()


def serve(connection):
    while data := connection.recv(100):
        connection.send(data.upper())


def accept():
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


threading.Thread(target=player, daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
visitor = socket.socket(socket.AF_UNIX)
visitor.connect("door")

# Files that only descriptors know.
gone = open("gone", "wb+")
content = os.urandom(1 << 20) + b"the end"
gone.write(content)
gone.flush()
os.unlink("gone")
digest = hashlib.sha256(content).hexdigest()
memfd = os.memfd_create("menagerie")
os.write(memfd, identity.encode())
position = open("position", "wb+")
position.write(b"0123456789")
position.seek(4)

# Unread bytes, events, timers, signals.
unread = os.pipe()
os.write(unread[1], b"unread" * 500)
event = os.eventfd(0)
timer = os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK)
os.timerfd_settime(timer, initial=0.02, interval=0.02)
epoll = select.epoll()
epoll.register(timer, select.EPOLLIN)
epoll.register(event, select.EPOLLIN)
alarms = [0]
signal.signal(signal.SIGALRM, lambda *_: alarms.__setitem__(0, alarms[0] + 1))
signal.setitimer(signal.ITIMER_REAL, 0.03, 0.03)

turn = 0
while True:
    turn += 1
    alarms_before = alarms[0]

    os.write(to_adder[1], struct.pack("q", turn))
    expect("adder", struct.unpack("q", os.read(from_adder[0], 8))[0], turn + 1)

    prover_end.send(b"?")
    expect("locks seen by the other process", prover_end.recv(100), b"locked locked")
    expect("shared memory", struct.unpack("q", shared[:8])[0], turn)

    there.put(turn)
    expect("ball", back.get(timeout=PATIENCE), turn + 1)

    visitor.send(b"visitor")
    expect("unix connection", visitor.recv(100), b"VISITOR")
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect("door")
        guest.send(b"guest")
        expect("unix listener", guest.recv(100), b"GUEST")

    gone.seek(0)
    expect("unlinked file", hashlib.sha256(gone.read()).hexdigest(), digest)
    expect("links of the unlinked file", os.fstat(gone.fileno()).st_nlink, 0)
    expect("memfd", os.pread(memfd, 100, 0).decode(), identity)
    expect("file position", os.lseek(position.fileno(), 0, os.SEEK_CUR), 4)

    expect("unread bytes", os.read(unread[0], 4000), b"unread" * 500)
    os.write(unread[1], b"unread" * 500)

    os.eventfd_write(event, 7)
    ready = set()
    deadline = time.monotonic() + PATIENCE
    while ready != {timer, event} and time.monotonic() < deadline:
        ready |= {fd for fd, _ in epoll.poll(1)}
    expect("epoll", ready, {timer, event})
    expect("eventfd", os.eventfd_read(event), 7)
    expect("timerfd", struct.unpack("Q", os.read(timer, 8))[0] > 0, True)

    expect("pending signals", signal.sigpending(), {signal.SIGUSR2})
    expect("umask", os.umask(0o027), 0o027)
    expect("directory", os.getcwd(), "/tmp/menagerie")
    expect("children", (os.waitpid(adder, os.WNOHANG)[0], os.waitpid(prover_pid, os.WNOHANG)[0]), (0, 0))

    deadline = time.monotonic() + PATIENCE
    while alarms[0] == alarms_before and time.monotonic() < deadline:
        time.sleep(0.01)
    if alarms[0] == alarms_before:
        fail("interval timer")
    print("good", turn, identity, os.getpid(), adder, prover_pid, threading.active_count() >= 4, flush=True)
    time.sleep(0.05)
