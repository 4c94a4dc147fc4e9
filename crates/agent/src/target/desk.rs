//! The desk at which the node's keepers, stand-ins and gates ask, and where the target role leaves its orders.
//!
//! Each container of a target pod has one [`Seat`]: what was seen of it, and what it has been told. Questions wait at the seat until the order is there; orders
//! stay, so that a question asked again (after a restart of the agent) gets the same answer.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use godwit_rpc::v1::Step;
use godwit_runtime::protocol::{Reply, Request};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    clock::{Notes, Timer},
    import::Waiting,
};

/// What a keeper is told.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum KeeperOrder {
    /// Restore from here.
    Restore {
        /// The image directory, as the node names it.
        images: PathBuf,
        /// More lines for CRIU's configuration.
        criu: Vec<String>,
        /// The page store, as the node names it, if memory has travelled before.
        store: Option<PathBuf>,
    },
    /// End with this code.
    Exit(i32),
}

/// What the stand-in or the gate is told.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Go,
    /// Fail the restore; nothing has run.
    Abort(String),
}

/// Orders for one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// For its keeper.
    pub keeper: Option<KeeperOrder>,
    /// For the CRIU stand-in.
    pub images: Option<Verdict>,
    /// For the gate.
    pub gate: Option<Verdict>,
    /// What was seen has been taken in (and journaled): `Resumed` and `Restored` may be answered up to here.
    pub noted: Seen,
}

/// What was seen of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The keeper has asked and waits (or waited) for its order.
    pub keeper: bool,
    /// The stand-in waits for images.
    pub images: bool,
    /// CRIU stands at the gate, with the pid of the restored init.
    pub gate: Option<i32>,
    /// The processes run.
    pub resumed: Option<i32>,
    /// `runc restore` has ended: exit code and the end of its output.
    pub restored: Option<(i32, String)>,
}

/// Who takes the steps that are seen here, in the timeline.
pub const WRAPPER: &str = "wrapper";
/// The wrapper leaves a keeper: from its question to the keeper's.
pub const CREATE: &str = "create";

/// One container of a target pod.
pub struct Seat {
    orders: watch::Sender<Orders>,
    seen: watch::Sender<Seen>,
    /// Its gate was opened, or may have been by an agent before this one.
    opened: AtomicBool,
    /// What is under way on the other side, between an answer and the next question.
    doing: Mutex<Option<Timer>>,
    steps: Notes,
    /// Of a container that the runtime itself restores.
    waiting: OnceLock<Waiting>,
}

impl Seat {
    fn new() -> Self {
        Self {
            orders: watch::Sender::default(),
            seen: watch::Sender::default(),
            opened: AtomicBool::default(),
            doing: Mutex::default(),
            steps: Notes::default(),
            waiting: OnceLock::new(),
        }
    }

    /// The runtime itself restores the container: this is where its CRIU waits.
    pub fn imports(&self, waiting: Waiting) {
        let _ = self.waiting.set(waiting);
    }

    /// Where it waits, if the runtime itself restores the container.
    #[must_use]
    pub fn import(&self) -> Option<&Waiting> {
        self.waiting.get()
    }

    /// Its gate is opened, or may have been by an agent before this one.
    pub fn open(&self) {
        self.opened.store(true, Ordering::SeqCst);
    }

