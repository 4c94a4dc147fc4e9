//! The anchors of this node: old pods, sealed or about to be, whose addresses live on in new pods. Decides nothing; every call may be repeated.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use godwit_network::{
    Attachment, Gate, Mirror, addresses, attachment::is_link_local, close, echo, here, links, neighbours, neighbours::Neighbour, sockets, sockets::Ends,
};
use godwit_node::host::Host;
use godwit_rpc::v1::{AnchorName, Failure, HeldReply};
use serde::{Deserialize, Serialize};

use super::{Name, refused, segment, segment::Kept};
use crate::{
    failure::{failure, internal},
    journal::Journal,
    node::Node,
};

/// Role name in the journal.
pub const ROLE: &str = "anchor";
/// How long the other end may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// For how long the other end may ask whether frames get through.
const ECHO: Duration = Duration::from_secs(5);
/// How long a pod may take to take in connections that have begun, while it still runs: meanwhile none begins. Mostly it needs a millisecond; on a node that is busy, longer.
const SETTLING: Duration = Duration::from_secs(1);
/// The reason of [`unknown`].
pub const UNKNOWN: &str = "AnchorUnknown";
/// Beginning of the interfaces' names.
const PREFIX: &str = "anc";

/// Whom frames go to.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Link {
    /// This end, in the old pod's namespace; empty where there is none.
    pub device: String,
    /// The address moves on its segment by itself: no frame passes through here.
    #[serde(default)]
    pub segment: bool,
    /// UID of the new pod.
    pub target_pod_uid: String,
    /// Its node.
    pub node: String,
    /// host:port of that node's agent.
    pub agent: String,
    /// That node's public key, if the tunnel is encrypted.
    #[serde(default)]
    pub wireguard: Vec<u8>,
}

/// One old pod.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Anchor {
    /// Its name.
    pub name: Name,
    /// The old pod's network namespace, as the node names it.
    pub netns: PathBuf,
    /// What lives on.
    pub attachment: Attachment,
    /// What lived on in the old pod, and on its segment, when it moved.
    #[serde(default)]
    pub earlier: Vec<Attachment>,
    /// Ends of tunnels.
    pub links: Vec<Link>,
    /// The new pod to which frames pass.
    pub current: Option<String>,
}

impl Anchor {
    /// The new pod to which frames pass.
    #[must_use]
    pub fn passes_to(&self) -> Option<&Link> {
        let current = self.current.as_ref()?;
        self.links.iter().find(|link| &link.target_pod_uid == current)
    }

    fn link(&self, target: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.target_pod_uid == target)
    }
}

struct Entry {
    anchor: Anchor,
    /// Connections that nobody had in hand when the anchor was announced, and so perhaps nobody ever will: nobody waits for them. After a restart none is known.
    neglected: HashSet<Ends>,
    /// Right before the freeze every connection was in some program's hands. Since then none has begun.
    all_taken: bool,
    /// Whom the old pod knew right before the freeze. Since then it can ask nobody.
    neighbours: Vec<Neighbour>,
    /// By the new pod.
    holds: HashMap<String, Kept>,
}

impl Entry {
    fn new(anchor: Anchor) -> Self {
        Self { anchor, neglected: HashSet::new(), all_taken: false, neighbours: Vec::new(), holds: HashMap::new() }
    }
}

/// See the module.
pub struct Holder {
    journal: Journal,
    host: Host,
    anchors: Mutex<HashMap<String, Entry>>,
}

