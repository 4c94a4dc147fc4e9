//! Whether this node can have an anchor, and whether one would carry frames from another node. Everything is tried in empty network namespaces, which vanish with what is
//! in them: no pod is touched.
//!
//! ```text
//!   planning    target node                                         source node
//!               empty namespace: end of a tunnel ═══ UDP 4790 ═══ end of a tunnel: empty namespace, for some seconds
//!                 question ──────────────────────────────────────▶ answer
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use godwit_network::{Gate, echo, links};
use godwit_rpc::v1::{Failure, ProbeRequest};
use nix::sched::{CloneFlags, unshare};

use super::{blocking, refused};
use crate::{failure::internal, node::Node};

/// A VNI that no anchor has: the namespace is empty, nothing else is there.
const VNI: u32 = 1;
/// VNIs of probes, which anchors may have, too: those of a node exclude each other.
const VNIS: std::ops::Range<u32> = 0x00f0_0000..0x0100_0000;
/// How many of them are tried.
const TRIES: u32 = 4;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the other node may ask.
const ANSWERING: Duration = Duration::from_secs(3);
/// The interface's name.
const DEVICE: &str = "anc0";

/// An empty network namespace, as long as it is held.
pub(super) struct Empty {
    pub netns: PathBuf,
    // The thread in it ends when this goes.
    _end: mpsc::Sender<()>,
}

impl Empty {
    pub fn make() -> Result<Self, String> {
        let (made, here) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let netns = unshare(CloneFlags::CLONE_NEWNET).map(|()| PathBuf::from(format!("/proc/self/task/{}/ns/net", nix::unistd::gettid())));
            let _ = made.send(netns);
            let _ = ended.recv();
        });
        let netns = here.recv().map_err(|_| "the probe ended abnormally".to_owned())?;
        Ok(Self { netns: netns.map_err(|error| format!("a network namespace cannot be made: {error}"))?, _end: end })
    }

    /// An end of a tunnel in it, whose packets go by this node's own network. False: the VNI is used here.
    fn tunnel(&self, tunnel: links::Tunnel) -> Result<bool, godwit_network::Error> {
        match links::make_tunnel(&self.netns, DEVICE, tunnel, None) {
            Ok(()) => links::up_as_pipe(&self.netns, DEVICE, 1500).map(|()| true),
            Err(error) if error.is_taken() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Why this node cannot have one; empty when it can.
#[must_use]
pub fn why_not() -> String {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let all = |netns: &Path| {
        links::make_tunnel(netns, DEVICE, links::Tunnel::plain(VNI, here, here), None)?;
        links::make_patch(netns, "old0", [2, 0, 0, 0, 0, 1], netns, "anc1")?;
        links::up_as_pipe(netns, DEVICE, 1500)?;
        Gate::new(netns, "probe")?.connect(netns, "old0", DEVICE, &[here, Ipv6Addr::LOCALHOST.into()], &[])
    };
    match Empty::make() {
        Ok(empty) => all(&empty.netns).map_or_else(|error| refused(&error).message, |()| String::new()),
        Err(why) => why,
    }
}

/// Makes an end of a tunnel that answers for some seconds. False: the VNI is used here.
///
/// # Errors
/// When the kernel refuses.
pub fn answer(tunnel: links::Tunnel) -> Result<bool, Failure> {
    let empty = Empty::make().map_err(|why| internal("the tunnel cannot be tried", why))?;
    let made = empty.tunnel(tunnel).map_err(|error| refused(&error))?;
    if made {
        std::thread::spawn(move || {
            // All of it: with the path alone the namespace would be gone.
            let empty = empty;
            echo::answer(&empty.netns, DEVICE, ANSWERING)
        });
    }
    Ok(made)
}

impl Node {
    /// Why a tunnel from a node, whose agent has this address, does not carry frames; empty when it does, and when that cannot be found out now.
    pub async fn no_way_from(self: &Arc<Self>, node: &str, agent: &str) -> String {
        match self.carries(node, agent).await {
            Ok(None) => String::new(),
            Ok(Some(needs)) => format!("no frame gets through a tunnel from node {node}; allow {needs}"),
            Err(why) => {
                tracing::warn!(node, reason = why.reason, message = why.message, "the way between the nodes is not tried");
                String::new()
            }
        }
    }

    /// What must be allowed for it to carry anything; none: it does.
    async fn carries(self: &Arc<Self>, node: &str, agent: &str) -> Result<Option<String>, Failure> {
        let mut client = self.handoff(agent, node)?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
        for attempt in 0..TRIES {
            let vni = VNIS.start + now.wrapping_add(attempt) % (VNIS.end - VNIS.start);
            let request = ProbeRequest { underlay: self.ip.to_string(), vni, wireguard: self.wireguard.key() };
            let reply = client.probe(request).await.map_err(|status| internal("the other node does not answer", status))?.into_inner();
            if let Some(why) = reply.failure {
                return Err(why);
            }
            let remote: IpAddr = reply.underlay.parse().map_err(|error| internal("the address of the other node", error))?;
            let (this, other) = (self.clone(), node.to_owned());
            let reached = blocking(move || {
                let empty = Empty::make().map_err(|why| internal("the tunnel cannot be tried", why))?;
                let here = this.wireguard.tunnel(vni, (this.ip, remote), (&other, &reply.wireguard))?;
                let made = !reply.taken && empty.tunnel(here).map_err(|error| refused(&error))?;
                let blocked = |reached: bool| Some((!reached).then(|| here.needs()));
                if made { echo::reaches(&empty.netns, DEVICE, PATIENCE).map(blocked).map_err(|error| refused(&error)) } else { Ok(None) }
            });
            if let Some(blocked) = reached.await? {
                return Ok(blocked);
            }
        }
        Err(internal("the tunnel cannot be tried", "all numbers that were tried are used"))
    }
}
