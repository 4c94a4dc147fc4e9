//! What the machine of a source says is done here, one effect after the other; what takes long runs beside it and is told as an event.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use godwit_migration::{
    handover::{
        PeerState, Sealed,
        source::{Effect, Event, Outcome, State},
    },
    timeline,
};
use godwit_network::Gate;
use godwit_rpc::v1::{self, Copied, FreezeReport, Migration, SwitchEvent, handoff_client::HandoffClient, switch_event};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tonic::transport::Channel;

use super::{Command, Entry, Failure, ROLE, Session, begin};
use crate::{
    anchor,
    arbiter::{Arbiter, Calls},
    clock::{Relay, Timer},
    convert,
    failure::{failure, internal},
    node::Node,
    source::{
        grip::Grip,
        orphans,
        pod::{SourcePod, images_of},
        travel::Wishes,
    },
};

/// Between two askings when nothing is heard.
const RETRY: Duration = Duration::from_secs(1);
/// Between two attempts of something that has to succeed, for so many of them.
const AGAIN: Duration = Duration::from_millis(200);
const SOON: u32 = 50;
/// As many as it takes: a pod that is said to run must not stand still, or be cut off.
const ALL: u32 = u32::MAX;

/// How a worker begins.
pub(super) enum Start {
    Fresh(Wishes),
    Journal,
}

/// Drives the machine of one migration.
pub(super) struct Worker {
    pub(super) node: Arc<Node>,
    pub(super) arbiter: Arbiter,
    pub(super) migration: Migration,
    pub(super) grip: Option<Grip>,
    pub(super) session: Session,
    pub(super) inbox: mpsc::UnboundedReceiver<Command>,
    pub(super) pod: Option<Arc<SourcePod>>,
    pub(super) handoff: Option<HandoffClient<Channel>>,
    pub(super) dump: Option<JoinHandle<()>>,
    pub(super) calls: Calls,
    pub(super) sealed_reply: Option<oneshot::Sender<Sealed>>,
    pub(super) frozen_at: Option<Instant>,
    pub(super) stood_still: Option<Duration>,
    pub(super) steps: Vec<v1::Step>,
    pub(super) relay: Relay,
    pub(super) shapes: Vec<(String, Vec<u8>)>,
}

impl Worker {
    /// Until the migration is let go.
    pub(super) async fn run(mut self, start: Start) {
        match start {
            Start::Fresh(wishes) => self.prepare(wishes),
            Start::Journal => {
                orphans::await_criu(&self.node.host, &images_of(&self.migration.source_pod_uid)).await;
                let same_boot = self.grip.as_ref().is_none_or(Grip::same_boot);
                self.feed(Event::Restarted { same_boot }).await;
            }
        }
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        retry.reset();
        while let Some(command) = tokio::select! {
            command = self.inbox.recv() => command,
            _ = retry.tick(), if !self.session.machine().finished() => Some(Command::Event(Event::Retry)),
        } {
            match command {
                Command::Event(event) => self.feed(event).await,
                Command::Api(call, event) => {
                    if self.calls.answered(call) {
                        self.feed(event).await;
                    }
                }
                Command::AskSealed(reply) => {
                    self.sealed_reply = Some(reply);
                    let timer = Timer::start(ROLE, "sealed");
                    let facts = self.look().await;
                    self.feed(Event::AskSealed(facts)).await;
                    self.step(timer.stop());
                }
                Command::Grip(reply) => {
                    let _ = reply.send(self.grip());
                }
                Command::Empty(reply) => {
                    let _ = reply.send(self.empty().await);
                }
                Command::Prepared(pod, handoff) => {
                    self.grip = Some(pod.grip.clone());
                    self.pod = Some(Arc::from(pod));
                    self.handoff = Some(handoff);
                    self.feed(Event::Begin).await;
                    if matches!(self.session.machine().state(), State::Released { .. }) {
                        // Taken back while it was prepared: what was made for it came after the sweep.
                        if let Some(pod) = &self.pod {
                            pod.end_dumps();
                        }
                        self.tidy();
                        self.node.take_back_anchor(&self.migration.source_pod_uid);
                    }
                }
                Command::Step(step) => self.step(step),
                Command::Leave(forgotten) => {
                    if let Some(reply) = forgotten {
                        let _ = reply.send(self.node.journal.remove(ROLE, &self.migration.source_pod_uid));
                    }
                    return;
                }
            }
        }
    }