impl Holder {
    /// Reads what the journal holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(journal: Journal, host: Host) -> std::io::Result<Self> {
        let anchors: Vec<Anchor> = journal.load(ROLE)?;
        let anchors = anchors.into_iter().map(|anchor| (anchor.name.pod_uid.clone(), Entry::new(anchor))).collect();
        Ok(Self { journal, host, anchors: Mutex::new(anchors) })
    }

    /// Forgets anchors of pods that no migration knows any more.
    pub fn keep_only(&self, known: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.all().keys().filter(|uid| !known(uid)).cloned().collect();
        for uid in gone {
            tracing::info!(pod = uid, "an anchor without a migration is taken away");
            if let Err(why) = self.remove(&uid) {
                tracing::warn!(pod = uid, reason = why.reason, message = why.message, "an anchor cannot be taken away");
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.anchors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, anchor: &Anchor) -> Result<(), Failure> {
        self.journal.write(ROLE, &anchor.name.pod_uid, anchor).map_err(|error| internal("cannot write the journal", error))
    }

    /// The anchor, if there is one and the ticket is its.
    #[must_use]
    pub fn find(&self, name: &AnchorName) -> Option<Anchor> {
        self.all().get(&name.pod_uid).map(|entry| entry.anchor.clone()).filter(|anchor| anchor.name.knows(&name.ticket))
    }

    /// Whether there is such an anchor, and its frames pass to that pod.
    #[must_use]
    pub fn held(&self, name: &AnchorName) -> HeldReply {
        let anchor = self.find(name);
        HeldReply { held: anchor.as_ref().is_some_and(|anchor| anchor.current.as_ref() == Some(&name.target_pod_uid)), known: anchor.is_some() }
    }

    /// The anchor of a pod of this node.
    #[must_use]
    pub fn of(&self, pod_uid: &str) -> Option<Anchor> {
        self.all().get(pod_uid).map(|entry| entry.anchor.clone())
    }

    /// From now on there may be links to the old pod. What an earlier migration left goes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn announce(&self, anchor: Anchor) -> Result<(), Failure> {
        self.remove(&anchor.name.pod_uid)?;
        self.write(&anchor)?;
        let neglected = sockets::unsettled(&self.host.path(&anchor.netns)).unwrap_or_default();
        self.all().insert(anchor.name.pod_uid.clone(), Entry { neglected, ..Entry::new(anchor) });
        Ok(())
    }

    /// Makes this node's end of a tunnel to `link`, whose device is named here. False: the VNI is used here.
    ///
    /// # Errors
    /// When there is no such anchor, or the kernel refuses.
    pub fn tunnel(&self, name: &AnchorName, link: Link, tunnel: links::Tunnel) -> Result<bool, Failure> {
        self.connect(name, link, |netns, device| match links::make_tunnel(netns, device, tunnel, None) {
            Ok(()) => Ok(true),
            Err(error) if error.is_taken() => Ok(false),
            Err(error) => Err(refused(&error)),
        })
    }

    /// The keys of the nodes to which encrypted tunnels go.
    #[must_use]
    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.all().values().flat_map(|entry| &entry.anchor.links).map(|link| link.wireguard.clone()).filter(|key| !key.is_empty()).collect()
    }

    /// Makes a pair of interfaces to a new pod on this very node.
    ///
    /// # Errors
    /// As [`Holder::tunnel`].
    pub fn patch(&self, name: &AnchorName, link: Link, new_netns: &Path, mirror: &Mirror) -> Result<(), Failure> {
        self.connect(name, link, |netns, device| {
            links::make_patch(new_netns, &mirror.device, mirror.old.mac, netns, device).map(|()| true).map_err(|error| refused(&error))
        })
        .map(drop)
    }

    /// Notes a new pod on the old one's network segment: there is nothing to make.
    ///
    /// # Errors
    /// When there is no such anchor, or the kernel refuses to take an earlier link to that pod away.
    pub fn adjoin(&self, name: &AnchorName, link: Link) -> Result<(), Failure> {
        let mut all = self.all();
        let entry = all.get_mut(&name.pod_uid).filter(|entry| entry.anchor.name.knows(&name.ticket)).ok_or_else(unknown)?;
        if let Some(old) = entry.anchor.link(&link.target_pod_uid).filter(|old| **old != link).cloned() {
            segment::unlink(&self.host.path(&entry.anchor.netns), &old).map_err(|error| refused(&error))?;
        }
        entry.anchor.links.retain(|known| known.target_pod_uid != link.target_pod_uid);
        entry.anchor.links.push(link);
        self.write(&entry.anchor)
    }

    fn connect(&self, name: &AnchorName, mut link: Link, make: impl FnOnce(&Path, &str) -> Result<bool, Failure>) -> Result<bool, Failure> {
        let mut all = self.all();
        let entry = all.get_mut(&name.pod_uid).filter(|entry| entry.anchor.name.knows(&name.ticket)).ok_or_else(unknown)?;
        let netns = self.host.path(&entry.anchor.netns);
        if let Some(old) = entry.anchor.link(&link.target_pod_uid).cloned() {
            // Tried before, by an attempt that did not get through.
            segment::unlink(&netns, &old).map_err(|error| refused(&error))?;
            entry.anchor.links.retain(|known| known != &old);
        }
        link.device = links::free_name(&netns, PREFIX).map_err(|error| refused(&error))?;
        let device = link.device.clone();
        entry.anchor.links.push(link);
        self.write(&entry.anchor)?;
        let made = make(&netns, &device);
        if !matches!(made, Ok(true)) {
            entry.anchor.links.retain(|known| known.device != device);
            self.write(&entry.anchor)?;
            return made;
        }
        links::up_as_pipe(&netns, &device, entry.anchor.attachment.mtu).map_err(|error| refused(&error))?;
        std::thread::spawn(move || echo::answer(&netns, &device, ECHO));
        Ok(true)
    }

    /// Takes a link away through which nothing passes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unlink(&self, name: &AnchorName) -> Result<(), Failure> {
        let mut all = self.all();
        let Some(entry) = all.get_mut(&name.pod_uid).filter(|entry| entry.anchor.name.knows(&name.ticket)) else { return Ok(()) };
        if entry.anchor.current.as_deref() == Some(&name.target_pod_uid) {
            return Ok(());
        }
        entry.holds.remove(&name.target_pod_uid);
        if let Some(link) = entry.anchor.link(&name.target_pod_uid).cloned() {
            segment::unlink(&self.host.path(&entry.anchor.netns), &link).map_err(|error| refused(&error))?;
            entry.anchor.links.retain(|known| known != &link);
            self.write(&entry.anchor)?;
        }
        Ok(())
    }

    /// Keeps what arrives from now on for every new pod to which nothing passes yet.
    ///
    /// # Errors
    /// When the kernel refuses; then it is sent again by who sent it.
    pub fn hold(&self, pod_uid: &str) -> Result<(), Failure> {
        self.keep(pod_uid, |entry, netns, link| match entry.holds.get(&link.target_pod_uid) {
            Some(hold) => hold.keep_everything().map(|()| None),
            None => Kept::begin(netns, &entry.anchor.attachment.device, link).map(Some),
        })
    }

    /// A moment before the freeze: no connection begins any more, what begins one is kept, and those that have begun are given a moment to be taken in. What is in
    /// no program's hands does not move.
    ///
    /// # Errors
    /// When the kernel refuses; then connections that begin at this very moment are reset.
    pub fn settle(&self, pod_uid: &str) -> Result<(), Failure> {
        let known = self.all().get(pod_uid).map(|entry| (entry.anchor.clone(), entry.neglected.clone()));
        let Some((Anchor { netns, attachment, .. }, neglected)) = known else { return Ok(()) };
        self.keep(pod_uid, |_, netns, link| Kept::begin_with_beginnings(netns, &attachment.device, link).map(Some))?;
        let netns = self.host.path(&netns);
        let gate = Gate::new(&netns, pod_uid).map_err(|error| refused(&error))?;
        gate.narrow(&attachment.device).map_err(|error| refused(&error))?;
        let (left, known) = std::thread::scope(|scope| {
            // The next change of rules would wait for what this one has taken away, in the freeze: it is waited for here.
            scope.spawn(|| drop(gate));
            let (end, look) = (Instant::now() + SETTLING, || sockets::unsettled(&netns).map_err(|error| refused(&error)));
            let mut left = look()?;
            while Instant::now() < end && !left.is_subset(&neglected) {
                std::thread::sleep(Duration::from_millis(1));
                left = look()?;
            }
            let known = if left.is_empty() { Vec::new() } else { neighbours::known(&netns, &attachment.device).unwrap_or_default() };
            Ok((left, known))
        })?;
        if let Some(entry) = self.all().get_mut(pod_uid) {
            entry.all_taken = left.is_empty();
            entry.neighbours = known;
        }
        Ok(())
    }

    fn keep(&self, pod_uid: &str, mut make: impl FnMut(&Entry, &Path, &Link) -> Result<Option<Kept>, godwit_network::Error>) -> Result<(), Failure> {
        let mut all = self.all();
        let Some(entry) = all.get_mut(pod_uid) else { return Ok(()) };
        let netns = self.host.path(&entry.anchor.netns);
        for link in entry.anchor.links.clone().iter().filter(|link| entry.anchor.current.as_ref() != Some(&link.target_pod_uid)) {
            if let Some(hold) = make(entry, &netns, link).map_err(|error| refused(&error))? {
                entry.holds.insert(link.target_pod_uid.clone(), hold);
            }
        }
        Ok(())
    }

    /// Frames pass to this pod from now on and to no other.
    ///
    /// # Errors
    /// When there is no such anchor or link, or the kernel refuses.
    pub fn pass(&self, name: &AnchorName) -> Result<(), Failure> {
        let mut all = self.all();
        let entry = all.get_mut(&name.pod_uid).filter(|entry| entry.anchor.name.knows(&name.ticket)).ok_or_else(unknown)?;
        let link = entry.anchor.link(&name.target_pod_uid).cloned().ok_or_else(unknown)?;
        let netns = self.host.path(&entry.anchor.netns);
        let_pass(entry, &netns, &link)?;
        if let Some(hold) = entry.holds.remove(&name.target_pod_uid) {
            match hold.release(&netns, &entry.anchor, own_addresses()) {
                Ok(frames) => tracing::debug!(pod = name.pod_uid, frames, "passed on what was kept"),
                Err(error) => tracing::warn!(pod = name.pod_uid, %error, "what was kept is lost; it will be sent again"),
            }
        }
        close::elsewhere(std::mem::take(&mut entry.holds));
        entry.anchor.current = Some(link.target_pod_uid.clone());
        let (stays, others): (Vec<Link>, Vec<Link>) = entry.anchor.links.drain(..).partition(|known| *known == link);
        entry.anchor.links = stays;
        self.write(&entry.anchor)?;
        for other in others {
            if let Err(error) = segment::unlink(&netns, &other) {
                tracing::warn!(device = other.device, %error, "a link to where the pod was before cannot be taken away");
            }
        }
        Ok(())
    }

    /// After a restart: frames pass as before. False: none did.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn resume(&self, pod_uid: &str) -> Result<bool, Failure> {
        let all = self.all();
        let Some(entry) = all.get(pod_uid) else { return Ok(false) };
        let Some(link) = entry.anchor.passes_to() else { return Ok(false) };
        let_pass(entry, &self.host.path(&entry.anchor.netns), link).map(|()| true)
    }

    /// Takes everything of an anchor away but the gate.
    ///
    /// # Errors
    /// When the kernel or the disk refuses.
    pub fn remove(&self, pod_uid: &str) -> Result<(), Failure> {
        let mut all = self.all();
        let Some(entry) = all.get_mut(pod_uid) else { return Ok(()) };
        close::elsewhere(std::mem::take(&mut entry.holds));
        let netns = self.host.path(&entry.anchor.netns);
        for link in &entry.anchor.links {
            segment::unlink(&netns, link).map_err(|error| refused(&error))?;
        }
        self.journal.remove(ROLE, pod_uid).map_err(|error| internal("cannot write the journal", error))?;
        all.remove(pod_uid);
        Ok(())
    }
}

