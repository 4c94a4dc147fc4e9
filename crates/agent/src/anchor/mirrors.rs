//! The mirrors of this node: new pods in which addresses of old pods live on. Each is journaled before it is made.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use godwit_network::{Attachment, Mirror, echo, links};
use godwit_rpc::v1::{self, Anchored, Failure, LinkRequest};
use serde::{Deserialize, Serialize};

use super::{
    Name, blocking,
    holder::{Link, UNKNOWN, unknown},
    refused,
};
use crate::{
    failure::{failure, internal},
    node::Node,
};

/// Role name in the journal.
pub const ROLE: &str = "mirror";
/// Between two looks whether the anchors are still there.
const SWEEP: Duration = Duration::from_secs(5);
/// Between two attempts to let frames pass.
const RETRY: Duration = Duration::from_millis(200);
/// How long an answer through a new tunnel is waited for.
const ECHO: Duration = Duration::from_secs(2);
/// How many VNIs are tried.
const TRIES: u32 = 64;
/// VNIs are 24 bits.
const VNIS: u32 = 1 << 24;

/// One old attachment in one new pod.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Held {
    /// The anchor.
    pub name: Name,
    /// Node of the old pod.
    pub node: String,
    /// host:port of its agent.
    pub agent: String,
    /// Its address for tunnels.
    pub underlay: String,
    /// That node's public key; empty: it has none.
    #[serde(default)]
    pub wireguard: Vec<u8>,
    /// UID of the new pod.
    pub pod_uid: String,
    /// Its network namespace, as the node names it.
    pub(super) netns: PathBuf,
    pub(super) mirror: Mirror,
    /// Frames pass to it.
    current: bool,
    /// It is on the old pod's network segment.
    #[serde(default)]
    pub segment: bool,
    /// Addresses of the old pod's node: connections that begin there are none of the new pod's business.
    #[serde(default)]
    pub strangers: Vec<IpAddr>,
}

impl Held {
    fn key(&self) -> String {
        key(&self.name.pod_uid, &self.pod_uid)
    }

