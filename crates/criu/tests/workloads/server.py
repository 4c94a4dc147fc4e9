# Echoes numbers over TCP on loopback.
import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', 7000)); s.listen()
c, _ = s.accept(); f = c.makefile('rwb')
for line in f: f.write(line); f.flush()
