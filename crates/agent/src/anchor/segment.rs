//! An old address that moves on its network segment by itself, as a virtual machine's does: the same life as an anchor's, without a tunnel.
//!
//! ```text
//!   planning            target node: ears ◀── segment ◀── source pod's eth0: who has its address?      heard: one segment
//!   before the freeze   new pod's old0, under a trial hardware address: who has it? ──▶ old pod: I     the port lets foreign hardware addresses in and out
//!   ran                 old0 opens and announces itself ──▶ every switch;   Pass ──▶ holder: its sandbox takes another hardware address, what was kept is sent after
//!   later               the old pod, sealed, only reserves the address: its node may be gone
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use godwit_network::{Attachment, Error, Hold, Relay, announce, here, links, segment};
use godwit_rpc::v1::{AnchorName, AnchorReply, Failure, LinkRequest, Migration, ShoutReply, ShoutRequest};

use super::{
    blocking,
    holder::{Anchor, Link},
    mirrors::{Held, unreachable},
    probe::Empty,
    refused,
};
use crate::{
    failure::{failure, internal},
    node::Node,
};

/// How long an answer on the segment is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the source pod asks who has its address.
const SHOUTS: u32 = 8;
/// An announcement may be lost; it is repeated after so long.
const AGAIN: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(800)];
const RETRY: Duration = Duration::from_millis(200);

/// A locally administered hardware address that nobody else has.
fn foreign(seed: &str) -> [u8; 6] {
    let hash = blake3::hash(seed.as_bytes());
    let [a, b, c] = *hash.as_bytes().first_chunk::<3>().unwrap_or(&[0; 3]);
    [2, b'g', b'w', a, b, c]
}

/// What arrives while nothing passes.
#[derive(Debug)]
pub enum Kept {
    /// For the other end of a tunnel, and from there.
    Tunnel(Hold),
    /// For the segment.
    Segment(Relay),
}

impl Kept {
    /// Everything from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn begin(netns: &Path, outer: &str, link: &Link) -> Result<Self, Error> {
        if link.segment { Relay::begin(netns, outer).map(Self::Segment) } else { Hold::begin(netns, outer, &link.device).map(Self::Tunnel) }
    }

    /// For the time being only what begins a TCP connection.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn begin_with_beginnings(netns: &Path, outer: &str, link: &Link) -> Result<Self, Error> {
        if link.segment {
            Relay::begin_with_beginnings(netns, outer).map(Self::Segment)
        } else {
            Hold::begin_with_beginnings(netns, outer, &link.device).map(Self::Tunnel)
        }
    }

    /// From now on everything.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn keep_everything(&self) -> Result<(), Error> {
        match self {
            Self::Tunnel(hold) => hold.keep_everything(),
            Self::Segment(relay) => relay.keep_everything(),
        }
    }

    /// Passes it on; returns how many frames, where that is known at once.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release(self, netns: &Path, anchor: &Anchor, strangers: Vec<IpAddr>) -> Result<usize, Error> {
        match self {
            Self::Tunnel(hold) => hold.release(netns, &strangers),
            Self::Segment(relay) => {
                let homes: Vec<Attachment> = std::iter::once(&anchor.attachment).chain(&anchor.earlier).cloned().collect();
                relay.release(netns, left(anchor), homes, strangers).map(|()| 0)
            }
        }
    }
}

/// The hardware address that an old pod's sandbox has when its own has moved.
fn left(anchor: &Anchor) -> [u8; 6] {
    foreign(&format!("left {}", anchor.name.pod_uid))
}

/// The sandbox, sealed, is not where the address is any more.
///
/// # Errors
/// When the kernel refuses.
pub fn give_away(netns: &Path, anchor: &Anchor) -> Result<(), Error> {
    segment::set_mac(netns, &anchor.attachment.device, left(anchor))
}

/// Takes an end of a tunnel away; on a segment there is none.
///
/// # Errors
/// When the kernel refuses.
pub fn unlink(netns: &Path, link: &Link) -> Result<(), Error> {
    if link.segment { Ok(()) } else { links::remove(netns, &link.device) }
}

/// Why this node's kernel cannot do it; empty when it can. Tried in a namespace that vanishes.
#[must_use]
pub fn why_not() -> String {
    let all = |netns: &Path| {
        links::make_patch(netns, "eth0", foreign("eth0"), netns, "wire")?;
        links::up_quietly(netns, "eth0")?;
        segment::make(netns, "old0", "eth0", foreign("old0"))?;
        segment::open(netns, "old0", &[Ipv4Addr::LOCALHOST.into()])?;
        segment::as_usual(netns, "old0")
    };
    match Empty::make() {
        Ok(empty) => all(&empty.netns).map_or_else(|error| refused(&error).message, |()| String::new()),
        Err(why) => why,
    }
}