    /// Everything before the machine's first step runs beside it, so that a cancel is heard.
    fn prepare(&self, wishes: Wishes) {
        let (node, migration, commands) = (self.node.clone(), self.migration.clone(), self.session.commands.clone());
        if wishes.deadline.is_some() {
            let commands = commands.clone();
            crate::task::spawn(async move {
                tokio::time::sleep(wishes.time()).await;
                let _ = commands.send(Command::Event(Event::DeadlinePassed));
            });
        }
        let session = self.session.clone();
        crate::task::spawn(async move {
            match begin::prepare(&node, &migration, &session, wishes).await {
                Ok((pod, handoff)) => {
                    let _ = commands.send(Command::Prepared(Box::new(pod), handoff));
                }
                Err(why) => {
                    // The migration may have been taken back meanwhile, before the anchor was begun: nobody else would take that away then.
                    node.take_back_anchor(&migration.source_pod_uid);
                    let _ = commands.send(Command::Event(Event::Cancel(convert::to_migration(why))));
                }
            }
        });
    }

    async fn feed(&mut self, event: Event) {
        let patient = matches!(event, Event::Retry) && self.calls.is_under_way();
        let effects = {
            let mut machine = self.session.machine.lock().unwrap_or_else(PoisonError::into_inner);
            tracing::debug!(?event, state = ?machine.state(), "source");
            machine.step(event)
        };
        for effect in effects {
            if !(patient && effect == Effect::ReadHandover) {
                self.execute(effect).await;
            }
        }
    }

    async fn execute(&mut self, effect: Effect) {
        tracing::debug!(?effect, "source does");
        match effect {
            Effect::Journal => {
                self.next_step("journal");
                self.journal().await;
                self.end_step();
            }
            Effect::CreateHandover => {
                self.next_step("claim");
                self.api(|arbiter, migration| async move { Event::HandoverCreated(arbiter.create(&migration).await) });
            }
            Effect::ReadHandover => self.api(|arbiter, _| async move { Event::Handover(arbiter.read().await) }),
            Effect::WriteAborted { version } => {
                self.api(move |arbiter, _| async move { Event::AbortWritten(arbiter.swap(&version, godwit_api::HandoverState::Aborted).await) })
            }
            Effect::Fence => {
                self.next_step("fence");
                self.with_grip(|grip, node| grip.fence(&node.host)).await.unwrap_or_default();
            }
            Effect::Unfence => self.must("take the fence away", SOON, |grip, node| grip.unfence(&node.host)).await,
            Effect::ShutTraffic => self.shut_traffic().await,
            Effect::OpenTraffic => self.open_traffic().await,
            Effect::Freeze => self.freeze().await,
            Effect::Dump => self.dump(),
            Effect::SealPod => self.seal_pod().await,
            Effect::Thaw => self.thaw().await,
            Effect::Kill => {
                self.end_network().await;
                self.must("end the sealed pod", SOON, |grip, _| grip.kill()).await;
            }
            Effect::OfferToTarget => self.offer(),
            Effect::AskTarget { abandon } => self.ask(abandon),
            Effect::AnswerSealed(answer) => {
                if let Some(reply) = self.sealed_reply.take() {
                    let _ = reply.send(answer);
                }
            }
            Effect::Report(outcome) => self.report(outcome),
        }
    }