    /// The old addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.mirror.old.addresses().collect()
    }

    /// What it mirrors.
    #[must_use]
    pub fn attachment(&self) -> &Attachment {
        &self.mirror.old
    }

    /// For the next node, when the pod moves on; by a tunnel or, on one segment, without.
    #[must_use]
    pub fn anchored(&self, segment: bool) -> Anchored {
        Anchored {
            name: Some(self.name.about("")),
            node: self.node.clone(),
            agent: self.agent.clone(),
            underlay: self.underlay.clone(),
            wireguard: self.wireguard.clone(),
            attachment: serde_json::to_vec(&self.mirror.old).unwrap_or_default(),
            segment,
            strangers: self.strangers.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The addresses that live on in anchors.
#[must_use]
pub fn kept(anchors: &[Anchored]) -> Vec<IpAddr> {
    let known = |anchored: &Anchored| serde_json::from_slice::<Attachment>(&anchored.attachment).ok();
    anchors.iter().filter_map(known).flat_map(|old| old.addresses().collect::<Vec<_>>()).collect()
}

fn key(anchor: &str, pod: &str) -> String {
    format!("{anchor}.{pod}")
}

/// See the module.
pub struct Mirrors {
    held: Mutex<HashMap<String, Held>>,
    /// Held while journal and `held` change together: what one task drops, another must not write down again.
    changing: Mutex<()>,
}

impl Mirrors {
    /// Reads what the journal holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(journal: &crate::journal::Journal) -> std::io::Result<Self> {
        let held: Vec<Held> = journal.load(ROLE)?;
        Ok(Self { held: Mutex::new(held.into_iter().map(|held| (held.key(), held)).collect()), changing: Mutex::default() })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a pod of this node has, and frames pass to.
    #[must_use]
    pub fn of_pod(&self, pod_uid: &str) -> Vec<Held> {
        self.all().values().filter(|held| held.pod_uid == pod_uid && held.current).cloned().collect()
    }

    fn all_of_pod(&self, pod_uid: &str) -> Vec<Held> {
        self.all().values().filter(|held| held.pod_uid == pod_uid).cloned().collect()
    }

    /// By the names that the holder knows.
    #[must_use]
    pub fn find(&self, name: &v1::AnchorName) -> Option<Held> {
        self.all().get(&key(&name.pod_uid, &name.target_pod_uid)).filter(|held| held.name.knows(&name.ticket)).cloned()
    }
}

impl Node {
    fn keep(&self, held: &Held) -> Result<(), Failure> {
        let _changing = self.mirrors.change();
        self.write_down(held)
    }

    /// Frames pass to it. It may be gone by now: without connections it ends as soon as the pod runs.
    fn keep_current(&self, held: Held) -> Result<(), Failure> {
        let _changing = self.mirrors.change();
        let known = self.mirrors.all().contains_key(&held.key());
        if known { self.write_down(&Held { current: true, ..held }) } else { Ok(()) }
    }

    fn write_down(&self, held: &Held) -> Result<(), Failure> {
        self.journal.write(ROLE, &held.key(), held).map_err(|error| internal("cannot write the journal", error))?;
        self.mirrors.all().insert(held.key(), held.clone());
        Ok(())
    }

    fn drop_mirror(&self, held: &Held) -> Result<(), Failure> {
        let _changing = self.mirrors.change();
        let netns = self.host.path(&held.netns);
        held.mirror.lower(&netns).map_err(|error| refused(&error))?;
        if held.segment {
            godwit_network::segment::forget(&netns, &held.mirror.device).map_err(|error| refused(&error))?;
        }
        self.journal.remove(ROLE, &held.key()).map_err(|error| internal("cannot write the journal", error))?;
        self.mirrors.all().remove(&held.key());
        Ok(())
    }

    /// Makes the mirrors of all that is to live on in the new pod: the attachment of the pod that moves, whose UID is `source_uid`, and those of earlier pods that it
    /// has. Nothing passes yet. An earlier one may be retired at any moment, with its last connection, and its end of the pair of interfaces with it: then there is nothing of it to
    /// live on, whatever failed.
    ///
    /// # Errors
    /// When a holder does not answer, or one of the kernels refuses.
    pub async fn raise_mirrors(self: &Arc<Self>, pod_uid: &str, netns: &Path, source_uid: &str, anchors: &[Anchored]) -> Result<(), Failure> {
        for anchored in anchors {
            let anchor = anchored.name.as_ref().map(|name| name.pod_uid.as_str()).unwrap_or_default();
            let own = anchor == source_uid;
            let Err(why) = self.raise_mirror(pod_uid, netns.to_owned(), anchored, own).await else { continue };
            let held = self.mirrors.all().get(&key(anchor, pod_uid)).cloned();
            match held {
                Some(held) if !own && !self.is_known(&held).await => {
                    tracing::info!(anchor, reason = why.reason, message = why.message, "an earlier anchor has just been retired");
                    self.lower(&held).await;
                }
                _ => return Err(why),
            }
        }
        Ok(())
    }

    /// `own`: of the pod that moves now.
    async fn raise_mirror(self: &Arc<Self>, pod_uid: &str, netns: PathBuf, anchored: &Anchored, own: bool) -> Result<(), Failure> {
        let name = anchored.name.clone().ok_or_else(|| internal("the anchor", "it has no name"))?;
        let old: Attachment = serde_json::from_slice(&anchored.attachment).map_err(|error| internal("the description of the old address is damaged", error))?;
        let inside = self.host.path(&netns);
        let mirror = {
            let inside = inside.clone();
            blocking(move || Mirror::plan(&inside, old).map_err(|error| refused(&error))).await?
        };
        let held = Held {
            name: Name { pod_uid: name.pod_uid.clone(), ticket: name.ticket.clone() },
            node: anchored.node.clone(),
            agent: anchored.agent.clone(),
            underlay: anchored.underlay.clone(),
            wireguard: anchored.wireguard.clone(),
            pod_uid: pod_uid.to_owned(),
            netns,
            mirror,
            current: false,
            segment: anchored.segment,
            strangers: anchored.strangers.iter().filter_map(|ip| ip.parse().ok()).collect(),
        };
        self.keep(&held)?;
        if held.segment {
            return self.raise_on_segment(&held, own).await;
        }
        let tunnel = if anchored.node == self.name { None } else { Some(self.tunnel(&held).await?) };
        let mtu = match &tunnel {
            Some(tunnel) => links::mtu_of(self.ip).saturating_sub(tunnel.overhead()),
            None => self.patch(&held).await?,
        };
        let mirror = held.mirror.clone();
        let reached = blocking(move || {
            mirror.raise(&inside, mtu).map_err(|error| refused(&error))?;
            echo::reaches(&inside, &mirror.device, ECHO).map_err(|error| refused(&error))
        });
        if reached.await? {
            return Ok(());
        }
        Err(failure(
            "TunnelBlocked",
            format!("no frame gets through the tunnel from node {} to node {}", self.name, held.node),
            format!("allow {}, or move the pod with its connections closed: --network close", tunnel.map(|tunnel| tunnel.needs()).unwrap_or_default()),
        ))
    }

    /// A pair of interfaces to the old pod on this very node.
    async fn patch(self: &Arc<Self>, held: &Held) -> Result<u32, Failure> {
        let (node, held) = (self.clone(), held.clone());
        blocking(move || {
            let link = node.as_link(&held.pod_uid);
            node.anchors.patch(&held.name.about(&held.pod_uid), link, &node.host.path(&held.netns), &held.mirror)?;
            Ok(held.mirror.old.mtu)
        })
        .await
    }

    pub(super) fn as_link(&self, pod_uid: &str) -> Link {
        Link {
            device: String::new(),
            segment: false,
            target_pod_uid: pod_uid.to_owned(),
            node: self.name.clone(),
            agent: self.address.clone(),
            wireguard: Vec::new(),
        }
    }

    /// Both ends of a tunnel, with a VNI that neither node uses.
    async fn tunnel(self: &Arc<Self>, held: &Held) -> Result<links::Tunnel, Failure> {
        let remote: IpAddr = held.underlay.parse().map_err(|error| internal("the address of the old pod's node", error))?;
        let seed = blake3::hash(held.key().as_bytes());
        let first = seed.as_bytes().first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let mut client = self.handoff(&held.agent, &held.node)?;
        for attempt in 0..TRIES {
            let vni = first.wrapping_add(attempt) % (VNIS - 1) + 1;
            let (node, held_here) = (self.clone(), held.clone());
            let made = blocking(move || {
                let inside = node.host.path(&held_here.netns);
                let here = node.wireguard.tunnel(vni, (node.ip, remote), (&held_here.node, &held_here.wireguard))?;
                match links::make_tunnel(&inside, &held_here.mirror.device, here, Some(held_here.mirror.old.mac)) {
                    Ok(()) => Ok(Some(here)),
                    Err(error) if error.is_taken() => Ok(None),
                    Err(error) => Err(refused(&error)),
                }
            });
            let Some(here) = made.await? else { continue };
            let request = LinkRequest {
                name: Some(held.name.about(&held.pod_uid)),
                node: self.name.clone(),
                agent: self.address.clone(),
                underlay: self.ip.to_string(),
                vni,
                segment: false,
                wireguard: if here.is_encrypted() { self.wireguard.key() } else { Vec::new() },
            };
            let reply = client.link(request).await.map_err(|status| unreachable(&held.node, &status))?.into_inner();
            match reply {
                v1::LinkReply { failure: Some(why), .. } => return Err(why),
                v1::LinkReply { taken: true, .. } => {
                    let (inside, device) = (self.host.path(&held.netns), held.mirror.device.clone());
                    blocking(move || links::remove(&inside, &device).map_err(|error| refused(&error))).await?;
                }
                _ => return Ok(here),
            }
        }
        Err(failure("NoFreeTunnel", "no VXLAN network identifier was free on both nodes", "retire anchors that are not needed any more"))
    }

    /// The pod runs here: frames pass to it from now on. Goes on until every holder has heard it.
    pub fn let_pass(self: &Arc<Self>, pod_uid: &str) {
        for held in self.mirrors.all_of_pod(pod_uid).into_iter().filter(|held| !held.current) {
            let node = self.clone();
            crate::task::spawn(async move {
                if held.segment {
                    node.open_on_segment(&held).await;
                }
                while let Err(why) = node.pass(&held).await {
                    tracing::warn!(anchor = held.name.pod_uid, reason = why.reason, message = why.message, "connections wait for their anchor");
                    if why.reason == UNKNOWN {
                        node.end(&held).await;
                        return;
                    }
                    if !node.mirrors.all().contains_key(&held.key()) {
                        return; // it has gone meanwhile
                    }
                    tokio::time::sleep(RETRY).await;
                }
                if let Err(why) = node.keep_current(held) {
                    tracing::warn!(message = why.message, "a mirror cannot be written down");
                }
            });
        }
    }

    async fn pass(self: &Arc<Self>, held: &Held) -> Result<(), Failure> {
        let name = held.name.about(&held.pod_uid);
        if held.node == self.name {
            let node = self.clone();
            return blocking(move || node.anchors.pass(&name)).await;
        }
        match self.handoff(&held.agent, &held.node)?.pass(name).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == tonic::Code::NotFound => Err(unknown()),
            Err(status) => Err(unreachable(&held.node, &status)),
        }
    }

    /// The pod will not run here: nothing is left of its mirrors, here and, where it can be reached, at their holders.
    pub async fn drop_mirrors(self: &Arc<Self>, pod_uid: &str) {
        for held in self.mirrors.all_of_pod(pod_uid) {
            self.lower(&held).await;
            let name = held.name.about(&held.pod_uid);
            if held.node == self.name {
                let node = self.clone();
                let _ = blocking(move || node.anchors.unlink(&name)).await;
            } else if let Ok(mut client) = self.handoff(&held.agent, &held.node) {
                // One that does not hear it drops the link with its anchor, or at the next `Pass`.
                crate::task::spawn(async move { client.unlink(name).await.map(drop) });
            }
        }
    }

    /// The pod has left this node with its mirrors: what is here of them goes.
    pub async fn leave_mirrors(self: &Arc<Self>, pod_uid: &str) {
        for held in self.mirrors.all_of_pod(pod_uid) {
            self.lower(&held).await;
        }
    }

    async fn lower(self: &Arc<Self>, held: &Held) {
        let (node, gone) = (self.clone(), held.clone());
        if let Err(why) = blocking(move || node.drop_mirror(&gone)).await {
            tracing::warn!(anchor = held.name.pod_uid, reason = why.reason, message = why.message, "a mirror cannot be taken away");
        }
    }

    /// Ends the connections of a mirror, with a reset to their peers, and takes it away. Returns how many there were.
    pub async fn end(self: &Arc<Self>, held: &Held) -> u32 {
        let (node, ended) = (self.clone(), held.clone());
        let reset = blocking(move || ended.mirror.reset(&node.host.path(&ended.netns)).map_err(|error| refused(&error))).await;
        self.lower(held).await;
        reset.map_or(0, |destroyed| destroyed.established)
    }

    /// How many connections a mirror has.
    pub async fn connections(self: &Arc<Self>, held: &Held) -> Result<u32, Failure> {
        let (node, held) = (self.clone(), held.clone());
        blocking(move || held.mirror.connections(&node.host.path(&held.netns)).map_err(|error| refused(&error))).await
    }

    /// Takes away what has lost its pod or its anchor, now and then, for ever.
    pub async fn sweep_mirrors(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let all: Vec<Held> = self.mirrors.all().values().cloned().collect();
            let (node, mut used) = (self.clone(), all.iter().map(|held| held.wireguard.clone()).collect::<Vec<_>>());
            let swept = move || {
                used.extend(node.anchors.keys());
                node.wireguard.keep_only(&used);
                Ok(())
            };
            let _ = blocking(swept).await;
            for held in all {
                if !links::lives(&self.host.path(&held.netns)) {
                    self.lower(&held).await;
                } else if held.current && self.lost(&held).await {
                    tracing::info!(anchor = held.name.pod_uid, "the anchor is gone: its connections end");
                    self.end(&held).await;
                }
            }
        }
    }

    /// Whether the holder says that frames do not pass any more. No answer is no answer.
    async fn lost(&self, held: &Held) -> bool {
        self.ask_holder(held).await.is_some_and(|reply| !reply.held)
    }

    /// Whether the holder has the anchor. No answer is no answer.
    async fn is_known(&self, held: &Held) -> bool {
        self.ask_holder(held).await.is_none_or(|reply| reply.known)
    }

    async fn ask_holder(&self, held: &Held) -> Option<v1::HeldReply> {
        let name = held.name.about(&held.pod_uid);
        if held.node == self.name {
            return Some(self.anchors.held(&name));
        }
        let mut client = self.handoff(&held.agent, &held.node).ok()?;
        client.held(name).await.ok().map(tonic::Response::into_inner)
    }
}

pub(super) fn unreachable(node: &str, status: &tonic::Status) -> Failure {
    failure(
        "AnchorUnreachable",
        format!("the agent of node {node}, which holds the old address, did not answer: {}", status.message()),
        "look at the agent on that node and at the network between the nodes",
    )
}
