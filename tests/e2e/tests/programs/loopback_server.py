# Answers on 127.0.0.1 and says how many connections it has ever accepted.
import os
import signal
import socket
import sys
import threading
import time

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
accepted = 0


def serve(connection):
    with connection:
        for line in connection.makefile("rb"):
            connection.sendall(b"%d\n" % (int(line) * 2))


def accept():
    global accepted
    while True:
        connection, _ = listener.accept()
        accepted += 1
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


threading.Thread(target=accept, daemon=True).start()
while True:
    print("accepted", accepted, flush=True)
    time.sleep(0.2)
