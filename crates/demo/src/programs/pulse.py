# A process that counts. Every tick it draws a random word and folds it into a chain that is only in its memory, so that two processes that go on from the same
# memory can never tell the same story. Each tick goes to standard output (if LOG is not 0) and, with the words of the last ticks, in a datagram to the witness.
#
#   pulse.py ADDRESS PORT PERIOD_MS LOG
#
#   output    pulse IDENTITY N WORD CHAIN REALTIME_NS GAP_NS
#   datagram  the same, then N:GAP_NS,… of the longest gaps of late
#
# CLOCK_REALTIME, because CRIU restores the monotonic clock as if no time had passed. SIGUSR1 ends it with code 7.
import collections
import hashlib
import os
import signal
import socket
import sys
import time

address, port, period, log = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / 1000, sys.argv[4] != "0"
signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
identity, chain, n = os.urandom(8).hex(), "", 0
gaps = collections.deque(maxlen=32)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setblocking(False)
last = time.clock_gettime_ns(time.CLOCK_REALTIME)
due = time.monotonic()
while True:
    now = time.clock_gettime_ns(time.CLOCK_REALTIME)
    n += 1
    word = os.urandom(4).hex()
    chain = hashlib.sha256((chain + word).encode()).hexdigest()[:16]
    gap, last = now - last, now
    if gap > 1.5e9 * period + 5e6:
        gaps.append(f"{n}:{gap}")
    line = f"pulse {identity} {n} {word} {chain} {now} {gap}"
    if log:
        os.write(1, line.encode() + b"\n")
    try:
        sock.sendto(f"{line} {','.join(gaps)}".encode(), (address, port))
    except OSError:
        pass
    due = max(due + period, time.monotonic())
    time.sleep(max(0, due - time.monotonic()))
