//! CRIU as Godwit uses it: what a dump is told, what a restore needs, what the images hold, and what its messages mean.
//!
//! ```text
//!  source node                                            target node
//!  ───────────                                            ───────────
//!  OCI spec + /proc/PID ──▶ dump::Plan ── externals ────▶ restore::prepare ──▶ scratch mounts, lines of CRIU's configuration
//!                              │                                                     │
//!                          criu dump ──▶ images ─ seal ──▶ images ─ verify ──▶ runc restore
//!                              │                                                     │
//!                          dump.log ──▶ explain                        restore.log ──▶ explain
//! ```
//!
//! The source's processes are dumped by CRIU itself, not through their runtime, and restored by `runc restore`. The two meet in the keys of external
//! mounts: [`mounts`] says which mount gets which key, and why.

pub mod adapt;
pub mod archive;
pub mod descriptors;
pub mod dump;
pub mod explain;
mod failure;
pub mod images;
pub mod inspect;
mod mountinfo;
pub mod mounts;
pub mod options;
pub mod privileges;
pub mod restore;
mod scratch;
pub mod shield;
pub mod tmpfs;
pub mod version;

pub use explain::{Which, explain};
pub use failure::{Failure, Problem};
