//! Nodes that are virtual machines: qemu under software emulation, a Debian kernel, cgroup v2.
//!
//! ```text
//!   this machine, in the cgroup godwit-lab/<name>                     the virtual machine
//!   ┌──────────────────────────────────────────┐                     ┌────────────────────────────────────────────┐
//!   │ qemu        root.img   (read-only, cache)│── /dev/vda ─────────│ lower ┐                                    │
//!   │             disk.img   (the node's)      │── /dev/vdb ─────────│ upper ┴ overlay = /, and /var/lib/…        │
//!   │             tap sw<n> in the switch's br0│── up0 ── cni0 ──────│ 10.88.<n>.1: kubelet, pods, the door       │
//!   │ virtiofsd   share/     (bound together)  │── /run/godwit-lab/share: program, upper, logs, images, modules   │
//!   └──────────────────────────────────────────┘                     └────────────────────────────────────────────┘
//!   godwit-lab ── TCP, in the switch's network ── door ── PID 1 (systemd), which keeps the services as units
//! ```
//! Inside it is a node like a server: the same root and services as in every node, but kept by systemd, which also makes the pods' cgroups (the kubelet's and the
//! runtimes' cgroup driver is `systemd`). There is no `/proc/<pid>/root` to it, so files, services and commands go through the [`door`].

pub mod disks;
pub mod door;
pub mod guest;
pub mod host;
pub mod initrd;
pub mod kernel;
pub mod tools;
mod units;
