# Waits for the pager of a pod that comes to this node, and for its end. Prints when that was, in seconds by CLOCK_REALTIME. Ends without a word if none has come when the
# file that is its argument is there, or after five minutes.
import os
import select
import sys
import time


# It is none of those that are here already: to look at them each time would cost what is measured.
known = set(os.listdir("/proc"))


def pager():
    for name in os.listdir("/proc"):
        if name.isdigit() and name not in known:
            try:
                with open(f"/proc/{name}/comm") as comm:
                    if comm.read() == "godwit-pager\n":
                        return os.pidfd_open(int(name))
            except OSError:
                pass
    return None


end = time.monotonic() + 300
while time.monotonic() < end:
    over = os.path.exists(sys.argv[1])
    found = pager()
    if found is not None:
        select.select([found], [], [])
        print(time.time())
        break
    if over:
        break
    time.sleep(0.05)
