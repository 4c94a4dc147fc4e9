# Holds one thing that CRIU cannot carry, named by its argument, and waits.
import ctypes
import os
import signal
import sys
import time

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
libc = ctypes.CDLL(None, use_errno=True)


def checked(result, what):
    if result < 0:
        print("cannot", what, os.strerror(ctypes.get_errno()), flush=True)
        os._exit(4)
    return result


match sys.argv[1]:
    case "inotify":
        fd = checked(libc.inotify_init1(0), "inotify_init1")
        checked(libc.inotify_add_watch(fd, b"/tmp", 0x100), "inotify_add_watch")
    case "io_uring":
        fd = checked(libc.syscall(425, 8, ctypes.create_string_buffer(120)), "io_uring_setup")
    case "packet-pipe":
        held = os.pipe2(os.O_DIRECT)
    case "message-queue":
        libc.mq_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
        fd = checked(libc.mq_open(b"/unmovable", os.O_CREAT | os.O_RDWR, 0o600, None), "mq_open")
    case "config-map":
        held = open("/configuration/file")
print("good 1", flush=True)
while True:
    time.sleep(1)