    /// Makes the machine durable. A disk that refuses must not let the protocol go on without it.
    async fn journal(&self) {
        let entry = Entry {
            migration: prost::Message::encode_to_vec(&self.migration),
            machine: self.session.machine(),
            grip: self.grip.clone(),
            shapes: self.shapes.clone(),
        };
        while let Err(error) = self.node.journal.write(ROLE, &self.migration.source_pod_uid, &entry) {
            tracing::error!(%error, "the journal cannot be written; waiting");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.point("journaled").await;
    }

    fn api<F, Fut>(&mut self, call: F)
    where
        F: FnOnce(Arbiter, Migration) -> Fut,
        Fut: Future<Output = Event> + Send + 'static,
    {
        let (number, commands) = (self.calls.begin(), self.session.commands.clone());
        let answer = call(self.arbiter.clone(), self.migration.clone());
        crate::task::spawn(async move {
            let _ = commands.send(Command::Api(number, answer.await));
        });
    }

    async fn with_grip<T: Send + 'static>(&self, act: impl FnOnce(&Grip, &Node) -> T + Send + 'static) -> Option<T> {
        let (grip, node) = (self.grip.clone()?, self.node.clone());
        crate::task::spawn_blocking(move || act(&grip, &node)).await.ok()
    }

    /// Does something that has to succeed sooner or later; after so many attempts what follows is done without it.
    async fn must(&self, what: &str, attempts: u32, act: impl Fn(&Grip, &Node) -> Result<(), Failure> + Clone + Send + 'static) {
        for attempt in 0..attempts {
            match self.with_grip(act.clone()).await {
                Some(Ok(())) => return,
                None if self.grip.is_none() => return,
                None => tracing::error!(attempt, "cannot {what}: it ended abnormally"),
                Some(Err(why)) => tracing::warn!(reason = why.reason, message = why.message, attempt, "cannot {what}"),
            }
            tokio::time::sleep(if attempt < SOON { AGAIN } else { RETRY }).await;
        }
    }

    async fn look(&self) -> godwit_migration::handover::SealFacts {
        self.with_grip(|grip, node| grip.look(&node.host)).await.unwrap_or_default()
    }

    /// At the beginning of a switch the gate is shut by [`Worker::freeze`], when nothing of the pod runs any more: what the pod has sent until then has left, and what has
    /// been acknowledged is in the queues that are dumped. After a restart of the agent it is shut here, and what passed to the new pod passes again.
    async fn shut_traffic(&mut self) {
        self.end_step();
        self.point("shut-traffic").await;
        if *self.session.machine().state() == State::Gone {
            self.must("shut the traffic gate", SOON, |grip, node| if node.anchors.resume(grip.uid())? { Ok(()) } else { shut_traffic(grip, node) }).await;
        }
    }

    async fn open_traffic(&mut self) {
        self.must("open the traffic gate", ALL, open_traffic).await;
        self.must("take the anchor away", SOON, |grip, node| node.anchors.remove(grip.uid())).await;
    }

    async fn freeze(&mut self) {
        self.point("freeze").await;
        if self.node.anchors.of(&self.migration.source_pod_uid).is_some() {
            self.next_step("admit");
            if let Some(Err(why)) = self.with_grip(|grip, node| node.anchors.settle(grip.uid())).await {
                tracing::warn!(reason = why.reason, message = why.message, "connections that begin right now will be reset");
            }
        }
        // What shuts it is at hand before anything stands still.
        let gate = match self.with_grip(|grip, node| grip.gate(&node.host)).await {
            Some(Ok(gate)) => gate,
            Some(Err(why)) => return self.not_frozen(why),
            None => return self.not_frozen(internal("cannot freeze", "the pod was not prepared")),
        };
        self.next_step("freeze");
        self.hold_elsewhere();
        self.frozen_at = Some(Instant::now());
        let frozen = self
            .with_grip(|grip, _| grip.freeze().and_then(|()| grip.shapes()))
            .await
            .unwrap_or_else(|| Err(internal("cannot freeze", "the pod was not prepared")));
        let event = match frozen {
            Ok(shapes) => {
                self.shapes = shapes;
                self.next_step("gate");
                match self.with_grip(move |grip, node| shut(gate, grip, node)).await {
                    Some(Err(why)) => Event::FreezeFailed(convert::to_migration(why)),
                    _ => Event::Frozen,
                }
            }
            Err(why) => Event::FreezeFailed(convert::to_migration(why)),
        };
        self.point("frozen").await;
        self.end_step();
        self.session.feed(event);
    }

