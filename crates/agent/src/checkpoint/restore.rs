//! Makes a new pod of a checkpoint. Its containers' `create` leave keepers, as in a migration; but there is no source, and so nobody to agree with: the pod is a copy.
//!
//! ```text
//!   waiting: a keeper for every container ─▶ images into tmpfs, each against its digest ─▶ files into the new containers ─▶ rights compared
//!   ─▶ traffic gate shut ─▶ CRIU up to post-restore ─▶ compared with what was frozen ─▶ old connections ended, traffic gate open ─▶ gate opened
//!   ─▶ marker `consumed` ─▶ runs
//! ```
//! Old connections end without a word to their peers: the pod that they belong to may still run. From the marker on a container that ends starts afresh.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use godwit_criu::{images, privileges};
use godwit_network::gate::Gate;
use godwit_node::{cgroup::Cgroup, volumes::Directory};
use godwit_rpc::v1::{Checkpoint, ContainerShape, Failure, OpenRequest, Restored, SourceContainer};
use godwit_runtime::{
    protocol::{CONSUMED, CONTAINERS, Reply},
    record::Record,
};
use tokio::sync::watch;

use super::{
    cipher::Vault,
    contents::{Contents, Images, clear},
    index::{self, Index},
    job::{Job, State},
    place::{Place, Shelf},
};
use crate::{
    convert,
    failure::{failure, internal},
    import::{
        self, Import,
        guest::{Arrival, Guest, Stand},
        leftovers,
    },
    node::Node,
    target::{
        consumed,
        desk::{Desk, KeeperOrder},
        pages::Pages,
        pod::{self, TargetPod},
    },
};

/// How long the containers of the new pod may take to come.
const COMING: Duration = Duration::from_secs(240);
/// How long CRIU may take.
const RESTORING: Duration = Duration::from_secs(300);
/// How long it may take from CRIU that waits to the gate in a pod that the runtime itself makes: the kubelet waits for that, two minutes if nobody has changed its `runtimeRequestTimeout`.
const IMPORTING: Duration = Duration::from_secs(100);
/// How long an attempt that a restart of the agent has cut off may take to end.
const ENDED: Duration = Duration::from_secs(60);
/// How long it may take from the gate to running processes.
const RESUMING: Duration = Duration::from_secs(60);
/// How long CRIU may take to tidy up.
const ENDING: Duration = Duration::from_secs(15);
/// For how long those who asked last still get an answer.
const AFTERWARDS: Duration = Duration::from_secs(30);

/// What is to be made of what.
#[derive(Clone, Debug)]
pub struct Order {
    /// UID of the PodRestore.
    pub uid: String,
    /// UID of the new pod.
    pub pod_uid: String,
    /// Its containers.
    pub containers: Vec<String>,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Digest of its index.
    pub digest: String,
    /// Where it is kept.
    pub shelf: Shelf,
    /// Its containers, if the runtime itself makes them.
    pub imports: Vec<import::Order>,
}

impl Order {
    /// What names the pod that is to come.
    #[must_use]
    pub fn arrival(&self) -> Arrival {
        Arrival { uid: self.uid.clone(), pod_uid: self.pod_uid.clone(), images: pod::images_of(&self.uid) }
    }
}

/// One restore.
pub struct Restoration {
    node: Arc<Node>,
    desk: Arc<Desk>,
    /// What was ordered.
    pub order: Order,
    /// How it stands.
    pub job: Job<Restored>,
    /// Name and id of the containers.
    keepers: Mutex<Vec<(String, String)>>,
    /// Ids of the keepers that wait for their order.
    waiting: watch::Sender<Vec<String>>,
    /// The images of the containers were found to be the right ones.
    released: watch::Sender<bool>,
    /// It is to end.
    given_up: watch::Sender<Option<Failure>>,
    /// From here on no new container is taken.
    closed: Mutex<bool>,
    /// What an encrypted checkpoint is decrypted with, until that has begun.
    vault: Mutex<Option<Vault>>,
}