fn let_pass(entry: &Entry, netns: &Path, link: &Link) -> Result<(), Failure> {
    let Anchor { name, attachment, .. } = &entry.anchor;
    let gate = Gate::new(netns, &name.pod_uid).map_err(|error| refused(&error))?;
    // Peers wait, and the kernel takes some milliseconds to list sockets.
    let untaken = if entry.all_taken { Vec::new() } else { sockets::untaken(netns, &attachment.ips).unwrap_or_default() };
    // What it learns while it stands still counts for more, but some may be forgotten by then.
    let mut known = entry.neighbours.clone();
    if !untaken.is_empty() {
        known.extend(neighbours::known(netns, &attachment.device).unwrap_or_default());
    }
    if link.segment {
        gate.last(|gate| gate.seal(&untaken)).and_then(|()| segment::give_away(netns, &entry.anchor)).map_err(|error| refused(&error))?;
    } else {
        gate.last(|gate| gate.connect(netns, &attachment.device, &link.device, &own_addresses(), &untaken)).map_err(|error| refused(&error))?;
    }
    // Nobody knows them at the target: their peers would wait for ever.
    if !untaken.is_empty()
        && let Err(error) = neighbours::remember(netns, &attachment.device, &known).and_then(|()| sockets::refuse(netns, &untaken))
    {
        tracing::warn!(pod = name.pod_uid, %error, connections = untaken.len(), "the peers of connections that nobody had taken in are not told");
    }
    Ok(())
}