    fn not_frozen(&mut self, why: Failure) {
        self.end_step();
        self.session.feed(Event::FreezeFailed(convert::to_migration(why)));
    }

    /// Addresses of earlier pods live on in this one: what arrives for them is kept where it arrives. Nothing waits for that; what it comes too late for is sent again.
    fn hold_elsewhere(&self) {
        for held in self.node.mirrors.of_pod(&self.migration.source_pod_uid) {
            let node = self.node.clone();
            crate::task::spawn(async move {
                if held.node == node.name {
                    let _ = anchor::blocking(move || node.anchors.hold(&held.name.pod_uid)).await;
                } else if let Ok(mut client) = node.handoff(&held.agent, &held.node) {
                    let _ = client.hold(held.name.about(&held.pod_uid)).await;
                }
            });
        }
    }

    /// What the old sandbox keeps alive ends, with a reset to the peers; what lived on in this pod has left with it.
    async fn end_network(&mut self) {
        let uid = self.migration.source_pod_uid.clone();
        if self.migration.network == "Close"
            && let Some(Err(why)) = self.with_grip(|grip, node| grip.end_connections(&node.host)).await
        {
            tracing::warn!(pod = uid, reason = why.reason, message = why.message, "some peers will hear late that their connections have ended");
        }
        self.node.end_anchor(&uid).await;
        self.node.leave_mirrors(&uid).await;
    }

    /// The pod that has been offered or has gone: it stands still until it is taken back or retired.
    fn grip(&self) -> Result<Grip, String> {
        match self.session.machine().state() {
            State::Offered | State::Aborting { .. } | State::Gone => self.grip.clone().ok_or_else(|| "the agent of its node does not know it any more".into()),
            _ => Err("it is retired, or runs".into()),
        }
    }

    async fn empty(&mut self) -> Result<(), Failure> {
        if *self.session.machine().state() != State::Gone {
            return Err(failure("NotGone", "the target is not known to run yet", "try again"));
        }
        self.with_grip(|grip, _| grip.kill()).await.unwrap_or(Ok(()))
    }

    fn dump(&mut self) {
        let (Some(pod), Some(handoff)) = (self.pod.clone(), self.handoff.clone()) else {
            self.session.feed(Event::DumpFailed(convert::to_migration(internal("cannot dump", "the pod was not prepared"))));
            return;
        };
        let (migration, session) = (self.migration.clone(), self.session.clone());
        self.dump = Some(crate::task::spawn(async move {
            let timer = Timer::start(ROLE, "dump");
            let delta = async {
                let timer = Timer::start(ROLE, "delta");
                pod.copy_files(&handoff, &migration).await.map(|()| timer.stop())
            };
            let dumping = async { pod.dump(&handoff, &migration).await.map(|()| timer.stop()) };
            // Both are awaited to their ends: CRIU is never killed while it has a hand in the processes.
            let (dumped, copied) = tokio::join!(dumping, delta);
            for step in pod.notes.take() {
                let _ = session.commands.send(Command::Step(step));
            }
            let event = match (dumped, copied) {
                (Ok(dump), Ok(delta)) => {
                    let _ = session.commands.send(Command::Step(dump));
                    let _ = session.commands.send(Command::Step(delta));
                    Event::DumpDone
                }
                (Err(why), _) | (_, Err(why)) => Event::DumpFailed(convert::to_migration(why)),
            };
            let copied = Copied { bytes: pod.sent.load(Ordering::Relaxed), total: pod.sent.load(Ordering::Relaxed), ..Copied::default() };
            session.events.push(SwitchEvent { event: Some(switch_event::Event::Copied(copied)) });
            session.feed(event);
        }));
    }

