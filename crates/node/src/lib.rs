//! A node seen from its agent: the container runtime, cgroups, processes, files, and the node's own programs.
//!
//! The agent runs in a container with the node's pid and network namespaces. Everything else of the node it reaches through the root of pid 1:
//!
//! ```text
//!   agent's container                          node
//!   ┌──────────────┐  /proc/1/root/run/…       ┌─────────────────────────┐
//!   │ host::Host ──┼──────────────────────────▶│ files, sockets, cgroups │
//!   │              │  setns + exec             │ criu, runc, crun        │
//!   │ cri::Client ─┼── gRPC, unix socket ─────▶│ containerd or CRI-O     │
//!   │ process,     │  /proc (shared pids)      │ the pod's processes     │
//!   │ blockers     │                           │                         │
//!   │ volumes ─────┼── tar from the image ────▶│ upper dirs, emptyDirs   │
//!   └──────────────┘                           └─────────────────────────┘
//! ```

pub mod blockers;
pub mod cgroup;
pub mod check;
pub mod cri;
pub mod facts;
mod finding;
pub mod host;
pub mod log;
mod mounts;
mod probe;
pub mod process;
mod sys;
pub mod volumes;

pub use finding::Finding;
pub use host::{Host, PodNamespaces};
