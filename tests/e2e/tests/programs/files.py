# Keeps files of many kinds in all places that a pod can write to, and compares them again and again.
import hashlib
import mmap
import os
import signal
import socket
import stat
import sys
import time

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
identity, turn = os.urandom(8).hex(), 0


def fail(what):
    print("bad", what, flush=True)
    os._exit(3)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


wanted = {}
for path, size in {"/disk/big": 20 << 20, "/memory/tmpfs": 3 << 20, "/srv/rootfs": 1 << 20, "/dev/shm/seen": 1 << 16}.items():
    with open(path, "wb") as file:
        file.write(os.urandom(size))
    wanted[path] = digest(path)

# The container's root filesystem: new, changed and removed files, links, modes, owners, holes, odd names.
os.makedirs("/srv/deep/er", mode=0o750)
open("/srv/deep/er/mode", "w").close()
os.chown("/srv/deep/er/mode", 1234, 5678)
os.chmod("/srv/deep/er/mode", 0o4711)
os.symlink("../rootfs", "/srv/deep/link")
os.link("/srv/rootfs", "/srv/deep/hard")
os.mkfifo("/srv/deep/fifo")
with open("/srv/deep/hole", "wb") as file:
    file.truncate(64 << 20)
    file.seek(32 << 20)
    file.write(b"island")
odd = "/srv/deep/odd \n\t\u00e4\u4e16 name"
open(odd, "w").write("odd")
with open("/etc/issue", "a") as file:
    file.write(identity)
os.unlink("/etc/debian_version")
os.setxattr("/srv/rootfs", "user.godwit", identity.encode())

# Open files: one that grows, one mapped from a disk volume, one from shared memory, one removed from the memory volume.
log = open("/disk/log", "a")
mapped = open("/disk/mapped", "wb+")
mapped.truncate(4096)
view = mmap.mmap(mapped.fileno(), 4096)
shared = open("/dev/shm/mapped", "wb+")
shared.truncate(4096)
segment = mmap.mmap(shared.fileno(), 4096)
removed = open("/memory/removed", "w+")
removed.write(identity)
removed.flush()
os.unlink("/memory/removed")

while True:
    turn += 1
    for path, hash in wanted.items():
        if digest(path) != hash:
            fail(path)
    mode = os.stat("/srv/deep/er/mode")
    if (stat.S_IMODE(mode.st_mode), mode.st_uid, mode.st_gid) != (0o4711, 1234, 5678):
        fail("mode and owner")
    if os.readlink("/srv/deep/link") != "../rootfs" or not os.path.samefile("/srv/deep/hard", "/srv/rootfs"):
        fail("links")
    if not stat.S_ISFIFO(os.stat("/srv/deep/fifo").st_mode) or open(odd).read() != "odd":
        fail("fifo or odd name")
    hole = os.stat("/srv/deep/hole")
    if hole.st_size != 64 << 20 or hole.st_blocks * 512 > 4 << 20 or open("/srv/deep/hole", "rb").read()[32 << 20:(32 << 20) + 6] != b"island":
        fail(f"hole of {hole.st_size} bytes in {hole.st_blocks} blocks")
    if os.path.exists("/etc/debian_version") or not open("/etc/issue").read().endswith(identity):
        fail("changed and removed files of the image")
    if os.getxattr("/srv/rootfs", "user.godwit").decode() != identity:
        fail("extended attribute")
    log.write(f"{turn}\n")
    log.flush()
    if open("/disk/log").read().split() != [str(one) for one in range(1, turn + 1)]:
        fail("the log that grows")
    for what, memory, path in (("volume", view, "/disk/mapped"), ("shm", segment, "/dev/shm/mapped")):
        if turn > 1 and int(memory[:16]) != turn - 1:
            fail(f"mapping of {what}")
        memory[:16] = b"%016d" % turn
        with open(path, "rb") as file:
            if int(file.read(16)) != turn:
                fail(f"file below the mapping of {what}")
    removed.seek(0)
    if removed.read() != identity:
        fail("removed file")
    print("good", turn, identity, flush=True)
    time.sleep(0.1)