impl Restoration {
    /// Begins it, unless the pod has been restored already.
    #[must_use]
    pub fn begin(node: Arc<Node>, desk: Arc<Desk>, order: Order, vault: Option<Vault>) -> Arc<Self> {
        let ran = already_ran(&node, &order.pod_uid);
        let restoration = Arc::new(Self {
            node,
            desk,
            order,
            job: Job::new("waiting for the containers"),
            keepers: Mutex::default(),
            waiting: watch::Sender::default(),
            released: watch::Sender::default(),
            given_up: watch::Sender::default(),
            closed: Mutex::new(ran),
            vault: Mutex::new(vault.filter(|_| !ran)),
        });
        if ran {
            restoration.job.end(Ok(Restored::default()));
        } else {
            tokio::spawn(restoration.clone().run());
        }
        restoration
    }

    /// Decides about a `create` of a container of the new pod.
    pub fn create(self: &Arc<Self>, name: &str, id: &str) -> Reply {
        if !self.order.containers.iter().any(|known| known == name) {
            // An init container: it was done when the checkpoint was made.
            self.desk.seat(id).order(|orders| orders.keeper = Some(KeeperOrder::Exit(0)));
            return Reply::Keep;
        }
        match self.job.state() {
            State::Done(_) => return Reply::Plain,
            State::Failed(why) => return Reply::Fail { why: why.message },
            State::Doing(_) => {}
        }
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return Reply::Fail { why: "this restore does not take a new container now".into() };
        }
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = keepers.iter().position(|(known, _)| known == name) {
            let (_, old) = keepers.remove(position);
            self.waiting.send_modify(|waiting| waiting.retain(|known| *known != old));
            self.desk.clear(&old);
        }
        keepers.push((name.to_owned(), id.to_owned()));
        tokio::spawn(self.clone().attend(name.to_owned(), id.to_owned()));
        Reply::Keep
    }

    /// It may begin once its keepers are there.
    pub fn release(&self) {
        self.released.send_if_modified(|released| !std::mem::replace(released, true));
    }

    /// Gives it up, if it has not ended.
    pub fn abandon(&self) {
        self.end(failure("Cancelled", "the restore was given up", "order it again when you want the pod"));
    }

    /// The same, for another reason; the first one counts.
    pub fn end(&self, why: Failure) {
        self.given_up.send_if_modified(|given_up| {
            let first = given_up.is_none();
            given_up.get_or_insert(why);
            first
        });
    }

    /// How it stands with containers that the runtime itself makes.
    #[must_use]
    pub fn stand(&self) -> Stand {
        match (self.job.ended(), *self.closed.lock().unwrap_or_else(PoisonError::into_inner)) {
            (true, _) => Stand::Over,
            (false, true) => Stand::Counted,
            (false, false) => Stand::Open,
        }
    }

    /// Notes what is seen of a container, and answers what asks for nothing but that.
    async fn attend(self: Arc<Self>, name: String, id: String) {
        let seat = self.desk.seat(&id);
        let mut seen = seat.watch();
        while self.knows(&id) {
            let now = seen.borrow_and_update().clone();
            self.waiting.send_modify(|waiting| {
                waiting.retain(|known| *known != id);
                if now.keeper {
                    waiting.push(id.clone());
                }
            });
            if let Some(pid) = now.gate {
                self.node.deaths.first(&self.order.pod_uid, &name, pid);
            }
            if now.resumed.is_some() {
                // Before anybody is told: from here on `create` starts it afresh.
                while let Err(error) = consumed::mark(&self.node.host, &self.order.pod_uid) {
                    tracing::error!(%error, "the consumed marker cannot be written; waiting");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
            seat.order(|orders| orders.noted = now);
            let gone = async {
                while self.knows(&id) {
                    tokio::time::sleep(AFTERWARDS).await;
                }
            };
            tokio::select! {
                changed = seen.changed() => if changed.is_err() { return },
                () = gone => return,
            }
        }
    }

    fn knows(&self, id: &str) -> bool {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|(_, known)| known == id)
    }

    fn seats(&self) -> Vec<(String, String)> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn run(self: Arc<Self>) {
        let mut given_up = self.given_up.subscribe();
        let outcome = tokio::select! {
            outcome = self.work() => outcome,
            why = wish(&mut given_up) => Err(why),
        };
        self.node.imports.remove(&self.node.host, &self.order.uid);
        match outcome {
            Ok(restored) => {
                tracing::info!(restore = self.order.uid, pod = self.order.pod_uid, "a pod was restored from a checkpoint");
                self.node.deaths.runs(&self.order.pod_uid);
                self.job.end(Ok(restored));
            }
            Err(why) => {
                tracing::warn!(restore = self.order.uid, reason = why.reason, message = why.message, "a pod was not restored");
                self.node.deaths.forget(&self.order.pod_uid);
                self.dismiss(&why.message).await;
                self.job.end(Err(why));
            }
        }
        pod::tidy(&self.node.host, &self.order.uid);
        tokio::time::sleep(AFTERWARDS).await;
        let keepers = std::mem::take(&mut *self.keepers.lock().unwrap_or_else(PoisonError::into_inner));
        keepers.iter().for_each(|(_, id)| self.desk.clear(id));
    }

    /// Nothing of the containers will run. Returns when CRIU has tidied up after itself: the pod is deleted next, and a CRIU that is killed leaves mounts behind.
    async fn dismiss(&self, why: &str) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let seats: Vec<_> = self.seats().iter().map(|(_, id)| self.desk.seat(id)).collect();
        seats.iter().for_each(|seat| pod::abort(seat, why));
        let ended = seats.iter().map(|seat| async {
            let mut seen = seat.watch();
            let _ = seen.wait_for(|seen| seen.restored.is_some() || seen.resumed.is_some() || !(seen.images || seen.gate.is_some())).await;
        });
        if tokio::time::timeout(ENDING, futures::future::join_all(ended)).await.is_err() {
            tracing::warn!(restore = self.order.uid, "a restore that was taken back has not ended yet");
        }
    }

    async fn work(self: &Arc<Self>) -> Result<Restored, Failure> {
        let (node, order) = (&self.node, &self.order);
        // Before any container is waited for: what is plain is said at once.
        let shelf = Place::open(node, &order.shelf, &order.uid)?;
        let vault = self.vault.lock().unwrap_or_else(PoisonError::into_inner).take();
        let index = shelf.fetch(&order.checkpoint, &order.digest, vault.as_ref()).await?;
        same_containers(&index, &order.containers)?;
        let contents = Arc::new(Contents { place: shelf.store.place(&order.checkpoint), checkpoint: order.checkpoint.clone(), index, vault });
        if !leftovers::await_forgotten(&node.host, &order.uid, ENDED).await {
            return Err(failure(
                "RestoreTimedOut",
                "what an agent that was restarted has begun does not end",
                "look at CRIU on the new pod's node; restore again",
            ));
        }
        if already_ran(node, &order.pod_uid) {
            return Ok(Restored::default());
        }
        let here = node.host.path(pod::images_of(&order.uid));
        clear(&here)?;
        self.step("images").await?;
        contents.bring_images(&here, Images::Most).await?;
        self.import(&contents.index)?;
        self.all_there().await?;
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        node.imports.remove(&node.host, &order.uid);
        let restored = self.restore(&contents, &here);
        let (target, gate) = if order.imports.is_empty() { restored.await } else { tokio::time::timeout(IMPORTING, restored).await.map_err(|_| slow())? }?;
        drop((contents, shelf));
        target.end_connections()?;
        gate.open().map_err(|error| internal("cannot open the traffic gate", error))?;
        self.job.step("resume");
        target.open_gate();
        tokio::time::timeout(RESUMING, target.resumed()).await.map_err(|_| late())??;
        Ok(Restored::default())
    }

    /// From containers that wait to one that stands at the gate, and is what was frozen.
    async fn restore(&self, contents: &Arc<Contents>, here: &Path) -> Result<(TargetPod, Gate), Failure> {
        let (node, order, index) = (&self.node, &self.order, &contents.index);
        contents.bring_images(here, Images::Inventory).await?;
        let ips = index.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        let target = TargetPod::find(&node.host, &node.cri, &self.desk, &order.uid, &order.pod_uid, &self.seats(), ips).await?;
        self.step("files").await?;
        for (number, described) in index.directories.iter().enumerate() {
            let directory = counterpart(&target.directories, described)?;
            contents.bring_files(number, directory).await?;
        }
        self.step("rights").await?;
        self.compare_rights(&target, index, here)?;
        self.step("restore").await?;
        node.deaths.watch(&node.host, &order.pod_uid, &order.uid);
        let gate = self.cut_off(&target)?;
        let pages = Arc::new(Pages::below(here.to_path_buf()));
        target.open(&request(index), &pages).await?;
        target.verify_images(&pages).await?;
        target.images_go();
        tokio::time::timeout(RESTORING, target.at_gate()).await.map_err(|_| late())??;
        self.step("verify").await?;
        let shapes = index
            .containers
            .iter()
            .map(|container| ContainerShape { name: container.name.clone(), shape: serde_json::to_vec(&container.shape).unwrap_or_default() });
        let shapes: Vec<_> = shapes.collect();
        target.verify(&shapes).await?;
        node.deaths.listen(&order.pod_uid, target.voices(&shapes));
        Ok((target, gate))
    }

    async fn step(&self, step: &'static str) -> Result<(), Failure> {
        self.job.step(step);
        godwit_fault::point(&format!("agent.restore.{step}")).await.map_err(|error| internal("stopped", error))
    }

    /// Has the runtime make the containers, if that was ordered.
    fn import(self: &Arc<Self>, index: &Index) -> Result<(), Failure> {
        let (node, order) = (&self.node, &self.order);
        if order.imports.is_empty() {
            return Ok(());
        }
        let orders: Vec<_> =
            order.imports.iter().map(|import| archived(index, import.name()).map(|archived| import.with(archived))).collect::<Result<_, _>>()?;
        let import = Arc::new(Import::of(order.arrival(), &orders, node.cri.kind())?);
        node.imports.add(&node.host, import.clone()).map_err(|error| internal("CRIU cannot be led to its configuration", error))?;
        for name in import.names() {
            let guest = Guest::Restore(self.clone());
            crate::task::spawn(import::keep(node.clone(), self.desk.clone(), guest, import.clone(), name.to_owned(), None));
        }
        Ok(())
    }

    /// Until every container has its keeper.
    async fn all_there(&self) -> Result<(), Failure> {
        let (mut waiting, mut released) = (self.waiting.subscribe(), self.released.subscribe());
        let all = self.order.containers.len();
        let there = async {
            // Either fails only when this restore itself is gone.
            let _ = released.wait_for(|released| *released).await;
            let _ = waiting.wait_for(|waiting| waiting.len() >= all).await;
        };
        tokio::time::timeout(COMING, there).await.map_err(|_| {
            failure(
                "KeeperStuck",
                "not all containers of the new pod were created in time",
                "look at the events of the new pod: its image and volumes must be to be had on the node",
            )
        })
    }

    /// Nothing enters or leaves the new pod while it is restored: its old connections may be alive elsewhere.
    fn cut_off(&self, target: &TargetPod) -> Result<Gate, Failure> {
        let gate = Gate::new(&self.node.host.path(target.netns()?), &self.order.uid).map_err(|error| internal("cannot reach the pod's network", error))?;
        // An attempt that was cut off may have left it shut.
        gate.open().and_then(|()| gate.shut()).map_err(|error| internal("cannot shut the traffic gate", error))?;
        Ok(gate)
    }

    /// What processes of the images may do, against what the new pod's own containers may; and whether there is room for them.
    fn compare_rights(&self, target: &TargetPod, index: &Index, here: &Path) -> Result<(), Failure> {
        for (name, container) in target.containers() {
            let set = images::Set::open(&here.join(name)).map_err(|problem| convert::criu_failure(&problem.failure(), name))?;
            let more = privileges::beyond(&set, &container.spec.raw).map_err(|problem| convert::criu_failure(&problem.failure(), name))?;
            if !more.is_empty() {
                return Err(failure(
                    "MorePrivileges",
                    format!("container {name}: its processes could do more than the new pod may: {}", more.join("; ")),
                    "give the new pod the rights that the old one had, if the policies of the namespace let you; or do without this checkpoint",
                ));
            }
            let need = index.containers.iter().find(|one| one.name == *name).map_or(0, |one| one.resident);
            let limit = Cgroup::of(&self.node.host, container.pid).ok().and_then(|cgroup| cgroup.memory_limit());
            if let Some(limit) = limit.filter(|limit| *limit < need) {
                return Err(failure(
                    "MemoryLimitTooLow",
                    format!("container {name} had {} MiB in memory, the new one may have {} MiB", need >> 20, limit >> 20),
                    "raise its memory limit",
                ));
            }
        }
        Ok(())
    }
}

