#!/bin/bash
# A node in namespaces: process, mount, network, IPC, UTS and cgroup namespaces of its own over an overlay of the root ROOT.
#
#   node.sh ROOT WORK [v1|v2] -- COMMAND...     runs COMMAND as the node's first process; exits with its code
#
# WORK (made when missing) becomes the overlay's upper part and is visible in the node as /work; COMMAND is run inside.
set -eu
if [ "${1:-}" = --inside ]; then
  shift; ROOT=$1 WORK=$2 KIND=$3; shift 4
  N=$WORK/root
  mount --make-rprivate /
  mount -t tmpfs tmpfs "$WORK"
  mkdir -p "$WORK"/{upper,work,root,shared}
  mount -t overlay overlay -o "lowerdir=$ROOT,upperdir=$WORK/upper,workdir=$WORK/work" "$N"
  mount -t proc proc "$N/proc"
  mount -t sysfs sysfs "$N/sys"
  mount --rbind /dev "$N/dev"
  mount -t tmpfs tmpfs "$N/run"
  mount -t tmpfs tmpfs "$N/tmp"
  mkdir -p "$N/run/lock" "$N/work" "$N/image" "$N/oldroot"
  mount --bind "$WORK/shared" "$N/work"
  mount --bind "$ROOT" "$N/image"
  for bind in ${GODWIT_BIND:-}; do   # from=to pairs
    mkdir -p "$(dirname "$N${bind#*=}")"; touch "$N${bind#*=}"; mount --bind "${bind%%=*}" "$N${bind#*=}"
  done
  if [ "$KIND" = v1 ]; then
    mount -t tmpfs cgroup_root "$N/sys/fs/cgroup"
    for c in cpu cpuacct cpuset memory devices freezer blkio pids; do
      mkdir "$N/sys/fs/cgroup/$c"; mount -t cgroup -o $c cgroup "$N/sys/fs/cgroup/$c"
    done
    mkdir "$N/sys/fs/cgroup/systemd"; mount -t cgroup -o name=systemd cgroup "$N/sys/fs/cgroup/systemd"
  else
    mount -t cgroup2 cgroup2 "$N/sys/fs/cgroup"
    # With controllers in it, the top of the tree may hold no process: runc hands them down.
    mkdir "$N/sys/fs/cgroup/init"; echo 0 > "$N/sys/fs/cgroup/init/cgroup.procs"
  fi
  cd "$N"; pivot_root . oldroot; umount -l /oldroot
  hostname godwit-node
  ip link set lo up
  cd /
  exec "$@"
fi
ROOT=$1 WORK=$2 KIND=${3:-v1}; shift 4
mkdir -p "$WORK"
NAME=godwit-rt-$$
for c in cpu cpuacct cpuset memory devices freezer blkio pids systemd unified; do
  [ -d /sys/fs/cgroup/$c ] || continue
  g=/sys/fs/cgroup/$c/$NAME; mkdir -p $g
  if [ $c = cpuset ]; then cat /sys/fs/cgroup/cpuset/cpuset.cpus > $g/cpuset.cpus; cat /sys/fs/cgroup/cpuset/cpuset.mems > $g/cpuset.mems; fi
done
# A frozen process does not die, and its namespace with it.
thaw() { for f in $(find /sys/fs/cgroup/freezer/$NAME -name freezer.state 2>/dev/null); do echo THAWED > "$f" || true; done; for f in $(find /sys/fs/cgroup/$NAME /sys/fs/cgroup/unified/$NAME -name cgroup.freeze 2>/dev/null); do echo 0 > "$f" || true; done; }
end() { kill -KILL $child 2>/dev/null; thaw; }
trap end TERM INT HUP
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then mkdir -p /sys/fs/cgroup/$NAME; fi
code=0
(
  [ -d /sys/fs/cgroup/$NAME ] && echo $BASHPID > /sys/fs/cgroup/$NAME/cgroup.procs
  for c in cpu cpuacct cpuset memory devices freezer blkio pids systemd unified; do
    [ -d /sys/fs/cgroup/$c/$NAME ] && echo $BASHPID > /sys/fs/cgroup/$c/$NAME/cgroup.procs
  done
  exec unshare -C -m -p -u -i -n -f --kill-child=SIGKILL bash "$0" --inside "$ROOT" "$WORK" "$KIND" -- "$@"
) &
child=$!
while kill -0 $child 2>/dev/null; do wait $child && code=0 || code=$?; done
for c in . cpu cpuacct cpuset memory devices freezer blkio pids systemd unified; do
  for try in 1 2 3 4 5; do
    find /sys/fs/cgroup/$c/$NAME -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ -d /sys/fs/cgroup/$c/$NAME ] || break
    sleep 0.1
  done
done
rmdir "$WORK" 2>/dev/null || true
exit $code
