# Eats what it is told to: SIGUSR1 computes for two seconds and prints the share of a CPU that it got, SIGUSR2 takes memory without end.
import os
import signal
import time

identity, turn = os.urandom(8).hex(), 0


def compute(*_):
    wall, used = time.monotonic(), time.process_time()
    while time.monotonic() < wall + 2:
        pass
    print("share", round((time.process_time() - used) / (time.monotonic() - wall), 3), flush=True)


def take(*_):
    print("taking", flush=True)
    taken = []
    while True:
        taken.append(bytearray(os.urandom(1 << 20)))


signal.signal(signal.SIGUSR1, compute)
signal.signal(signal.SIGUSR2, take)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    turn += 1
    print("good", turn, identity, flush=True)
    time.sleep(0.2)