/// What a holder and its mirror say of themselves.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// There is a new pod with the old addresses.
    pub held: bool,
    /// That pod is on its way to another node.
    pub busy: bool,
    /// Connections of the old addresses.
    pub connections: u32,
    /// Node of the new pod.
    pub node: String,
    /// The old addresses.
    pub addresses: Vec<String>,
    /// Why the new pod's node could not be asked.
    pub failure: Option<Failure>,
}

impl Node {
    /// What the anchor of an old pod of this node holds.
    pub async fn look_at_anchor(self: &Arc<Self>, pod_uid: &str) -> Look {
        let Some(anchor) = self.anchors.of(pod_uid) else { return Look::default() };
        // Right after the switch nothing may pass yet: the new pod's node is about to ask for it.
        let Some(link) = anchor.passes_to().or_else(|| anchor.links.first()).cloned() else { return Look::default() };
        let mut look = Look {
            held: true,
            busy: anchor.links.len() > 1,
            node: link.node.clone(),
            addresses: anchor.attachment.addresses().map(|ip| ip.to_string()).collect(),
            ..Look::default()
        };
        match self.ask_mirror(&anchor, &link, false).await {
            Ok(Some(connections)) => look.connections = connections,
            // The new pod has gone, and its connections with it.
            Ok(None) => look.held = look.busy,
            Err(why) => look.failure = Some(why),
        }
        look
    }

