//! One migration in the source role: drives `godwit_migration::handover::source::Machine`, event by event, and does what it says.
//!
//! ```text
//!   Agent.Switch, Cancel, Retire ─┐                          ┌─▶ journal, fence, gate, freeze, dump, seal, thaw, kill  (here)
//!   Handoff.Sealed (from target) ─┼─▶ commands ─▶ Machine ───┼─▶ Handover (API server)      ─┐
//!   answers of what was begun   ──┘        ▲                 └─▶ Handoff.Restore, Ask (target) ─┤
//!                                          └────────────────── answers ◀──────────────────────┘
//! ```

mod begin;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};

use godwit_migration::handover::{
    Sealed,
    source::{Event, Machine},
};
use godwit_rpc::{
    logs,
    v1::{self, Migration, SwitchEvent, handoff_client::HandoffClient},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;
use tracing::Instrument;

use self::worker::{Start, Worker};
use super::{grip::Grip, pod::SourcePod, travel::Wishes};
use crate::{
    arbiter::Arbiter,
    clock::Relay,
    convert,
    events::Events,
    failure::{failure, internal},
    node::Node,
};

type Failure = v1::Failure;

/// Role name in the journal and the timeline.
pub const ROLE: &str = "source";

/// What survives the agent.
#[derive(Clone, Deserialize, Serialize)]
pub struct Entry {
    /// The migration, encoded as the contract's message.
    migration: Vec<u8>,
    machine: Machine,
    grip: Option<Grip>,
    /// What the frozen containers consist of: name and JSON.
    shapes: Vec<(String, Vec<u8>)>,
}

enum Command {
    Event(Event),
    /// An answer of the API server, with the number of the call.
    Api(u64, Event),
    AskSealed(oneshot::Sender<Sealed>),
    /// Pages of the frozen pod are asked for.
    Grip(oneshot::Sender<Result<Grip, String>>),
    /// The sandbox stays for its anchor, the processes go.
    Empty(oneshot::Sender<Result<(), Failure>>),
    Prepared(Box<SourcePod>, HandoffClient<Channel>),
    Step(v1::Step),
    /// What this migration holds is let go. It is forgotten if somebody waits for that: its journal entry goes too; else another migration of the pod has its place.
    Leave(Option<oneshot::Sender<std::io::Result<()>>>),
}

/// A handle to one migration.
#[derive(Clone)]
pub struct Session {
    /// What the controller said about it.
    pub migration: Arc<Migration>,
    commands: mpsc::UnboundedSender<Command>,
    /// What `Agent.Switch` tells.
    pub events: Arc<Events<SwitchEvent>>,
    machine: Arc<Mutex<Machine>>,
}

impl Session {
    /// Begins a switch: prepares, opens the target, and then lets the machine begin.
    #[must_use]
    pub fn begin(node: Arc<Node>, migration: Migration, wishes: Wishes) -> Self {
        let about = logs::about_migration(&migration);
        let (session, worker) = Self::make(node, migration, Machine::new(), None);
        tokio::spawn(worker.run(Start::Fresh(wishes)).instrument(about));
        session
    }

    /// Takes a switch up again after the agent restarted.
    ///
    /// # Errors
    /// When the journal's entry cannot be understood.
    pub fn resume(node: Arc<Node>, entry: Entry) -> anyhow::Result<(String, Self)> {
        let migration: Migration = prost::Message::decode(entry.migration.as_slice())?;
        let key = migration.source_pod_uid.clone();
        let about = logs::about_migration(&migration);
        let (session, mut worker) = Self::make(node, migration, entry.machine, entry.grip);
        worker.shapes = entry.shapes;
        tokio::spawn(worker.run(Start::Journal).instrument(about));
        Ok((key, session))
    }

    fn make(node: Arc<Node>, migration: Migration, machine: Machine, grip: Option<Grip>) -> (Self, Worker) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let session = Self { migration: Arc::new(migration.clone()), commands, events: Events::new(), machine: Arc::new(Mutex::new(machine)) };
        let arbiter = Arbiter::new(node.kube.clone(), &migration);
        let worker = Worker {
            node,
            arbiter,
            migration,
            grip,
            session: session.clone(),
            inbox,
            pod: None,
            handoff: None,
            dump: None,
            calls: crate::arbiter::Calls::default(),
            sealed_reply: None,
            frozen_at: None,
            stood_still: None,
            steps: Vec::new(),
            relay: Relay::new(ROLE),
            shapes: Vec::new(),
        };
        (session, worker)
    }

    fn feed(&self, event: Event) {
        let _ = self.commands.send(Command::Event(event));
    }

    /// Takes it back if it has not committed.
    pub fn cancel(&self, why: &str) {
        self.feed(Event::Cancel(convert::to_migration(failure("Cancelled", why, "start another migration when you want the pod to move"))));
    }

    /// Ends the source for good; only after the target runs.
    pub fn retire(&self) {
        self.feed(Event::Retire);
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

    /// Answers the target's question.
    pub async fn ask_sealed(&self) -> Option<Sealed> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::AskSealed(reply)).ok()?;
        answer.await.ok()
    }

    /// The pod that stands still, or why it does not any more.
    ///
    /// # Errors
    /// When the migration has just ended here.
    pub async fn grip(&self) -> Result<Result<Grip, String>, Failure> {
        self.ask(Command::Grip).await
    }

    /// Ends the processes of a source that has gone, but not its sandbox; the fence stays.
    ///
    /// # Errors
    /// When the target is not known to run, or a process does not die.
    pub async fn empty(&self) -> Result<(), Failure> {
        self.ask(Command::Empty).await?
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(make(reply)).map_err(|_| internal("the migration", "it has just ended here"))?;
        answer.await.map_err(|_| internal("the migration", "it has just ended here"))
    }

    /// The machine as it is now.
    #[must_use]
    pub fn machine(&self) -> Machine {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
