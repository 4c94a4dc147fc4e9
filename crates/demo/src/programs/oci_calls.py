# Times OCI calls of plain runc and of the wrapper above it, in turns, on a node.
#
#   oci_calls.py WRAPPER CONTAINERS     prints {call: {"runc": [ms…], "wrapper": [ms…]}}
import json
import os
import shutil
import subprocess
import sys
import time

wrapper, containers = sys.argv[1], int(sys.argv[2])
home = "/run/oci-calls"
shutil.rmtree(home, ignore_errors=True)
os.makedirs(home + "/bundle/rootfs")
os.chdir(home + "/bundle")
subprocess.run(["runc", "spec"], check=True)
with open("config.json") as file:
    config = json.load(file)
config["process"]["terminal"] = False
config["process"]["args"] = ["/usr/bin/sleep", "1000"]
for folder in ("usr", "bin", "lib", "lib64"):
    os.makedirs("rootfs/" + folder, exist_ok=True)
    config["mounts"].append({"destination": "/" + folder, "type": "bind", "source": "/" + folder, "options": ["rbind", "ro"]})
config["linux"]["cgroupsPath"] = "/oci-calls"
with open("config.json", "w") as file:
    json.dump(config, file)

programs = {"runc": "runc", "wrapper": wrapper}
times = {call: {name: [] for name in programs} for call in ("create", "state", "start", "delete", "create + start + delete")}


def call(name, what, *arguments):
    # To a file: what is created inherits it and would keep a pipe open.
    with open(home + "/complaints", "w+") as complaints:
        begin = time.perf_counter()
        done = subprocess.run([programs[name], "--root", home + "/state", what, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=complaints)
        spent = (time.perf_counter() - begin) * 1000
        if done.returncode != 0:
            complaints.seek(0)
            sys.exit(f"{programs[name]} {what}: {complaints.read()}")
    return spent


# The first round warms caches and is not counted.
for turn in range(containers + 1):
    for name in programs if turn % 2 else reversed(programs):
        id = f"oci-calls-{name}-{turn}"
        took = {"create": call(name, "create", "--bundle", home + "/bundle", id)}
        took["state"] = call(name, "state", id)
        took["start"] = call(name, "start", id)
        took["delete"] = call(name, "delete", "--force", id)
        took["create + start + delete"] = took["create"] + took["start"] + took["delete"]
        if turn:
            for what, spent in took.items():
                times[what][name].append(round(spent, 3))
shutil.rmtree(home)
print(json.dumps(times))
