# Moves well until /tmp/watch is there; then it watches a directory, which CRIU cannot carry on an overlay.
import ctypes
import os
import signal
import time

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
libc = ctypes.CDLL(None, use_errno=True)
fd = None
turn = 0
while True:
    turn += 1
    if fd is None and os.path.exists("/tmp/watch"):
        fd = libc.inotify_init1(0)
        if fd < 0 or libc.inotify_add_watch(fd, b"/tmp", 0x100) < 0:
            print("bad: no watch", flush=True)
            os._exit(4)
        open("/tmp/watching", "w").close()
    print("good", turn, "late-watch", flush=True)
    time.sleep(0.1)
