# Sends numbers to the other container and counts what comes back, in order, over one connection.
import os, socket, time
while True:
    try: c = socket.create_connection(('127.0.0.1', 7000)); break
    except OSError: time.sleep(0.05)
f = c.makefile('rwb'); n = 0
while True:
    n += 1
    try:
        f.write(b'%d\n' % n); f.flush(); back = int(f.readline())
        if back != n: raise ValueError(f'{back} instead of {n}')
    except Exception as e: open('/data/error', 'w').write(repr(e)); time.sleep(1000)
    open('/data/echoes.new', 'w').write(str(n)); os.rename('/data/echoes.new', '/data/echoes'); time.sleep(0.002)