/// Why it is to end.
async fn wish(given_up: &mut watch::Receiver<Option<Failure>>) -> Failure {
    match given_up.wait_for(Option::is_some).await.map(|why| why.clone()) {
        Ok(Some(why)) => why,
        // The sender is the restore's own.
        _ => std::future::pending().await,
    }
}

/// What the runtime must know of a container that it is to make by itself.
fn archived(index: &Index, name: &str) -> Result<Vec<u8>, Failure> {
    let container = index.containers.iter().find(|container| container.name == name);
    let archived = container.and_then(|container| container.archived.as_ref()).ok_or_else(|| {
        let remedy = "use engine: Live, or make another checkpoint where the chart's value engines.checkpoint is on";
        failure("NoImport", format!("the checkpoint does not say of container {name} what its runtime would have to know"), remedy)
    })?;
    serde_json::to_vec(archived).map_err(|error| internal("the checkpoint's index", error))
}

fn late() -> Failure {
    failure("RestoreTimedOut", "CRIU did not finish the restore", "look at restore.log on the new pod's node")
}

fn slow() -> Failure {
    let message = format!("files and images did not come within {} s, and a kubelet does not wait longer for its runtime", IMPORTING.as_secs());
    failure("RestoreTimedOut", message, "use engine: Live, or a faster store")
}