    async fn seal_pod(&mut self) {
        self.next_step("seal");
        self.point("dumped").await;
        self.must("seal the pod", SOON, |grip, _| grip.seal()).await;
        let facts = self.look().await;
        self.point("sealed").await;
        self.end_step();
        self.session.feed(Event::PodSealed(facts));
    }

    async fn thaw(&mut self) {
        if let Some(pod) = &self.pod {
            pod.take_back();
        }
        // CRIU has let go of the pod when this has ended.
        if let Some(dump) = self.dump.take() {
            let _ = dump.await;
        }
        self.next_step("thaw");
        self.must("thaw the pod", ALL, |grip, _| grip.thaw()).await;
        self.end_step();
        self.ran_again();
        if let Some(pod) = &self.pod {
            pod.memory.release();
            pod.end_dumps();
        }
    }

    /// Frees the images.
    fn tidy(&self) {
        begin::free_images(&self.node, &self.migration.source_pod_uid);
    }

    /// The pod stands still no longer.
    fn ran_again(&mut self) {
        if let (Some(frozen), None) = (self.frozen_at, self.stood_still) {
            self.stood_still = Some(frozen.elapsed());
        }
    }

    fn client(&mut self) -> Result<HandoffClient<Channel>, Failure> {
        if let Some(client) = &self.handoff {
            return Ok(client.clone());
        }
        let client = self.node.handoff(&self.migration.target_address, &self.migration.target_node)?;
        Ok(self.handoff.insert(client).clone())
    }

    /// The step that is under way ends, this one begins.
    fn next_step(&mut self, name: &'static str) {
        if let Some(step) = self.relay.next(name) {
            self.step(step);
        }
    }

    /// The step that is under way ends.
    fn end_step(&mut self) {
        if let Some(step) = self.relay.stop() {
            self.step(step);
        }
    }

    fn offer(&mut self) {
        self.next_step("offer");
        let containers = self.shapes.iter().cloned().map(|(name, shape)| v1::ContainerShape { name, shape }).collect();
        let Ok(mut client) = self.client() else {
            self.session.feed(Event::TargetSilent);
            return;
        };
        let (session, migration) = (self.session.clone(), self.migration.clone());
        crate::task::spawn(async move {
            let request = v1::RestoreRequest { migration: Some(migration), containers };
            let answer = async {
                let mut stream = client.restore(request).await.ok()?.into_inner();
                while let Ok(Some(event)) = stream.message().await {
                    match event.event {
                        Some(v1::restore_event::Event::Step(step)) => {
                            let _ = session.commands.send(Command::Step(step));
                        }
                        Some(v1::restore_event::Event::State(state)) => {
                            return convert::peer_state(state);
                        }
                        None => {}
                    }
                }
                None
            };
            let event = answer.await.map_or(Event::TargetSilent, Event::Target);
            session.feed(event);
        });
    }

    fn ask(&mut self, abandon: bool) {
        let Ok(mut client) = self.client() else {
            self.session.feed(Event::TargetSilent);
            return;
        };
        let (session, migration) = (self.session.clone(), self.migration.clone());
        crate::task::spawn(async move {
            let reply = client.ask(v1::AskRequest { migration: Some(migration), abandon }).await.ok();
            let state: Option<PeerState> = reply.and_then(|reply| convert::peer_state(reply.into_inner()));
            session.feed(state.map_or(Event::TargetSilent, Event::Target));
        });
    }

