//! Dumps by [`godwit_criu::dump`] and restores by a plain `runc restore`, with real CRIU, runc and crun.
//!
//! ```text
//!   this process (root) ── cgroups of its own, unshare ──▶ the same program as PID 1 of a node: overlay over the node root,
//!                                                          cgroup v1 or v2; when it ends, everything in it is gone
//!                                                            ├─ sandbox "src": netns, ipc, uts, files   ── containers by runc or crun
//!                                                            └─ sandbox "dst": the same, other files    ── runc restore
//! ```
//! Skips itself (and says why) without root or without a node root: `GODWIT_NODE_ROOT`, default `$GODWIT_CACHE/rootfs/node`, and beside it the root for
//! workloads, `GODWIT_APP_ROOT`. Arguments choose scenarios by part of their name.

mod container;
mod node;
mod pod;
mod scenarios;
mod transfer;

use std::process::ExitCode;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let run = match std::env::var(node::INSIDE) {
        Ok(cgroup) => node::enter(&cgroup).and_then(|()| scenarios::run(&cgroup, &wanted)),
        Err(_) => node::outside(&wanted),
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