impl Node {
    /// Why the address of the pod that moves cannot move to this node; empty when it can. With `reach` it is tried whether the pod is heard here.
    pub async fn no_same_address(&self, migration: &Migration, reach: bool) -> String {
        if !self.no_segment.is_empty() || !reach {
            return self.no_segment.clone();
        }
        match self.hears(migration).await {
            Ok(why) => why,
            Err(why) => format!("it cannot be found out whether the target's network is on one segment with the source's: {}", why.message),
        }
    }

    async fn hears(&self, migration: &Migration) -> Result<String, Failure> {
        let mac = foreign(&format!("shout {} {} {:?}", migration.uid, self.name, std::time::SystemTime::now()));
        let ears = blocking(|| announce::Ears::open(here()).map_err(|error| refused(&error))).await?;
        let request = ShoutRequest { pod_uid: migration.source_pod_uid.clone(), mac: mac.to_vec() };
        let mut client = self.handoff(&migration.source_address, &migration.source_node)?;
        let reply = client.shout(request).await.map_err(|status| unreachable(&migration.source_node, &status))?.into_inner();
        if let Some(why) = reply.failure {
            return Ok(why.message);
        }
        let ip: Ipv4Addr = reply.address.parse().map_err(|error| internal("the address of the pod", error))?;
        if !ears.heard(mac, ip) {
            return Ok(format!(
                "the target's network is not on one segment with the source's: the pod on node {} is not heard on node {}",
                migration.source_node, self.name
            ));
        }
        Ok(if reply.taken.is_empty() { String::new() } else { format!("another machine, {}, says that it has the address {ip}", reply.taken) })
    }

