# So many open files, processes or threads, which rest, and a loop of one millisecond that says how long it stood still by its own clock, and each second that all are there.
#
#   crowd.py files|processes|threads COUNT
#
#   output    gap MILLISECONDS
#             good TURN IDENTITY
import ctypes
import os
import resource
import signal
import sys
import threading
import time

what, count = sys.argv[1], int(sys.argv[2])
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
identity = os.urandom(8).hex()
files, children = [], []
if what == "files":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for n in range(count):
        # A hundred files, each open many times at a place of its own.
        files.append(os.open(f"/tmp/file-{n % 100}", os.O_RDWR | os.O_CREAT, 0o600))
        os.lseek(files[-1], n, os.SEEK_SET)
elif what == "processes":
    for _ in range(count - 1):
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
            while True:
                signal.pause()
        children.append(child)
else:
    threading.stack_size(1 << 17)
    rest = threading.Event()
    for _ in range(count - 1):
        threading.Thread(target=rest.wait, daemon=True).start()


def complete():
    if what == "files":
        return all(os.lseek(file, 0, os.SEEK_CUR) == n for n, file in enumerate(files))
    if what == "processes":
        return all(os.waitpid(child, os.WNOHANG) == (0, 0) for child in children)
    return len(os.listdir("/proc/self/task")) == count


turn, said, last = 0, 0.0, time.time()
while True:
    now = time.time()
    # The monotonic clock is restored; this one is not.
    if now - last > 0.01:
        print("gap", round((now - last) * 1000), flush=True)
    last = now
    if now - said > 1:
        if not complete():
            print("bad", what, flush=True)
            os._exit(3)
        turn, said = turn + 1, now
        print("good", turn, identity, flush=True)
        # What this took is no gap.
        last = time.time()
    time.sleep(0.001)