    /// Whether its gate may have been opened. An order is not enough for that: whoever waited there may have gone before.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.opened.load(Ordering::SeqCst)
    }

    /// What was under way has ended with a question or an answer, and this begins. After a restart of the agent nobody knows when something began: then it is
    /// no step.
    pub fn turn(&self, next: Option<&'static str>) {
        let next = next.map(|name| Timer::start(WRAPPER, name));
        let ended = std::mem::replace(&mut *self.doing.lock().unwrap_or_else(PoisonError::into_inner), next);
        if let Some(timer) = ended {
            self.steps.push(timer.stop());
        }
    }

    /// The same after a verdict. What is aborted is not told: it may end when the pod has long been running again at the source.
    fn go_on(&self, verdict: &Verdict, next: &'static str) {
        match verdict {
            Verdict::Go => self.turn(Some(next)),
            Verdict::Abort(_) => drop(self.doing.lock().unwrap_or_else(PoisonError::into_inner).take()),
        }
    }

    /// The steps that were seen since the last time.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        self.steps.take()
    }

    /// Changes the orders.
    pub fn order(&self, change: impl FnOnce(&mut Orders)) {
        self.orders.send_modify(change);
    }

    /// Follows what is seen.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    async fn wait<T>(&self, pick: impl Fn(&Orders) -> Option<T>) -> T {
        let mut orders = self.orders.subscribe();
        loop {
            if let Some(order) = pick(&orders.borrow_and_update()) {
                return order;
            }
            if orders.changed().await.is_err() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Decides about a `create` that names a migration.
pub type Doorman = Box<dyn Fn(Request) -> BoxFuture<'static, Reply> + Send + Sync>;

/// All seats.
pub struct Desk {
    seats: Mutex<HashMap<String, Arc<Seat>>>,
    doorman: OnceLock<Doorman>,
}

impl Desk {
    /// An empty desk.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { seats: Mutex::default(), doorman: OnceLock::new() })
    }

    /// Sets who decides about `create`; until then such a `create` fails and is tried again by the kubelet.
    pub fn employ(&self, doorman: Doorman) {
        let _ = self.doorman.set(doorman);
    }

    /// The seat of a container, made where there is none.
    #[must_use]
    pub fn seat(&self, container: &str) -> Arc<Seat> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.entry(container.to_owned()).or_insert_with(|| Arc::new(Seat::new())).clone()
    }

    fn known(&self, container: &str) -> Option<Arc<Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).get(container).cloned()
    }

    /// Forgets a container.
    pub fn clear(&self, container: &str) {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).remove(container);
    }

    /// Whoever asked this has gone before it was answered.
    pub fn left(&self, request: &Request) {
        let (container, unsee): (_, fn(&mut Seen)) = match request {
            Request::Keeper { container } => (container, |seen| seen.keeper = false),
            Request::Images { container } => (container, |seen| seen.images = false),
            Request::Gate { container, .. } => (container, |seen| seen.gate = None),
            _ => return,
        };
        if let Some(seat) = self.known(container) {
            seat.seen.send_modify(unsee);
        }
    }

    /// Answers a question; waits for as long as the migration needs.
    pub async fn answer(&self, request: &Request) -> Reply {
        let container = match request {
            Request::Create { .. } => {
                return match self.doorman.get() {
                    Some(doorman) => doorman(request.clone()).await,
                    None => Reply::Fail { why: "Godwit's agent is starting".into() },
                };
            }
            Request::Keeper { container }
            | Request::Images { container }
            | Request::Gate { container, .. }
            | Request::Resumed { container, .. }
            | Request::Restored { container, .. } => container,
        };
        let Some(seat) = self.known(container) else {
            // Not in the journal: the migration was undone, or never came here. Nothing of it has run and nothing will.
            return match request {
                Request::Keeper { .. } => Reply::Exit { code: 125 },
                Request::Images { .. } | Request::Gate { .. } => Reply::Abort { why: "this migration was undone".into() },
                _ => Reply::Ok,
            };
        };
        match request {
            Request::Keeper { .. } => {
                seat.turn(None);
                seat.seen.send_modify(|seen| seen.keeper = true);
                match seat.wait(|orders| orders.keeper.clone()).await {
                    KeeperOrder::Restore { images, criu, store } => {
                        seat.turn(Some("runc-restore"));
                        Reply::Restore { images, criu, store }
                    }
                    KeeperOrder::Exit(code) => Reply::Exit { code },
                }
            }
            Request::Images { .. } => {
                seat.turn(None);
                seat.seen.send_modify(|seen| seen.images = true);
                let verdict = seat.wait(|orders| orders.images.clone()).await;
                seat.go_on(&verdict, "criu-restore");
                verdict.into()
            }
            Request::Gate { init_pid, .. } => {
                seat.turn(Some("held"));
                seat.seen.send_modify(|seen| seen.gate = Some(*init_pid));
                let verdict = seat.wait(|orders| orders.gate.clone()).await;
                if verdict == Verdict::Go {
                    seat.open();
                }
                seat.go_on(&verdict, "resume");
                verdict.into()
            }
            Request::Resumed { init_pid, .. } => {
                seat.turn(None);
                seat.seen.send_modify(|seen| seen.resumed = Some(*init_pid));
                seat.wait(|orders| orders.noted.resumed.map(|_| Reply::Ok)).await
            }
            Request::Restored { code, output, .. } => {
                seat.seen.send_modify(|seen| seen.restored = Some((*code, output.clone())));
                seat.wait(|orders| orders.noted.restored.as_ref().map(|_| Reply::Ok)).await
            }
            Request::Create { .. } => Reply::Ok,
        }
    }
}

impl From<Verdict> for Reply {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Go => Self::Go,
            Verdict::Abort(why) => Self::Abort { why },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn what_wrapper_and_hook_do_are_steps() {
        let desk = Desk::new();
        let seat = desk.seat("c");
        let names = || seat.steps().iter().map(|step| (step.who.clone(), step.step.clone())).collect::<Vec<_>>();
        let wrapper = |name: &str| (WRAPPER.to_owned(), name.to_owned());
        let container = || "c".to_owned();
        seat.turn(Some(CREATE));
        seat.order(|orders| orders.keeper = Some(KeeperOrder::Restore { images: PathBuf::from("/i"), criu: Vec::new(), store: None }));
        desk.answer(&Request::Keeper { container: container() }).await;
        assert_eq!(names(), [wrapper(CREATE)]);
        seat.order(|orders| (orders.images, orders.gate) = (Some(Verdict::Go), Some(Verdict::Go)));
        desk.answer(&Request::Images { container: container() }).await;
        assert_eq!(names(), [wrapper("runc-restore")]);
        assert!(!seat.is_open(), "nobody has asked at the gate");
        desk.answer(&Request::Gate { container: container(), init_pid: 5 }).await;
        assert_eq!(names(), [wrapper("criu-restore"), wrapper("held")]);
        assert!(seat.is_open());
        seat.order(|orders| orders.noted.resumed = Some(5));
        desk.answer(&Request::Resumed { container: container(), init_pid: 5 }).await;
        assert_eq!(names(), [wrapper("resume")]);
    }

    #[tokio::test]
    async fn who_leaves_the_gate_is_seen_there_no_more() {
        let desk = Desk::new();
        let seat = desk.seat("c");
        let question = Request::Gate { container: "c".into(), init_pid: 5 };
        seat.order(|orders| orders.gate = Some(Verdict::Go));
        desk.answer(&question).await;
        assert_eq!(seat.watch().borrow().gate, Some(5));
        desk.left(&question);
        assert_eq!(*seat.watch().borrow(), Seen::default());
    }

    #[tokio::test]
    async fn what_is_aborted_is_no_step() {
        let desk = Desk::new();
        let seat = desk.seat("c");
        seat.order(|orders| orders.gate = Some(Verdict::Abort("no".into())));
        desk.answer(&Request::Gate { container: "c".into(), init_pid: 5 }).await;
        seat.turn(None);
        assert!(seat.steps().is_empty());
    }
}
