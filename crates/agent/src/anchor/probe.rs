//! Whether this node can have an anchor: everything that one consists of is made once in an empty network namespace, which vanishes with it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use godwit_network::{Gate, links};
use nix::sched::{CloneFlags, unshare};

/// A VNI that no anchor has: the namespace is empty, nothing else is there.
const VNI: u32 = 1;

/// Why this node cannot have one; empty when it can.
#[must_use]
pub fn why_not() -> String {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let tried = std::thread::spawn(move || -> Result<(), String> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("a network namespace cannot be made: {error}"))?;
        let netns = PathBuf::from(format!("/proc/self/task/{}/ns/net", nix::unistd::gettid()));
        let say = |error: godwit_network::Error| super::refused(&error).message;
        links::make_tunnel(&netns, "anc0", links::Tunnel { vni: VNI, local: here, remote: here }, None).map_err(say)?;
        links::make_patch(&netns, "old0", [2, 0, 0, 0, 0, 1], &netns, "anc1").map_err(say)?;
        links::up_as_pipe(&netns, "anc0", 1500).map_err(say)?;
        let gate = Gate::new(&netns, "probe").map_err(say)?;
        gate.connect(&netns, "old0", "anc0", &[Ipv4Addr::LOCALHOST], &[]).map_err(say)
    });
    match tried.join() {
        Ok(Ok(())) => String::new(),
        Ok(Err(why)) => why,
        Err(_) => "the probe ended abnormally".to_owned(),
    }
}