    fn step(&mut self, step: v1::Step) {
        if step.who != ROLE && step.step == "open" {
            self.end_step();
            self.ran_again();
        }
        if step.who == ROLE && step.step == "dump" {
            let since = crate::clock::now_us().saturating_sub(step.start_us.saturating_add(step.duration_us));
            let since = Duration::from_micros(u64::try_from(since).unwrap_or_default());
            self.relay.follow(Instant::now().checked_sub(since).unwrap_or_else(Instant::now));
        }
        crate::trace::step(&self.migration, &step);
        self.steps.push(step.clone());
        self.session.events.push(SwitchEvent { event: Some(switch_event::Event::Step(step)) });
    }

    fn report(&mut self, outcome: Outcome) {
        if matches!(outcome, Outcome::Running) {
            self.ran_again();
        }
        self.tidy();
        self.end_step();
        crate::METRICS.switched(ROLE, matches!(outcome, Outcome::Running));
        crate::METRICS.sent(self.pod.as_ref().map_or(0, |pod| pod.sent.load(Ordering::Relaxed)));
        let freeze = freeze_report(self.stood_still, &self.steps);
        if matches!(outcome, Outcome::TakenBack(_)) {
            self.node.take_back_anchor(&self.migration.source_pod_uid);
            // Where nothing stood still yet, nothing was thawed, which would have done it.
            if let Some(pod) = &self.pod {
                pod.memory.release();
                pod.end_dumps();
            }
        }
        let result = match outcome {
            Outcome::Running => v1::outcome::Result::Running(v1::Running::default()),
            Outcome::TakenBack(why) => v1::outcome::Result::TakenBack(convert::from_migration(why)),
        };
        let outcome = v1::Outcome { result: Some(result), freeze: Some(freeze) };
        self.session.events.push(SwitchEvent { event: Some(switch_event::Event::Outcome(outcome)) });
    }

    /// A fault point of this role.
    async fn point(&self, name: &str) {
        if let Err(error) = godwit_fault::point(&format!("agent.source.{name}")).await {
            self.session.feed(Event::Cancel(convert::to_migration(internal("stopped", error))));
        }
    }
}

/// Shuts the gate, and keeps what arrives for a new pod.
fn shut_traffic(grip: &Grip, node: &Node) -> Result<(), Failure> {
    shut(grip.gate(&node.host)?, grip, node)
}

fn shut(gate: Gate, grip: &Grip, node: &Node) -> Result<(), Failure> {
    if let Err(why) = node.anchors.hold(grip.uid()) {
        tracing::warn!(reason = why.reason, message = why.message, "what arrives during the freeze is not kept; it will be sent again");
    }
    gate.last(Gate::shut).map_err(|error| internal("cannot shut the traffic gate", error))
}

fn open_traffic(grip: &Grip, node: &Node) -> Result<(), Failure> {
    match grip.gate(&node.host) {
        Ok(gate) => gate.last(Gate::open).map_err(|error| internal("cannot open the traffic gate", error)),
        // The sandbox is gone, and its rules with it.
        Err(_) if !node.host.path(grip.netns()).exists() => Ok(()),
        Err(why) => Err(why),
    }
}

fn freeze_report(stood_still: Option<Duration>, steps: &[v1::Step]) -> FreezeReport {
    let steps: Vec<timeline::Step> = steps
        .iter()
        .map(|step| timeline::Step { name: step.step.clone(), who: step.who.clone(), start_us: step.start_us, duration_us: step.duration_us })
        .collect();
    let total_us = stood_still.map_or(0, |time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    let freeze = timeline::freeze(total_us, &steps);
    FreezeReport {
        total_ms: freeze.total_ms,
        dump_ms: freeze.dump_ms,
        delta_ms: freeze.delta_ms,
        restore_ms: freeze.restore_ms,
        verify_ms: freeze.verify_ms,
        commit_ms: freeze.commit_ms,
    }
}
