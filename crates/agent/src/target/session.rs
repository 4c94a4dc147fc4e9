//! One migration in the target role: drives `godwit_migration::handover::target::Machine`, event by event, and does what it says.
//!
//! ```text
//!   PrepareTarget, Undo (controller)        ─┐                          ┌─▶ journal, orders to keepers, stand-ins and gates, verification  (here)
//!   Open, Files, Restore, Ask (source agent) ─┼─▶ commands ─▶ Machine ──┼─▶ Handover (API server)  ─┐
//!   what keepers, stand-ins and gates report ─┘        ▲                └─▶ Handoff.Sealed (source) ─┤
//!                                                      └────────────── answers ◀─────────────────────┘
//! ```

mod worker;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use godwit_migration::handover::{
    PeerState,
    target::{Event, Machine, State},
};
use godwit_rpc::v1::{self, AwaitKeepersReply, ContainerShape, Migration, OpenRequest, RestoreEvent};
use godwit_runtime::protocol::Reply;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument;

use self::worker::Worker;
use super::{
    desk::{Desk, Seen},
    filling::Filling,
    pages::Pages,
};
use crate::{
    arbiter::Arbiter,
    clock::Relay,
    convert,
    events::Events,
    failure::{failure, internal},
    import::{self, Import, guest::Guest},
    node::Node,
};

type Failure = v1::Failure;

/// Role name in the journal and the timeline.
pub const ROLE: &str = "target";

/// What survives the agent.
#[derive(Clone, Deserialize, Serialize)]
pub struct Entry {
    /// The migration, encoded as the contract's message.
    migration: Vec<u8>,
    boot_id: String,
    machine: Machine,
    /// Name and container id of every keeper.
    keepers: Vec<(String, String)>,
    /// Addresses of the source pod that end with the move.
    ending: Vec<std::net::IpAddr>,
    /// Bytes a second that may be fetched when the pod runs; 0: no limit.
    #[serde(default)]
    bandwidth: u64,
    /// What was ordered of containers that the runtime itself restores; none for a pod of Godwit's handler.
    #[serde(default)]
    imports: Vec<import::Order>,
}

enum Command {
    Event(Event),
    /// What this migration holds is let go. It is forgotten if somebody waits for that: its journal entry goes too; else another migration of the pod has its place.
    Leave(Option<oneshot::Sender<std::io::Result<()>>>),
    /// An answer of the API server, with the number of the call.
    Api(u64, Event),
    Create {
        name: String,
        id: String,
        reply: oneshot::Sender<Reply>,
    },
    Open {
        request: Box<OpenRequest>,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    Restore(Vec<ContainerShape>),
    /// Nothing is fetched any more.
    Filled,
    Ask {
        abandon: bool,
        reply: oneshot::Sender<PeerState>,
    },
    Seen {
        name: String,
        id: String,
        seen: Seen,
    },
    Images {
        container: String,
        reply: oneshot::Sender<Result<PathBuf, Failure>>,
    },
    Directory {
        container: String,
        kind: String,
        reply: oneshot::Sender<Result<godwit_node::volumes::Directory, Failure>>,
    },
}

/// A handle to one migration.
#[derive(Clone)]
pub struct Session {
    /// What the controller said about it.
    pub migration: Arc<Migration>,
    commands: mpsc::UnboundedSender<Command>,
    /// What `Handoff.Restore` tells.
    pub events: Arc<Events<RestoreEvent>>,
    machine: Arc<Mutex<Machine>>,
    /// Memory that has arrived.
    pub pages: Arc<Pages>,
    /// Memory that comes when the pod runs.
    pub filling: Filling,
    waiting: watch::Receiver<Vec<String>>,
    /// How long the wrapper took to leave the keepers.
    created: Arc<Mutex<Vec<v1::Step>>>,
    /// Names of the pod's containers.
    pub containers: Arc<Vec<String>>,
}

impl Session {
    /// Expects the containers of the target pod.
    #[must_use]
    pub fn prepare(node: Arc<Node>, desk: Arc<Desk>, migration: Migration, containers: Vec<String>, imports: Vec<import::Order>) -> Self {
        let machine = Machine::new(containers.clone());
        let boot_id = godwit_node::facts::boot_id().unwrap_or_default();
        let entry =
            Entry { migration: prost::Message::encode_to_vec(&migration), boot_id, machine, keepers: Vec::new(), ending: Vec::new(), bandwidth: 0, imports };
        Self::make(node, desk, migration, entry, None)
    }

    /// Takes a migration up again after the agent restarted.
    ///
    /// # Errors
    /// When the journal's entry cannot be understood.
    pub fn resume(node: Arc<Node>, desk: Arc<Desk>, entry: Entry) -> anyhow::Result<Self> {
        let migration: Migration = prost::Message::decode(entry.migration.as_slice())?;
        let same_boot = godwit_node::facts::boot_id().is_ok_and(|now| now == entry.boot_id);
        Ok(Self::make(node, desk, migration, entry, Some(same_boot)))
    }

