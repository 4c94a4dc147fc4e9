# One odd thing, named by the first argument; then counts, so that one sees it live on.
import ctypes, fcntl, os, signal, socket, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True); what = sys.argv[1]
if what == 'inotify': i = libc.inotify_init(); libc.inotify_add_watch(i, b'/opt', 0xfff)
elif what == 'message-queue': libc.syscall(240, b'queue', 0o102, 0o600, None)        # mq_open(O_CREAT|O_RDWR)
elif what == 'packet-pipe': p = os.pipe2(os.O_DIRECT); os.write(p[1], b'one'); os.write(p[1], b'two')
elif what == 'unix-outside': u = socket.socket(socket.AF_UNIX); u.connect('/data/outside')
elif what == 'hard-link': f = open('/root/name', 'w+'); f.write('kept'); f.flush(); os.link('/root/name', '/root/other'); os.unlink('/root/name')
elif what == 'semaphore':                                                            # as sem_open makes it: linked under another name, then the first one gone
    f = open('/dev/shm/temporary', 'w+b'); f.truncate(32); os.link('/dev/shm/temporary', '/dev/shm/sem.godwit'); os.unlink('/dev/shm/temporary')
elif what == 'stopped': k = subprocess.Popen(['sleep', '1000']); os.kill(k.pid, signal.SIGSTOP)
elif what == 'zombie': k = subprocess.Popen(['true']); time.sleep(.2)
elif what == 'namespace': 
    if os.fork() == 0: libc.unshare(0x14000000); time.sleep(1000)                     # CLONE_NEWUSER, CLONE_NEWUTS
elif what == 'netlink': n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); n.bind((0, 0))
elif what == 'raw': n = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
elif what == 'packet': n = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
elif what == 'half-open':
    l = socket.socket(); l.bind(('127.0.0.1', 9000)); l.listen(0); waiting = [socket.socket() for _ in range(4)]
    for w in waiting: w.setblocking(False); w.connect_ex(('127.0.0.1', 9000))
elif what == 'accept-queue':
    l = socket.socket(); l.bind(('127.0.0.1', 9000)); l.listen(8); waiting = socket.create_connection(('127.0.0.1', 9000)); waiting.send(b'hello')
elif what == 'closing':
    l = socket.socket(); l.bind(('127.0.0.1', 9000)); l.listen(8); a = socket.create_connection(('127.0.0.1', 9000)); b, _ = l.accept(); a.shutdown(socket.SHUT_WR)
elif what == 'dev-file': f = open('/dev/mine', 'w+'); f.write('in /dev'); f.flush()
elif what == 'cgroup-file': f = open([p for p in ('/sys/fs/cgroup/memory/memory.usage_in_bytes', '/sys/fs/cgroup/cgroup.stat') if os.path.exists(p)][0])
elif what == 'proc-file': f = open('/proc/self/stat'); g = open('/proc/meminfo'); h = os.open('/proc/self/fd', os.O_RDONLY)
elif what == 'token-file': f = open('/var/run/secrets/kubernetes.io/serviceaccount/token')
elif what == 'hosts-file': f = open('/etc/hosts')
elif what == 'deleted-directory': os.mkdir('/root/d'); os.chdir('/root/d'); os.rmdir('/root/d')
elif what == 'append': f = open('/data/log', 'a'); f.write('x' * 100); f.flush()
elif what == 'huge-mapping': import mmap; m = mmap.mmap(-1, 1 << 36, flags=0x4022, prot=3)   # 64 GiB, MAP_NORESERVE
elif what == 'pidfd': k = subprocess.Popen(['sleep', '1000']); f = os.pidfd_open(k.pid)
elif what == 'signalfd': libc.signalfd(-1, b'\x02' + b'\0' * 127, 0)
elif what == 'timer': signal.signal(signal.SIGALRM, lambda *a: None); signal.setitimer(signal.ITIMER_REAL, 1, 1)
elif what == 'tty': m, s = os.openpty()
elif what != 'nothing': raise SystemExit('unknown')
n = 0
while True:
    n += 1; open('/data/count.new', 'w').write(str(n)); os.rename('/data/count.new', '/data/count'); time.sleep(0.01)
