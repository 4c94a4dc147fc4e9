//! What the machine of a target says is done here, one effect after the other; what takes long runs beside it and is told as an event.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use godwit_api::HandoverState;
use godwit_migration::handover::{
    PeerState, Sealed,
    target::{Create, Effect, Event, Stage, State},
};
use godwit_rpc::v1::{self, ContainerShape, OpenRequest, RestoreEvent, restore_event};
use godwit_runtime::protocol::Reply;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Command, Entry, Failure, ROLE, Session};
use crate::{
    anchor::mirrors::kept,
    arbiter::{Arbiter, Calls},
    clock::Relay,
    convert,
    failure::{failure, internal},
    node::Node,
    source::filled,
    target::{
        consumed,
        desk::{CREATE, Desk, KeeperOrder, Seen, Verdict},
        filling,
        lost::{self, Held},
        pod::{self, TargetPod, restore_failure},
    },
};

/// Between two askings when nothing is heard.
const RETRY: Duration = Duration::from_secs(1);
/// After this a restore has hung. Nothing has run, so giving up takes nothing from anybody.
const RESTORING: Duration = Duration::from_secs(300);

/// Drives the machine of one migration.
pub(super) struct Worker {
    pub(super) node: Arc<Node>,
    pub(super) desk: Arc<Desk>,
    pub(super) arbiter: Arbiter,
    pub(super) session: Session,
    pub(super) inbox: mpsc::UnboundedReceiver<Command>,
    pub(super) entry: Entry,
    pub(super) waiting: watch::Sender<Vec<String>>,
    pub(super) pod: Option<Arc<TargetPod>>,
    pub(super) shapes: Vec<ContainerShape>,
    pub(super) calls: Calls,
    pub(super) peer_reply: Option<oneshot::Sender<PeerState>>,
    pub(super) relay: Relay,
    pub(super) restoring_since: Option<Instant>,
}

impl Worker {
    /// Until the migration is let go. `restarted`: the agent was, and whether the node has run on meanwhile.
    pub(super) async fn run(mut self, restarted: Option<bool>) {
        match restarted {
            None => self.journal().await,
            Some(same_boot) => {
                if matches!(self.session.machine().state(), State::Opening | State::Running | State::Done) {
                    self.entry.keepers.iter().for_each(|(_, id)| self.desk.seat(id).open());
                }
                for (name, id) in self.entry.keepers.clone() {
                    self.follow(name, id);
                }
                self.feed(Event::Restarted { same_boot }).await;
                if matches!(self.session.machine().state(), State::Running | State::Done) {
                    // The agent may have ended before the holders of its connections heard that the pod runs.
                    self.node.let_pass(&self.session.migration.target_pod_uid);
                }
                if !matches!(self.session.machine().state(), State::Prepared | State::GivingBack { .. } | State::Never { .. }) {
                    self.fill();
                    self.tidy();
                }
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
                Command::Leave(forgotten) => {
                    for (_, id) in &self.entry.keepers {
                        self.desk.clear(id);
                    }
                    if let Some(reply) = forgotten {
                        if !self.session.filling.is_complete() {
                            pod::tidy(&self.node.host, &self.session.migration.source_pod_uid);
                        }
                        let _ = reply.send(self.node.journal.remove(ROLE, &self.session.migration.source_pod_uid));
                    }
                    return;
                }
                command => self.take(command).await,
            }
        }
    }

    async fn take(&mut self, command: Command) {
        match command {
            Command::Event(Event::Retry) => {
                if self.restoring_since.is_some_and(|since| since.elapsed() > RESTORING) && *self.session.machine().state() == State::Restoring {
                    let why = failure("RestoreTimedOut", "CRIU did not finish the restore", "look at restore.log on the target node");
                    self.feed(Event::Undo(convert::to_migration(why))).await;
                }
                self.look_after().await;
                self.feed(Event::Retry).await;
            }
            Command::Leave(_) => {}
            Command::Filled => self.tidy(),
            Command::Event(event) => self.feed(event).await,
            Command::Api(call, event) => {
                if self.calls.answered(call) {
                    self.feed(event).await;
                }
            }
            Command::Create { name, id, reply } => {
                let answer = self.create(name, id).await;
                let _ = reply.send(answer);
            }
            Command::Open { request, reply } => {
                let outcome = self.open(&request).await;
                let _ = reply.send(outcome);
            }
            Command::Restore(shapes) => self.restore(shapes).await,
            Command::Ask { abandon, reply } => {
                self.peer_reply = Some(reply);
                self.feed(Event::AskedByPeer { abandon }).await;
            }
            Command::Seen { name, id, seen } => self.seen(name, &id, seen).await,
            Command::Images { container, reply } => {
                let found = self.pod.as_ref().and_then(|pod| pod.images_of(&container));
                let _ = reply.send(found.ok_or_else(|| not_open(&container)));
            }
            Command::Directory { container, kind, reply } => {
                let outcome = self.directory(&container, &kind).await;
                let _ = reply.send(outcome);
            }
        }
    }

