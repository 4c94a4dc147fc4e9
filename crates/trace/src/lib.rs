//! One stream out of many logs: what a line of each log means, which lines concern one migration, and in which order lines of several nodes are told.
//! No I/O: the agent reads, `kubectl migrate trace` shows.
//!
//! ```text
//!   kubelet ──────────┐
//!   CRI-O, containerd │                                       agent of each node          kubectl migrate trace
//!   journald ─────────┼─▶ read::* ─▶ Line ─▶ Interest: concerns? ──▶ … ──▶ clock corrected ─▶ Order ─▶ shown
//!   CRIU, runc        │                        └ learns container ids
//!   kernel, signals ──┘
//! ```

pub mod interest;
pub mod line;
pub mod order;
pub mod read;
pub mod step;

pub use interest::Interest;
pub use line::{Level, Line, Source};
pub use order::Order;
