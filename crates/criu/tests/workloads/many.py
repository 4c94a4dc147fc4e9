# Everything at once: children, threads, pipes, unix sockets, locks, unlinked files, eventfd, epoll, timerfd, signals, shared memory.
# Writes one line of facts whenever it is asked by SIGUSR1; every fact must be the same before and after a move.
import ctypes, fcntl, mmap, os, select, signal, socket, struct, sys, tempfile, threading, time

libc = ctypes.CDLL(None, use_errno=True)
shared = mmap.mmap(-1, 4096)                      # anonymous, shared with the children
posix = open('/dev/shm/godwit', 'w+b'); posix.truncate(4096); shm = mmap.mmap(posix.fileno(), 4096)
heap = bytearray(os.urandom(3 << 20))
pipe_r, pipe_w = os.pipe(); os.write(pipe_w, b'in the pipe')
a, b = socket.socketpair(); a.send(b'in the pair')
server = socket.socket(socket.AF_UNIX); server.bind('/tmp/sock'); server.listen()
client = socket.socket(socket.AF_UNIX); client.connect('/tmp/sock'); conn, _ = server.accept(); client.send(b'unix stream')
abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); abstract.bind('\0godwit')
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(('127.0.0.1', 5353))
listener = socket.socket(); listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); listener.bind(('127.0.0.1', 8080)); listener.listen()
tcp = socket.create_connection(('127.0.0.1', 8080)); peer, _ = listener.accept(); tcp.send(b'tcp bytes')
lock = open('/root/lock', 'w'); fcntl.flock(lock, fcntl.LOCK_EX)
record = open('/data/record', 'w+'); record.write('x' * 100); record.flush(); fcntl.lockf(record, fcntl.LOCK_EX, 10, 5)
gone = open('/root/gone', 'w+'); gone.write('unlinked'); gone.flush(); os.unlink('/root/gone')
big = open('/tmp/big', 'w+b'); big.write(b'B' * (2 << 20)); big.flush(); os.unlink('/tmp/big')
efd = libc.eventfd(7, 0); tfd = libc.timerfd_create(1, 0)
libc.timerfd_settime(tfd, 0, struct.pack('4q', 3600, 0, 3600, 0), None)
ep = select.epoll(); ep.register(pipe_r, select.EPOLLIN); ep.register(efd, select.EPOLLIN); ep.register(tfd, select.EPOLLIN)
memfd = os.memfd_create('m'); os.write(memfd, b'memfd')
fifo = '/tmp/fifo'; os.mkfifo(fifo); ff = os.open(fifo, os.O_RDWR); os.write(ff, b'fifo')
device = open('/dev/null', 'w'); urandom = open('/dev/urandom', 'rb')
os.chdir('/root'); os.umask(0o027)

ticks = [0, 0]
def tick(n):
    while True: ticks[n] += 1; time.sleep(0.01)
for n in range(2): threading.Thread(target=tick, args=(n,), daemon=True).start()
kids = []
for n in range(3):
    pid = os.fork()
    if pid == 0:
        if n == 1: os.setsid()
        if n == 2 and os.fork() == 0: time.sleep(0.1)     # a grandchild
        while True: shared[n * 8:n * 8 + 8] = struct.pack('Q', struct.unpack('Q', shared[n * 8:n * 8 + 8])[0] + 1); time.sleep(0.01)
    kids.append(pid)

def alive(pid):
    try: os.kill(pid, 0); return True
    except OSError: return False
def locked(path, how):
    pid = os.fork()
    if pid == 0:
        f = open(path, 'r+')
        try: how(f); os._exit(0)
        except OSError: os._exit(1)
    return os.waitpid(pid, 0)[1] != 0
def peek(fd): 
    s = socket.socket(fileno=os.dup(fd)); d = s.recv(100, socket.MSG_PEEK); s.close(); return d.decode()
def facts():
    import hashlib
    os.lseek(memfd, 0, 0); gone.seek(0); big.seek(0)
    before = list(ticks), bytes(shared[:24]); time.sleep(0.2); after = list(ticks), bytes(shared[:24])
    return dict(heap=hashlib.sha256(heap).hexdigest(), pipe=struct.unpack('i', fcntl.ioctl(pipe_r, 0x541b, b'\0' * 4))[0], pair=peek(b.fileno()), unix=peek(conn.fileno()),
        tcp=peek(peer.fileno()), flock=locked('/root/lock', lambda f: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)), posix=locked('/data/record', lambda f: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)),
        gone=gone.read(), big=len(big.read()), memfd=os.read(memfd, 99).decode(), epoll=sorted(fd for fd, _ in ep.poll(0)), kids=[alive(k) for k in kids], threads=threading.active_count(),
        running=[x != y for x, y in zip(before[0] + list(struct.unpack('3Q', before[1])), after[0] + list(struct.unpack('3Q', after[1])))],
        shm=bytes(shm[:5]).decode(errors='replace'), cwd=os.getcwd(), umask=[os.umask(0o027), os.umask(0o027)][0], pid=os.getpid(), fds=len(os.listdir('/proc/self/fd')), host_is_set=bool(os.uname().nodename))
shm[:5] = b'POSIX'
def asked(*_):
    with open('/data/facts.new', 'w') as f: f.write(repr(facts()))
    os.rename('/data/facts.new', '/data/facts')
signal.signal(signal.SIGUSR1, asked); signal.siginterrupt(signal.SIGUSR1, False)
os.mknod('/data/ready')                          # without a descriptor, which would count
while True: time.sleep(0.05)