    /// Asks by the interface of a pod of this node who has its address, from nobody.
    ///
    /// # Errors
    /// When there is no such pod, or it has no IPv4 address.
    pub async fn shout(&self, pod_uid: &str, mac: [u8; 6]) -> Result<ShoutReply, Failure> {
        let pod = crate::inspect::Pod::find(&self.cri, pod_uid).await?;
        let absent =
            || failure("NoIpv4Address", "the pod has no IPv4 address, by which its network segment is asked for it", "move it another way: --network anchor");
        let ip = pod.sandbox.ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }).ok_or_else(absent)?;
        let netns = match (&pod.sandbox.namespaces.net, pod.sandbox.host_network) {
            (Some(path), false) => self.host.path(path),
            _ => return Err(failure("HostNetwork", "the pod uses its node's network", "pods with hostNetwork cannot be moved")),
        };
        let others = blocking(move || {
            let attachment = Attachment::of(&netns, ip.into()).map_err(|error| refused(&error))?;
            let mut others = announce::shout(&netns, &attachment.device, mac, ip, SHOUTS).map_err(|error| refused(&error))?;
            others.retain(|other| *other != attachment.mac);
            Ok(others)
        });
        Ok(ShoutReply { address: ip.to_string(), taken: others.await?.first().map(written).unwrap_or_default(), failure: None })
    }

    /// Gives the new pod the old address on its own interface, shut, and tells the holder. `own`: of the pod that moves now.
    ///
    /// # Errors
    /// When nobody answers on the segment for the address, or another one does, or the kernel refuses.
    pub(super) async fn raise_on_segment(self: &Arc<Self>, held: &Held, own: bool) -> Result<(), Failure> {
        let (inside, mut mirror) = (self.host.path(&held.netns), held.mirror.clone());
        let trial = foreign(&format!("trial {} {}", held.name.pod_uid, held.pod_uid));
        let found = blocking(move || {
            let lower = segment::own_device(&inside).map_err(|error| refused(&error))?;
            segment::make(&inside, &mirror.device, &lower.name, trial).map_err(|error| refused(&error))?;
            let four = |ip: &IpAddr| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None };
            let ip = mirror.old.ips.iter().find_map(four).unwrap_or(Ipv4Addr::UNSPECIFIED);
            let found = announce::who_has(&inside, &mirror.device, trial, ip, PATIENCE).map_err(|error| refused(&error))?;
            if found == [mirror.old.mac] {
                segment::set_mac(&inside, &mirror.device, mirror.old.mac).map_err(|error| refused(&error))?;
                mirror.old.mtu = mirror.old.mtu.min(lower.mtu);
                mirror.raise(&inside, lower.mtu).map_err(|error| refused(&error))?;
            }
            Ok(found)
        });
        let addresses = || held.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let found = found.await?;
        match found.iter().find(|mac| **mac != held.mirror.old.mac) {
            Some(other) => {
                return Err(failure(
                    "AddressTaken",
                    format!("another machine, {}, says that it has the address {}", written(other), addresses()),
                    "look who has it, or move the pod another way: --network anchor",
                ));
            }
            None if found.is_empty() => {
                return Err(failure(
                    "SegmentBlocked",
                    format!(
                        "nobody answers for the address {} on the network of the new pod: it is another segment, or lets no foreign hardware address through",
                        addresses()
                    ),
                    "move the pod another way: --network anchor",
                ));
            }
            None => {}
        }
        match self.tell_adjoined(held).await {
            // Without its holder an address of an earlier pod is reserved by nobody, and lives on.
            Err(why) if !own && why.reason == "AnchorUnreachable" => {
                tracing::warn!(anchor = held.name.pod_uid, message = why.message, "an address moves on without its holder");
                Ok(())
            }
            told => told,
        }
    }

    async fn tell_adjoined(self: &Arc<Self>, held: &Held) -> Result<(), Failure> {
        let name = held.name.about(&held.pod_uid);
        if held.node == self.name {
            let (node, link) = (self.clone(), Link { segment: true, ..self.as_link(&held.pod_uid) });
            return blocking(move || node.anchors.adjoin(&name, link)).await;
        }
        let request = LinkRequest {
            name: Some(name),
            node: self.name.clone(),
            agent: self.address.clone(),
            underlay: self.ip.to_string(),
            vni: 0,
            segment: true,
            wireguard: Vec::new(),
        };
        let reply = self.handoff(&held.agent, &held.node)?.link(request).await.map_err(|status| unreachable(&held.node, &status))?;
        reply.into_inner().failure.map_or(Ok(()), Err)
    }

    /// Something of the pod has run: the address is here from now on.
    pub(super) async fn open_on_segment(self: &Arc<Self>, held: &Held) {
        while let Err(why) = self.open_and_announce(held).await {
            tracing::warn!(anchor = held.name.pod_uid, reason = why.reason, message = why.message, "connections wait for their address");
            if !links::lives(&self.host.path(&held.netns)) {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
        let (node, held) = (self.clone(), held.clone());
        crate::task::spawn(async move {
            for pause in AGAIN {
                tokio::time::sleep(pause).await;
                let announced = node.announce(&held).await;
                tracing::debug!(anchor = held.name.pod_uid, ok = announced.is_ok(), "announced again");
            }
            let (inside, device) = (node.host.path(&held.netns), held.mirror.device.clone());
            let _ = blocking(move || segment::as_usual(&inside, &device).map_err(|error| refused(&error))).await;
        });
    }

    async fn open_and_announce(&self, held: &Held) -> Result<(), Failure> {
        let (inside, held) = (self.host.path(&held.netns), held.clone());
        blocking(move || {
            segment::open(&inside, &held.mirror.device, &held.strangers).map_err(|error| refused(&error))?;
            say(&inside, &held)
        })
        .await
    }

    async fn announce(&self, held: &Held) -> Result<(), Failure> {
        let (inside, held) = (self.host.path(&held.netns), held.clone());
        blocking(move || say(&inside, &held)).await
    }

    /// What lives on here, for the node of the old pod when that cannot be asked; with `end` it ends.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn look_at_mirror(self: &Arc<Self>, migration: &Migration, end: bool) -> Result<AnchorReply, Failure> {
        let name = AnchorName { pod_uid: migration.source_pod_uid.clone(), ticket: migration.ticket.clone(), target_pod_uid: migration.target_pod_uid.clone() };
        let addresses = self.mirrors.find(&name).filter(|held| held.segment).map(|held| held.addresses().iter().map(ToString::to_string).collect());
        let Some(addresses) = addresses else { return Ok(AnchorReply::default()) };
        let connections = self.answer_mirror(&name, end).await?;
        Ok(AnchorReply {
            held: connections.is_some() && !end,
            busy: false,
            connections: connections.unwrap_or(0),
            node: self.name.clone(),
            addresses,
            failure: None,
        })
    }
}

fn say(inside: &Path, held: &Held) -> Result<(), Failure> {
    announce::announce(inside, &held.mirror.device, held.mirror.old.mac, &held.mirror.old.ips).map_err(|error| refused(&error))
}

fn written(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
