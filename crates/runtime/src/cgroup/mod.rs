//! Control groups: where a container's is, how a keeper enters and leaves it, how it is emptied and removed.
//!
//! conmon and containerd's shim read `/proc/PID/cgroup` of the pid in the pid file, so the keeper must sit in the container's cgroup by then; runc wants it
//! empty when it restores, so the keeper leaves it before.
//!
//! ```text
//!   linux.cgroupsPath     cgroupfs   /kubepods/burstable/pod<uid>/<id>             below every hierarchy's mount point
//!                         systemd    kubepods-pod<uid>.slice:cri-containerd:<id>   /kubepods.slice/kubepods-pod<uid>.slice/cri-containerd-<id>.scope
//! ```
//!
//! Version 1: every mounted hierarchy (mountinfo type `cgroup`). Version 2: the one of type `cgroup2`, if it is the only kind.

mod members;
mod paths;

pub use self::{
    members::{empty, enter, leave, members, remove},
    paths::{Hierarchy, hierarchies, of_container, of_process},
};