fn same_containers(index: &Index, wanted: &[String]) -> Result<(), Failure> {
    let there: std::collections::BTreeSet<&str> = index.containers.iter().map(|container| container.name.as_str()).collect();
    let wanted: std::collections::BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    if there == wanted {
        return Ok(());
    }
    Err(failure(
        "ContainerMissing",
        format!("the checkpoint has the containers {there:?}, the new pod {wanted:?}"),
        "the new pod must have the containers that ran when the checkpoint was made, and no others",
    ))
}

fn counterpart<'a>(directories: &'a [Directory], described: &index::Directory) -> Result<&'a Directory, Failure> {
    directories.iter().find(|directory| directory.kind.to_string() == described.kind && directory.container == described.container).ok_or_else(|| {
        failure(
            "VolumeMissing",
            format!("the new pod has nothing for {} of the old one", described.kind),
            "do not change the new pod's spec on the way (admission webhooks)",
        )
    })
}

/// What a migration's source says when it opens the target.
fn request(index: &Index) -> OpenRequest {
    let containers = index.containers.iter().map(|container| SourceContainer {
        name: container.name.clone(),
        descriptors: container.descriptors.clone(),
        hostname: index.hostname.clone(),
        externals: serde_json::to_vec(&container.externals).unwrap_or_default(),
        ..SourceContainer::default()
    });
    OpenRequest { source_ips: index.ips.clone(), containers: containers.collect(), ..OpenRequest::default() }
}

/// Whether processes of this pod have run: its marker says so, or what a keeper has left; then the marker is made.
fn already_ran(node: &Node, pod_uid: &str) -> bool {
    if node.host.path(CONSUMED).join(pod_uid).exists() {
        return true;
    }
    let folders = std::fs::read_dir(node.host.path(CONTAINERS)).into_iter().flatten().flatten();
    let ran = folders.map(|entry| entry.path()).any(|folder| {
        let record = std::fs::read(folder.join("record.json")).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        record.is_some_and(|record| record.pod_uid == pod_uid) && folder.join("resuming").exists()
    });
    if ran && let Err(error) = consumed::mark(&node.host, pod_uid) {
        tracing::error!(%error, pod = pod_uid, "the consumed marker cannot be written: containers of this pod cannot start again");
    }
    ran
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_containers_must_be_the_same() {
        let index = Index { containers: vec![index::Container { name: "web".into(), ..index::Container::default() }], ..Index::default() };
        assert!(same_containers(&index, &["web".into()]).is_ok());
        assert_eq!(same_containers(&index, &["web".into(), "log".into()]).unwrap_err().reason, "ContainerMissing");
        assert_eq!(same_containers(&index, &[]).unwrap_err().reason, "ContainerMissing");
    }
}
