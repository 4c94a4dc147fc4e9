# A heap of so many MiB that no compression makes smaller, digested again and again.
import hashlib
import os
import random
import signal
import sys

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
identity, turn, generator = os.urandom(8).hex(), 0, random.Random(os.urandom(8))
heap = [bytearray(generator.randbytes(1 << 20)) for _ in range(int(sys.argv[1]))]


def digest():
    state = hashlib.blake2b(digest_size=16)
    for block in heap:
        state.update(block)
    return state.hexdigest()


wanted = digest()
while True:
    turn += 1
    if digest() != wanted:
        print("bad heap", flush=True)
        os._exit(3)
    print("good", turn, identity, wanted, flush=True)