    async fn create(&mut self, name: String, id: String) -> Reply {
        if !self.session.containers.contains(&name) {
            // An init container: it was done at the source.
            self.desk.seat(&id).order(|orders| orders.keeper = Some(KeeperOrder::Exit(0)));
            return Reply::Keep;
        }
        match self.session.machine().create() {
            Create::Afresh => return Reply::Plain,
            Create::Refuse => {
                return Reply::Fail { why: "this migration does not take a new container now".into() };
            }
            Create::Keep => {}
        }
        if let Some(position) = self.entry.keepers.iter().position(|(known, _)| *known == name) {
            let (_, old) = self.entry.keepers.remove(position);
            self.desk.clear(&old);
        }
        self.pod = None;
        self.desk.seat(&id).turn(Some(CREATE));
        self.entry.keepers.push((name.clone(), id.clone()));
        self.feed(Event::Keeper { container: name.clone() }).await;
        self.journal().await;
        self.follow(name, id);
        Reply::Keep
    }

    /// Hears what is seen of a container.
    fn follow(&self, name: String, id: String) {
        let seat = self.desk.seat(&id);
        let mut seen = seat.watch();
        let commands = self.session.commands.clone();
        crate::task::spawn(async move {
            loop {
                let now = seen.borrow_and_update().clone();
                if commands.send(Command::Seen { name: name.clone(), id: id.clone(), seen: now }).is_err() || seen.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Tells the machine of containers that can come to run no more. While the target is being prepared the kubelet makes a new one in such a one's place; what the container
    /// runtime itself restores has no keeper of its own.
    async fn look_after(&mut self) {
        let opening = match self.session.machine().state() {
            State::Restoring | State::Verifying | State::Swapping | State::Owner => false,
            State::Opening => true,
            _ => return,
        };
        if !self.entry.imports.is_empty() {
            return;
        }
        for (container, id) in self.entry.keepers.clone() {
            let opened = opening && self.desk.seat(&id).is_open();
            let over = matches!(self.session.machine().containers().get(&container), Some(Stage::Resumed | Stage::Failed { .. }));
            if let (false, Held::Lost { ran }) = (over, lost::look(&self.node.host, &id, opened)) {
                let why = failure(
                    "KeeperGone",
                    format!("container {container} of the new pod was killed before it ran"),
                    "see whether somebody deleted the new pod; look at the kubelet's and the runtime's log on the target node",
                );
                self.feed(Event::RestoreFailed { container, ran, failure: convert::to_migration(why) }).await;
            }
        }
    }

    async fn seen(&mut self, name: String, id: &str, seen: Seen) {
        if !self.entry.keepers.iter().any(|(_, known)| known == id) {
            return;
        }
        let seat = self.desk.seat(id);
        for step in seat.steps() {
            self.tell_wrapped(v1::Step { detail: name.clone(), ..step });
        }
        self.waiting.send_modify(|waiting| {
            waiting.retain(|known| *known != name);
            if seen.keeper {
                waiting.push(name.clone());
            }
        });
        let mut noted = Seen::default();
        seat.order(|orders| noted = orders.noted.clone());
        if let Some(pid) = seen.gate
            && noted.gate != seen.gate
        {
            self.node.deaths.first(&self.session.migration.target_pod_uid, &name, pid);
            self.feed(Event::AtGate { container: name.clone() }).await;
        }
        if seen.resumed.is_some() && noted.resumed != seen.resumed {
            self.stop_timer();
            // Something has run, so nothing is taken back any more: connections may go on. Not a moment later, as their peers wait.
            self.node.let_pass(&self.session.migration.target_pod_uid);
            self.feed(Event::Resumed { container: name.clone() }).await;
        }
        if let Some((code, output)) = &seen.restored
            && noted.restored != seen.restored
            && *code != 0
        {
            // Once the gate was opened, a signal (128 + n) proves nothing; nor does ever the keeper's own 125 (processes ran past the gate and were killed).
            let ran = seen.resumed.is_some() || *code == 125 || (*code > 125 && seat.is_open());
            let why = convert::to_migration(restore_failure(&name, *code, output));
            self.feed(Event::RestoreFailed { container: name.clone(), ran, failure: why }).await;
        }
        let left_the_gate = noted.gate.is_some() && seen.gate.is_none() && seen.resumed.is_none();
        seat.order(|orders| orders.noted = seen);
        if left_the_gate {
            self.look_after().await;
        }
    }

    async fn pod(&mut self) -> Result<Arc<TargetPod>, Failure> {
        if let Some(pod) = &self.pod {
            return Ok(pod.clone());
        }
        let migration = &self.session.migration;
        let pod = TargetPod::find(
            &self.node.host,
            &self.node.cri,
            &self.desk,
            &migration.source_pod_uid,
            &migration.target_pod_uid,
            &self.entry.keepers,
            self.entry.ending.clone(),
        )
        .await?;
        Ok(self.pod.insert(Arc::new(pod)).clone())
    }

    async fn open(&mut self, request: &OpenRequest) -> Result<(), Failure> {
        if *self.session.machine().state() != State::Prepared {
            return Err(failure("TargetNotReady", "the target is not waiting for this migration any more", "try again"));
        }
        self.point("open").await?;
        // What an anchor keeps does not end.
        let kept = kept(&request.anchors);
        let parsed = request.source_ips.iter().filter_map(|ip| ip.parse::<std::net::IpAddr>().ok());
        self.entry.ending = parsed.filter(|ip| !kept.contains(ip)).collect();
        self.entry.bandwidth = request.bandwidth;
        self.pod = None;
        self.journal().await;
        let pod = self.pod().await?;
        let uid = self.session.migration.target_pod_uid.clone();
        self.node.deaths.watch(&self.node.host, &uid, &self.session.migration.uid);
        self.node.drop_mirrors(&uid).await;
        self.node.raise_mirrors(&uid, pod.netns()?, &self.session.migration.source_pod_uid, &request.anchors).await?;
        self.point("anchored").await?;
        pod.open(request, &self.session.pages).await
    }

    async fn directory(&mut self, container: &str, kind: &str) -> Result<godwit_node::volumes::Directory, Failure> {
        let pod = self.pod().await?;
        let wanted = Some(container.to_owned()).filter(|name| !name.is_empty());
        pod.directories.iter().find(|directory| directory.kind.to_string() == kind && directory.container == wanted).cloned().ok_or_else(|| {
            failure(
                "VolumeMissing",
                format!("the target pod has nothing for {kind} of the source pod"),
                "do not change the target pod's spec on the way (admission webhooks)",
            )
        })
    }

    async fn restore(&mut self, shapes: Vec<ContainerShape>) {
        if !shapes.is_empty() {
            self.shapes = shapes;
        }
        if *self.session.machine().state() == State::Prepared {
            self.next_step("check");
            let checked = match self.point("restore").await {
                Ok(()) => match self.pod().await {
                    Ok(_) if !self.are_told() => Err(failure(
                        "TargetNotReady",
                        "a container of the new pod was started anew while the pod's memory was on its way",
                        "look at the kubelet's log on the target node; try again",
                    )),
                    Ok(pod) => pod.verify_images(&self.session.pages).await,
                    Err(why) => Err(why),
                },
                Err(why) => Err(why),
            };
            if let Err(why) = checked {
                self.feed(Event::Undo(convert::to_migration(why))).await;
                return;
            }
            self.fill();
            self.restoring_since = Some(Instant::now());
            self.next_step("restore");
        }
        self.feed(Event::ImagesReady).await;
    }

    /// Whether every keeper has been told what to restore: one that came after the target was opened has not, and would wait for it.
    fn are_told(&self) -> bool {
        self.entry.keepers.iter().all(|(_, id)| {
            let mut told = false;
            self.desk.seat(id).order(|orders| told = orders.keeper.is_some());
            // After a restart of the agent the order is not there any more, but what the keeper began by it: its CRIU may wait for images, restore, or be at the gate.
            told || lost::restores(&self.node.host, id)
        })
    }

    async fn feed(&mut self, event: Event) {
        let patient = matches!(event, Event::Retry) && self.calls.is_under_way();
        let effects = {
            let mut machine = self.session.machine.lock().unwrap_or_else(PoisonError::into_inner);
            tracing::debug!(?event, state = ?machine.state(), "target");
            machine.step(event)
        };
        for effect in effects {
            if !(patient && effect == Effect::ReadHandover) {
                self.execute(effect).await;
            }
        }
    }

    async fn execute(&mut self, effect: Effect) {
        tracing::debug!(?effect, "target does");
        match effect {
            Effect::Journal => {
                if self.relay.runs() {
                    self.next_step("journal");
                }
                self.journal().await;
            }
            Effect::AnswerImagesGo => {
                if let Some(pod) = &self.pod {
                    pod.images_go();
                }
            }
            Effect::Verify => self.verify(),
            Effect::ReadHandover => {
                if matches!(self.session.machine().state(), State::Swapping) {
                    self.next_step("arbiter");
                }
                self.api(|arbiter| async move { Event::Handover(arbiter.read().await) });
            }
            Effect::WriteSwap { version } => {
                if let Err(why) = self.point("swap").await {
                    self.session.feed(Event::Undo(convert::to_migration(why)));
                    return;
                }
                self.next_step("commit");
                self.api(|arbiter| async move { Event::SwapWritten(arbiter.swap(&version, HandoverState::Target).await) });
            }
            Effect::WriteRunning { version } => {
                let _ = self.point("running").await;
                self.api(|arbiter| async move { Event::RunningWritten(arbiter.swap(&version, HandoverState::Running).await) });
            }
            Effect::WriteBack { version } => {
                self.api(|arbiter| async move { Event::BackWritten(arbiter.swap(&version, HandoverState::Source).await) });
            }
            Effect::AskSealed => {
                self.next_step("confirm");
                let _ = self.point("swapped").await;
                self.ask_sealed();
            }
            Effect::OpenGate => self.open_gate().await,
            Effect::AbortGate => self.abort().await,
            Effect::MarkConsumed => self.mark_consumed().await,
            Effect::AnswerPeer(state) => {
                if let Some(reply) = self.peer_reply.take() {
                    let _ = reply.send(state);
                }
            }
            Effect::Report(state) => {
                self.stop_timer();
                if matches!(state, PeerState::Running | PeerState::Never(_)) {
                    crate::METRICS.switched(ROLE, matches!(state, PeerState::Running));
                }
                if matches!(state, PeerState::Running | PeerState::Never(_)) {
                    self.node.imports.remove(&self.node.host, &self.session.migration.uid);
                }
                if matches!(state, PeerState::Running) {
                    self.node.deaths.runs(&self.session.migration.target_pod_uid);
                    self.tidy();
                }
                self.session.events.push(RestoreEvent { event: Some(restore_event::Event::State(convert::ask_reply(state))) });
            }
        }
    }

    /// Makes the machine durable. A disk that refuses must not let the protocol go on without it.
    async fn journal(&mut self) {
        self.entry.machine = self.session.machine();
        while let Err(error) = self.node.journal.write(ROLE, &self.session.migration.source_pod_uid, &self.entry) {
            tracing::error!(%error, "the journal cannot be written; waiting");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn api<F, Fut>(&mut self, call: F)
    where
        F: FnOnce(Arbiter) -> Fut,
        Fut: Future<Output = Event> + Send + 'static,
    {
        let (number, commands) = (self.calls.begin(), self.session.commands.clone());
        let answer = call(self.arbiter.clone());
        crate::task::spawn(async move {
            let _ = commands.send(Command::Api(number, answer.await));
        });
    }

    fn verify(&mut self) {
        self.next_step("verify");
        let (node, pod, shapes, session) = (self.node.clone(), self.pod.clone(), self.shapes.clone(), self.session.clone());
        crate::task::spawn(async move {
            let outcome = match pod {
                Some(pod) => match godwit_fault::point("agent.target.verify").await {
                    Ok(()) => {
                        node.deaths.listen(&session.migration.target_pod_uid, pod.voices(&shapes));
                        pod.verify(&shapes).await
                    }
                    Err(error) => Err(internal("stopped", error)),
                },
                None => Err(internal("cannot verify", "the target pod is not at hand")),
            };
            session.feed(match outcome {
                Ok(()) => Event::VerifiedOk,
                Err(why) => Event::VerifyFailed(convert::to_migration(why)),
            });
        });
    }

    fn ask_sealed(&mut self) {
        let (session, migration) = (self.session.clone(), self.session.migration.clone());
        let client = self.node.handoff(&migration.source_address, &migration.source_node);
        crate::task::spawn(async move {
            let answer = match client {
                Ok(mut client) => client.sealed(v1::SealedRequest { migration: Some((*migration).clone()) }).await.ok(),
                Err(_) => None,
            };
            session.feed(match answer.map(tonic::Response::into_inner) {
                Some(reply) if reply.sealed => Event::SealedReply(Sealed::Yes),
                Some(reply) if !reply.why_not.is_empty() => Event::SealedReply(Sealed::No { why: reply.why_not }),
                _ => Event::SourceSilent,
            });
        });
    }

    async fn open_gate(&mut self) {
        self.next_step("open");
        let _ = self.point("gate").await;
        match self.pod().await {
            Ok(pod) => {
                if let Err(why) = pod.end_connections() {
                    tracing::error!(why = why.message, "connections to the old address may hang until their applications give up");
                }
                pod.open_gate();
            }
            // The gates ask by container id: the orders can be left at the desk all the same.
            Err(_) => {
                for (_, id) in &self.entry.keepers {
                    self.desk.seat(id).order(|orders| orders.gate = Some(Verdict::Go));
                }
            }
        }
    }

    async fn abort(&mut self) {
        let why = match self.session.machine().state() {
            State::Never { why } | State::GivingBack { why } => why.message.clone(),
            _ => "this migration was taken back".into(),
        };
        for (_, id) in &self.entry.keepers {
            pod::abort(&self.desk.seat(id), &why);
        }
        self.pod = None;
        self.node.imports.remove(&self.node.host, &self.session.migration.uid);
        self.session.filling.stop();
        self.node.deaths.forget(&self.session.migration.target_pod_uid);
        self.node.drop_mirrors(&self.session.migration.target_pod_uid).await;
        pod::tidy(&self.node.host, &self.session.migration.source_pod_uid);
    }

    async fn mark_consumed(&self) {
        while let Err(error) = consumed::mark(&self.node.host, &self.session.migration.target_pod_uid) {
            tracing::error!(%error, "the consumed marker cannot be written; waiting");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // Again after a restart of the agent.
        self.node.let_pass(&self.session.migration.target_pod_uid);
    }

    /// Frees the images when the pod runs, if nothing comes into their stores any more, and when its pagers have ended: on a busy node one may not even have opened its store yet. Of a pod
    /// that was lost they stay until it is forgotten, as what proves it.
    fn tidy(&self) {
        if self.session.filling.is_complete() && matches!(self.session.machine().state(), State::Running | State::Done) {
            let (node, uid) = (self.node.clone(), self.session.migration.source_pod_uid.clone());
            let ids: Vec<String> = self.entry.keepers.iter().map(|(_, id)| id.clone()).collect();
            crate::task::spawn(async move {
                filled::wait(&node.host, &ids).await;
                pod::tidy(&node.host, &uid);
            });
        }
    }

    /// Fetches what of the pod's memory is still to come.
    fn fill(&self) {
        let session = &self.session;
        let store = |(name, id): &(String, String)| filling::Store { name: name.clone(), id: id.clone(), path: session.pages.store(name) };
        let (stores, commands) = (self.entry.keepers.iter().map(store).collect(), session.commands.clone());
        let then = move || {
            let _ = commands.send(Command::Filled);
        };
        session.filling.begin(self.node.clone(), session.migration.clone(), stores, self.entry.bandwidth, then);
    }

    fn stop_timer(&mut self) {
        if let Some(step) = self.relay.stop() {
            self.tell(step);
        }
    }

    /// The step that is under way ends, this one begins.
    fn next_step(&mut self, name: &'static str) {
        if let Some(step) = self.relay.next(name) {
            self.tell(step);
        }
    }

    fn tell(&self, step: v1::Step) {
        crate::trace::step(&self.session.migration, &step);
        self.session.events.push(RestoreEvent { event: Some(restore_event::Event::Step(step)) });
    }

    /// A step of the wrapper, its keeper or CRIU's hook. Before the switch nobody listens to the events: the controller hears of it with the keepers.
    fn tell_wrapped(&self, step: v1::Step) {
        if step.step != CREATE {
            return self.tell(step);
        }
        crate::trace::step(&self.session.migration, &step);
        self.session.created.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// A fault point of this role.
    async fn point(&self, name: &str) -> Result<(), Failure> {
        godwit_fault::point(&format!("agent.target.{name}")).await.map_err(|error| internal("stopped", error))
    }
}

fn not_open(container: &str) -> Failure {
    failure("TargetNotReady", format!("the target has no keeper for container {container}"), "try again")
}