    /// The pod goes on here: what was made for its anchor goes. Its traffic is as it is.
    pub fn take_back_anchor(&self, pod_uid: &str) {
        if let Err(why) = self.anchors.remove(pod_uid) {
            tracing::warn!(pod = pod_uid, reason = why.reason, message = why.message, "an end of a tunnel cannot be taken away");
        }
    }

    /// Ends the connections of an anchor of this node and lets nothing pass any more.
    pub async fn end_anchor(self: &Arc<Self>, pod_uid: &str) {
        let Some(anchor) = self.anchors.of(pod_uid) else { return };
        if let Some(link) = anchor.passes_to()
            && let Err(why) = self.ask_mirror(&anchor, link, true).await
        {
            tracing::warn!(pod = pod_uid, reason = why.reason, message = why.message, "the other end is told no more; it will find out");
        }
        let (node, uid) = (self.clone(), pod_uid.to_owned());
        let removed = super::blocking(move || {
            // Sealed as before, with nothing that passes.
            if let Ok(gate) = Gate::new(&node.host.path(&anchor.netns), &uid) {
                gate.shut().map_err(|error| refused(&error))?;
            }
            node.anchors.remove(&uid)
        });
        if let Err(why) = removed.await {
            tracing::warn!(pod = pod_uid, reason = why.reason, message = why.message, "an anchor cannot be taken away");
        }
    }

    /// `None`: the other end does not know the mirror (any more).
    async fn ask_mirror(self: &Arc<Self>, anchor: &Anchor, link: &Link, end: bool) -> Result<Option<u32>, Failure> {
        let name = anchor.name.about(&link.target_pod_uid);
        if link.node == self.name {
            return self.answer_mirror(&name, end).await;
        }
        let mut client = self.handoff(&link.agent, &link.node)?;
        let ask = async { if end { client.end_connections(name).await } else { client.connections(name).await } };
        let reply = tokio::time::timeout(PATIENCE, ask).await;
        let away =
            |why: &str| failure("AnchorPeerUnreachable", format!("the agent of node {} did not answer: {why}", link.node), "look at the agent on that node");
        match reply {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                Ok(reply.known.then_some(reply.connections))
            }
            Ok(Err(status)) => Err(away(status.message())),
            Err(_) => Err(away("too late")),
        }
    }

    /// The other end of [`Node::look_at_anchor`] and [`Node::end_anchor`].
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn answer_mirror(self: &Arc<Self>, name: &AnchorName, end: bool) -> Result<Option<u32>, Failure> {
        match self.mirrors.find(name) {
            None => Ok(None),
            Some(held) if end => Ok(Some(self.end(&held).await)),
            Some(held) => self.connections(&held).await.map(Some),
        }
    }
}

/// What probes and hooks of this node's kubelet come from: no link-local address of IPv6, as the pod's own address is none.
pub fn own_addresses() -> Vec<IpAddr> {
    let all = addresses::list(here()).unwrap_or_default();
    all.into_iter().map(|(_, ip)| ip).filter(|ip| !ip.is_loopback() && !is_link_local(*ip)).collect()
}

/// There is no such anchor on this node.
pub fn unknown() -> Failure {
    failure(UNKNOWN, "this node has no such anchor (any more)", "nothing is to be done: the connections have ended")
}
