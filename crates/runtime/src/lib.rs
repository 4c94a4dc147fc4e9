//! The OCI runtime wrapper `godwit-runtime` and what the agent shares with it.
//!
//! One static binary, five programs, told apart by `argv[0]`: where a pod goes to, four of them follow one another, or CRIU runs the gate of an [`import`].
//!
//! ```text
//!   conmon / shim ── OCI command ──▶ wrapper ──exec──▶ runc                       (containers that no migration names)
//!                                      │ create of a container that waits
//!                                      ▼
//!                                    keeper ──fork, setns──▶ runc restore ──▶ criu (stand-in, gate) ──fork──▶ criu
//!                                      │ Keeper, Restored; pager              │ Images, Gate, Resumed
//!                                      ▼                                      ▼
//!                                    agent's socket, see `protocol`
//! ```
//!
//! What the parts know of one another lies in one directory for each container, see [`layout`]. Who may still stop a restore, and from when on nobody may,
//! is decided under one lock, see [`fate`].

pub mod protocol;

pub mod layout;

pub mod arguments;
pub mod cgroup;
pub mod client;
pub mod commands;
pub mod config;
pub mod create;
pub mod entry;
pub mod error;
pub mod fate;
pub mod gate;
pub mod import;
pub mod keeper;
pub mod process;
pub mod record;
pub mod rpc;
pub mod runc;
pub mod spec;
pub mod standin;
pub mod sys;
