# So many MiB of pages, each known by its content; so many MB of them are written anew every second, some become zeros, some are given back.
# With the word "fork", a child with a copy of its own does the same, slower; with the word "huge", huge pages are asked for; with the word "direct", some pages are
# read from a file past the page cache. Says how long it stood still by its own clock. With the word "pace" it says after each such gap how fast it has worked before,
# and takes shorter ones for gaps.
import collections
import ctypes
import mmap
import os
import random
import signal
import struct
import sys
import time
from array import array

PAGE, SLICE = 4096, 0.01
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
size, rate = int(sys.argv[1]) << 20, int(sys.argv[2]) * 1_000_000
identity, generator = os.urandom(8).hex(), random.Random(os.urandom(8))
noise = [generator.randbytes(PAGE - 24) for _ in range(61)]
zeros = bytes(PAGE)


class Heap:
    """Page n holds n, its version and noise; version 0 is a page of zeros."""

    def __init__(self, pages):
        self.memory = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if "huge" in sys.argv:
            self.memory.madvise(mmap.MADV_HUGEPAGE)
        self.versions = array("Q", bytes(8 * pages))
        self.count, self.next = pages, 0
        for page in range(pages):
            self.write(page, 1)

    def content(self, page):
        version = self.versions[page]
        if version == 0:
            return zeros
        return struct.pack("<QQ", page, version) + noise[(page + version) % 61] + struct.pack("<Q", version)

    def write(self, page, version):
        self.versions[page] = version
        self.memory[page * PAGE : (page + 1) * PAGE] = self.content(page)

    def change(self, pages):
        for _ in range(pages):
            page, what = generator.randrange(self.count), generator.random()
            if what < 0.02:
                self.memory.madvise(mmap.MADV_DONTNEED, page * PAGE, PAGE)
                self.versions[page] = 0
            elif what < 0.04:
                self.write(page, 0)
            else:
                self.write(page, self.versions[page] + 1)

    def check(self, until):
        """Checks pages in turn; whether the last one was reached."""
        while time.monotonic() < until:
            for _ in range(32):
                page = self.next
                if self.memory[page * PAGE : (page + 1) * PAGE] != self.content(page):
                    print("bad page", page, "version", self.versions[page], flush=True)
                    os._exit(3)
                self.next += 1
                if self.next == self.count:
                    self.next = 0
                    return True
        return False


class Direct:
    """A file open past the page cache (O_DIRECT): what is read from it is written into memory by the device, not by the processor."""

    def __init__(self):
        self.file = os.open("/tmp/direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
        self.block = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def change(self, heap):
        page = generator.randrange(heap.count)
        heap.versions[page] += 1
        self.block[:] = heap.content(page)
        os.pwrite(self.file, self.block, 0)
        os.preadv(self.file, [memoryview(heap.memory)[page * PAGE : (page + 1) * PAGE]], 0)


class Pace:
    """How many pages were changed and checked in the last two minutes, and in how much time without the rests between: by the clock, and of a processor."""

    def __init__(self):
        self.lines, self.said = collections.deque(maxlen=1200), (0.0, 0.0)
        self.begin(time.time())

    def begin(self, now):
        self.since, self.pages, self.busy, self.processor = now, 0, 0.0, 0.0

    def add(self, pages, busy, processor):
        self.pages, self.busy, self.processor, now = self.pages + pages, self.busy + busy, self.processor + processor, time.time()
        if now - self.since >= 0.1:
            self.lines.append(f"pace {self.since:.3f} {now:.3f} {self.pages} {self.busy:.4f} {self.processor:.4f}")
            self.begin(now)

    def say(self, gap):
        """Once a second, or after a longer gap than the last time: a log of some MB is begun anew by the kubelet, and the gap of a move would be lost with the old one."""
        at, last = self.said
        if gap > last or time.time() - at > 1:
            print(*self.lines, sep="\n", flush=True)
            self.said = (time.time(), gap)


heap = Heap(size // PAGE)
pace = Pace() if "pace" in sys.argv else None
LONG = 0.025 if pace else 0.04
direct = Direct() if "direct" in sys.argv else None
parent = os.getpid()
child = os.fork() if "fork" in sys.argv else None
if child == 0:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    # Half of what it shares with its parent until one of them writes.
    while os.getppid() == parent or os.getppid() == 0:
        heap.change(8)
        heap.check(time.monotonic() + 0.002)
        time.sleep(0.05)
    os._exit(0)
turn, last, debt = 0, time.time(), 0.0
while True:
    now = time.time()
    # The monotonic clock is restored; this one is not.
    if now - last > LONG:
        print("gap", round((now - last) * 1000), flush=True)
        if pace:
            pace.say(now - last)
    debt = min(debt + (now - last) * rate / PAGE, rate / PAGE * 0.05)
    last, begin, first, changed = now, (time.monotonic(), time.thread_time()), heap.next, int(debt)
    heap.change(changed)
    if direct:
        direct.change(heap)
    debt -= changed
    ended = heap.check(time.monotonic() + SLICE / 2)
    if pace:
        pace.add(changed + (heap.next - first) % heap.count, time.monotonic() - begin[0], time.thread_time() - begin[1])
    if ended:
        turn += 1
        print("good", turn, identity, flush=True)
        if child and os.waitpid(child, os.WNOHANG) != (0, 0):
            print("bad child", flush=True)
            os._exit(3)
    time.sleep(max(0.0, last + SLICE - time.time()))
