//! What watches a moving pod from outside, for the demo, the benchmarks and the end-to-end tests. Nothing here knows how Godwit works: everything goes
//! through kubectl, Helm, the network and the nodes' own files, as a user's would.
//!
//! ```text
//!  client's network of the lab                                  nodes
//!   redis::Client ── writes, reads ──▶ Service ──▶ pod           <pod's log files>
//!       └─▶ ledger (what was acknowledged)                             │
//!   witness ◀── a datagram for each tick ── pulse, a pod that counts   │
//!       └──────────── every tick once, in one line of history ◀────────┘
//!   lab (kubectl, node exec) · install (Helm) · migrate (kubectl migrate)
//! ```

pub mod crowd;
pub mod install;
pub mod lab;
pub mod ledger;
pub mod load;
pub mod migrate;
pub mod notice;
pub mod numbers;
pub mod objects;
pub mod pace;
pub mod pages;
pub mod pods;
pub mod pulse;
pub mod redis;
pub mod resp;
pub mod shell;
pub mod talker;
pub mod witness;

use anyhow::Result;

/// Where `make demo` works, and leaves its pod.
pub const NAMESPACE: &str = "godwit-demo";

/// Takes away what `make demo` has left. Its pod came by migration: an uninstall of Godwit would spare its node.
///
/// # Errors
/// When kubectl does not succeed.
pub fn clear(lab: &lab::Lab) -> Result<()> {
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=50s"]).map(drop)
}