    fn make(node: Arc<Node>, desk: Arc<Desk>, migration: Migration, entry: Entry, restarted: Option<bool>) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (waiting_now, waiting) = watch::channel(Vec::new());
        let containers = Arc::new(entry.machine.containers().keys().cloned().collect());
        let pages = Arc::new(Pages::below(node.host.path(super::pod::images_of(&migration.source_pod_uid))));
        let session = Self {
            migration: Arc::new(migration),
            pages,
            filling: Filling::default(),
            commands,
            events: Events::new(),
            machine: Arc::new(Mutex::new(entry.machine.clone())),
            waiting,
            created: Arc::default(),
            containers,
        };
        // What is told of a container before the worker listens is not lost.
        for (_, id) in &entry.keepers {
            let _ = desk.seat(id);
        }
        session.import(&node, &desk, &entry, restarted.is_some());
        let worker = Worker {
            arbiter: Arbiter::new(node.kube.clone(), &session.migration),
            node,
            desk,
            session: session.clone(),
            inbox,
            entry,
            waiting: waiting_now,
            pod: None,
            shapes: Vec::new(),
            calls: crate::arbiter::Calls::default(),
            peer_reply: None,
            relay: Relay::new(ROLE),
            restoring_since: None,
        };
        let about = godwit_rpc::logs::about_migration(&session.migration);
        tokio::spawn(worker.run(restarted).instrument(about));
        session
    }

    /// What takes the place of keepers in a pod that the runtime itself restores.
    fn import(&self, node: &Arc<Node>, desk: &Arc<Desk>, entry: &Entry, restarted: bool) {
        if entry.imports.is_empty() {
            return;
        }
        let import = match Import::of(self.migration.as_ref().into(), &entry.imports, node.cri.kind()) {
            Ok(import) => Arc::new(import),
            Err(why) => return self.undo(&why.message),
        };
        if matches!(entry.machine.state(), State::Prepared)
            && let Err(error) = node.imports.add(&node.host, import.clone())
        {
            return self.undo(&format!("CRIU cannot be led to its configuration: {error}"));
        }
        for name in import.names() {
            let id = entry.keepers.iter().find(|(known, _)| known == name).map(|(_, id)| id.clone());
            let guest = Guest::Migration(self.clone());
            let keeper = import::keep(node.clone(), desk.clone(), guest, import.clone(), name.to_owned(), id.filter(|_| restarted));
            crate::task::spawn(keeper);
        }
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let gone = |_| internal("the migration", "it has just ended here");
        self.commands.send(make(reply)).map_err(|_| internal("the migration", "it has just ended here"))?;
        answer.await.map_err(gone)
    }

    fn feed(&self, event: Event) {
        let _ = self.commands.send(Command::Event(event));
    }

    /// Decides about a `create` of a container of the target pod.
    pub async fn create(&self, name: &str, id: &str) -> Reply {
        let (name, id) = (name.to_owned(), id.to_owned());
        self.ask(|reply| Command::Create { name, id, reply }).await.unwrap_or_else(|why| Reply::Fail { why: why.message })
    }

    /// Lets the keepers start their restores.
    ///
    /// # Errors
    /// What is missing here.
    pub async fn open(&self, request: OpenRequest) -> Result<(), Failure> {
        self.ask(|reply| Command::Open { request: Box::new(request), reply }).await?
    }

    /// Where the images of a container go.
    ///
    /// # Errors
    /// When there is no such container, or the target is not open.
    pub async fn images(&self, container: &str) -> Result<PathBuf, Failure> {
        let container = container.to_owned();
        self.ask(|reply| Command::Images { container, reply }).await?
    }

    /// Where files of the pod go.
    ///
    /// # Errors
    /// When the target pod has no such directory.
    pub async fn directory(&self, container: &str, kind: &str) -> Result<godwit_node::volumes::Directory, Failure> {
        let (container, kind) = (container.to_owned(), kind.to_owned());
        self.ask(|reply| Command::Directory { container, kind, reply }).await?
    }

    /// Everything has been sent; what happens is told by `events`.
    pub fn restore(&self, shapes: Vec<ContainerShape>) {
        let _ = self.commands.send(Command::Restore(shapes));
    }

    /// Where it stands.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn stand(&self, abandon: bool) -> Result<PeerState, Failure> {
        self.ask(|reply| Command::Ask { abandon, reply }).await
    }

    /// Lets go of everything. Only for a migration that has ended: its own worker would hold it, and its connections, for ever.
    pub fn end(&self) {
        let _ = self.commands.send(Command::Leave(None));
    }

    /// As [`Session::end`], and its journal entry goes too: after what the worker still had to write.
    ///
    /// # Errors
    /// When the journal cannot be changed.
    pub async fn forget(&self) -> std::io::Result<()> {
        let (reply, done) = oneshot::channel();
        let _ = self.commands.send(Command::Leave(Some(reply)));
        // A worker that has ended before has nothing in the journal.
        done.await.unwrap_or(Ok(()))
    }

    /// Takes the preparation back, if it is not too late.
    pub fn undo(&self, why: &str) {
        self.refuse(failure("Undone", why, "see the migration's own reason"));
    }

    /// The same, for a reason that is the migration's own.
    pub fn refuse(&self, why: Failure) {
        self.feed(Event::Undo(convert::to_migration(why)));
    }

    /// Which keepers wait: returns when all do, or after `patience`.
    pub async fn keepers(&self, patience: Duration) -> AwaitKeepersReply {
        let mut waiting = self.waiting.clone();
        let all = self.containers.len();
        let _ = tokio::time::timeout(patience, waiting.wait_for(|waiting| waiting.len() >= all)).await;
        let waiting = self.waiting.borrow().clone();
        let missing = self.containers.iter().filter(|name| !waiting.contains(name)).cloned().collect();
        let failure = match self.machine().state() {
            State::Never { why } => Some(convert::from_migration(why.clone())),
            _ => None,
        };
        let steps = self.created.lock().unwrap_or_else(PoisonError::into_inner).clone();
        AwaitKeepersReply { waiting, missing, failure, steps }
    }

    /// The machine as it is now.
    #[must_use]
    pub fn machine(&self) -> Machine {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
