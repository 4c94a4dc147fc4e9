//! What an action does to the world, and how the agents execute effects.

use godwit_migration::Failure;
use godwit_migration::handover::{Owner, PeerState, Read, Role, SealFacts, Sealed, Written, source, target};

use crate::node::{At, name};
use crate::server::{Call, Reply, Request};
use crate::world::{Action, Hand, Msg, Variant, World};

fn because(reason: &str) -> Failure {
    Failure::new(reason, "", "")
}

impl World {
    pub fn act(&mut self, hand: &Hand, action: &Action) {
        if let Action::Cut { action, after, reboot } = action {
            self.act_whole(hand, action);
            let role = if self.source.todo.is_empty() { Role::Target } else { Role::Source };
            for _ in 0..*after {
                self.run(hand, role);
            }
            self.act_whole(hand, &if *reboot { Action::Reboot(role) } else { Action::Crash(role) });
            return;
        }
        self.act_whole(hand, action);
        while !(hand.interleave || self.source.todo.is_empty() && self.target.todo.is_empty()) {
            self.run(hand, Role::Source);
            self.run(hand, Role::Target);
        }
    }

    /// How many effects the action makes an agent execute.
    pub fn effects(&self, hand: &Hand, action: &Action) -> (usize, bool) {
        let mut next = self.clone();
        next.act_whole(hand, action);
        (next.source.todo.len() + next.target.todo.len(), next.faults > 0)
    }

    fn run(&mut self, hand: &Hand, role: Role) {
        match role {
            Role::Source => {
                if let Some(effect) = self.source.todo.pop_front() {
                    self.source_effect(hand, effect);
                }
            }
            Role::Target => {
                if let Some(effect) = self.target.todo.pop_front() {
                    self.target_effect(hand, effect);
                }
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        self.source_ran |= self.s.froze && self.s.runs();
        let server = &self.server;
        self.late.retain(|(_, request)| server.bites(request));
    }

    fn act_whole(&mut self, hand: &Hand, action: &Action) {
        if costs(self, action) {
            self.faults -= 1;
        }
        if matches!(action, Action::LoseCall(_) | Action::Lose(_) | Action::Double(_)) {
            self.losses -= 1;
        }
        match action {
            Action::Cut { .. } => {}
            Action::Run(role) => self.run(hand, *role),
            Action::Take(Role::Source) => {
                if let Some(event) = self.source.inbox.pop_front() {
                    self.feed_source(event);
                }
            }
            Action::Take(Role::Target) => {
                if let Some(event) = self.target.inbox.pop_front() {
                    self.feed_target(hand, event);
                }
            }
            Action::Crash(role) => self.crash(*role),
            Action::Restart(Role::Source) => {
                self.source.up = true;
                let same_boot = self.s.boot == self.source.journal_boot;
                self.feed_source(source::Event::Restarted { same_boot });
            }
            Action::Restart(Role::Target) => {
                self.target.up = true;
                let same_boot = self.t.boot == self.target.journal_boot;
                self.feed_target(hand, target::Event::Restarted { same_boot });
            }
            Action::Reboot(role) => self.reboot(*role),
            Action::Begin => self.feed_source(source::Event::Begin),
            Action::Cancel => self.feed_source(source::Event::Cancel(because("Cancelled"))),
            Action::Undo => self.feed_target(hand, target::Event::Undo(because("Cancelled"))),
            Action::Retire => {
                self.s.deleted = true;
                self.feed_source(source::Event::Retire);
            }
            Action::Retry(Role::Source) => {
                if hand.variant == Variant::ThawOnTimeout && *self.source.machine.state() == source::State::Offered {
                    self.feed_source(source::Event::Target(PeerState::Never(because("Silence"))));
                } else {
                    self.feed_source(source::Event::Retry);
                }
            }
            Action::Retry(Role::Target) => self.feed_target(hand, target::Event::Retry),
            Action::Serve(role) => {
                let (server, call) = (
                    &mut self.server,
                    match role {
                        Role::Source => &mut self.source.call,
                        Role::Target => &mut self.target.call,
                    },
                );
                if let Some(Call::Asked(request)) = call {
                    *call = Some(Call::Answered(server.serve(*role, request)));
                }
            }
            Action::Answer(role) => self.answer(hand, *role, false),
            Action::LoseCall(role) => self.answer(hand, *role, true),
            Action::Late(index) => {
                let (role, request) = self.late.remove(*index);
                self.server.serve(role, &request);
            }
            Action::RemoveHandover => self.server.object = None,
            Action::Deliver(index) => {
                let msg = self.net.remove(*index);
                self.deliver(hand, &msg);
            }
            Action::Double(index) => {
                let msg = self.net[*index].clone();
                self.deliver(hand, &msg);
            }
            Action::Lose(index) => {
                self.net.remove(*index);
            }
            Action::DumpOk => {
                self.s.dumping = false;
                self.feed_source(source::Event::DumpDone);
            }
            Action::DumpFails => {
                self.s.dumping = false;
                self.feed_source(source::Event::DumpFailed(because("DumpFailed")));
            }
            Action::KillSource => self.kill_source(),
            Action::Meddle => {
                self.s.frozen = false;
                self.s.sealed = false;
            }
            Action::StartSource => {
                self.s.alive = true;
                self.s.frozen = false;
                self.s.started |= self.s.froze;
            }
            Action::Restore(index) => {
                self.t.containers[*index].at = At::Held;
                self.t.containers[*index].told = false;
            }
            Action::RestoreBreaks(index) | Action::ResumeBreaks(index) => self.broken(*index, false),
            Action::KillTarget(index, ran) => {
                self.target_ran |= *ran;
                self.broken(*index, hand.variant != Variant::NoProof);
            }
            Action::Resume(index) => {
                self.target_ran = true;
                self.t.containers[*index].at = At::Resumed;
                self.t.containers[*index].told = false;
            }
            Action::VerifyOk => {
                self.t.verifying = false;
                self.feed_target(hand, target::Event::VerifiedOk);
            }
            Action::VerifyFails => {
                self.t.verifying = false;
                self.feed_target(hand, target::Event::VerifyFailed(because("VerifyFailed")));
            }
            Action::Tell(index) => self.tell(hand, *index),
            Action::CreateTarget(index) => self.create(hand, *index),
        }
        self.settle();
    }

    /// What the source agent finds; without seal or fence it believes that there is one.
    fn facts(&self, hand: &Hand) -> SealFacts {
        let mut facts = self.s.facts();
        facts.frozen |= hand.variant == Variant::NoPodSeal;
        facts.fenced |= hand.variant == Variant::NoFence;
        facts
    }

    fn broken(&mut self, index: usize, ran: bool) {
        self.t.containers[index].at = At::Broken { ran };
        self.t.containers[index].told = false;
    }

    fn kill_source(&mut self) {
        // Under the seal: cgroup v2 lets it die without running. (v1 lets nothing happen until the thaw.)
        self.s.alive = false;
        if !self.s.sealed {
            // `runc kill` thaws the container's cgroup: other processes than init may run for a moment.
            self.source_ran |= self.s.froze;
            self.s.frozen = false;
        }
    }

    fn crash(&mut self, role: Role) {
        match role {
            Role::Source => {
                let agent = &mut self.source;
                agent.up = false;
                agent.machine = agent.journal.clone();
                agent.todo.clear();
                agent.inbox.clear();
                self.s.dumping = false;
            }
            Role::Target => {
                let agent = &mut self.target;
                agent.up = false;
                agent.machine = agent.journal.clone();
                let unfinished = !agent.todo.is_empty();
                agent.todo.clear();
                agent.inbox.clear();
                self.t.verifying = false;
                self.t.images_go = false;
                for container in &mut self.t.containers {
                    let again = match container.at {
                        At::Held | At::Broken { .. } => true,
                        At::Resumed => unfinished,
                        _ => false,
                    };
                    container.told &= !again;
                }
            }
        }
        self.drop_call(role);
    }

    fn reboot(&mut self, role: Role) {
        self.crash(role);
        match role {
            Role::Source => {
                self.s.boot += 1;
                self.s.alive = false;
                self.s.frozen = false;
                self.s.sealed = false;
            }
            Role::Target => {
                self.t.boot += 1;
                for index in 0..self.t.containers.len() {
                    match self.t.containers[index].at {
                        At::Keeper | At::Held | At::Going => self.broken(index, true),
                        At::Resumed => self.t.containers[index].at = At::Gone,
                        _ => {}
                    }
                }
            }
        }
    }

    /// The agent does not wait for its call any more; a write that was not served yet may still be.
    fn drop_call(&mut self, role: Role) {
        let call = match role {
            Role::Source => self.source.call.take(),
            Role::Target => self.target.call.take(),
        };
        if let Some(Call::Asked(request)) = call
            && self.server.bites(&request)
            && !self.late.contains(&(role, request.clone()))
        {
            self.late.push((role, request));
        }
    }

    fn call(&mut self, role: Role, request: Request) {
        self.drop_call(role);
        match role {
            Role::Source => self.source.call = Some(Call::Asked(request)),
            Role::Target => self.target.call = Some(Call::Asked(request)),
        }
    }

    fn answer(&mut self, hand: &Hand, role: Role, lost: bool) {
        let call = match role {
            Role::Source => self.source.call.clone(),
            Role::Target => self.target.call.clone(),
        };
        let Some(call) = call else { return };
        self.drop_call(role);
        let reply = match call {
            Call::Answered(reply) if !lost => reply,
            Call::Answered(Reply::Read(_)) | Call::Asked(Request::Read) => Reply::Read(Read::Away),
            Call::Answered(Reply::Created(_)) | Call::Asked(Request::Create) => Reply::Created(Written::Unknown),
            Call::Answered(Reply::Written(to, _)) | Call::Asked(Request::Write { to, .. }) => Reply::Written(to, Written::Unknown),
        };
        match (role, reply) {
            (Role::Source, Reply::Read(read)) => self.feed_source(source::Event::Handover(read)),
            (Role::Source, Reply::Created(written)) => self.feed_source(source::Event::HandoverCreated(written)),
            (Role::Source, Reply::Written(_, written)) => self.feed_source(source::Event::AbortWritten(written)),
            (Role::Target, Reply::Read(read)) => self.feed_target(hand, target::Event::Handover(read)),
            (Role::Target, Reply::Written(Owner::Target, Written::Unknown)) if hand.variant == Variant::GuessUnknown => {
                self.feed_target(hand, target::Event::Handover(Read::NotFound));
            }
            (Role::Target, Reply::Written(Owner::Target, written)) => self.feed_target(hand, target::Event::SwapWritten(written)),
            (Role::Target, Reply::Written(Owner::Source, written)) => self.feed_target(hand, target::Event::BackWritten(written)),
            (Role::Target, Reply::Written(_, written)) => self.feed_target(hand, target::Event::RunningWritten(written)),
            (Role::Target, Reply::Created(_)) => {}
        }
    }

    fn deliver(&mut self, hand: &Hand, msg: &Msg) {
        match msg {
            Msg::Offer => self.feed_target(hand, target::Event::ImagesReady),
            Msg::Ask { abandon } => self.feed_target(hand, target::Event::AskedByPeer { abandon: *abandon }),
            Msg::Told(peer) => self.feed_source(source::Event::Target(peer.clone())),
            Msg::SealedAsk => self.feed_source(source::Event::AskSealed(self.facts(hand))),
            Msg::SealedReply { yes } => {
                let reply = if *yes { Sealed::Yes } else { Sealed::No { why: String::new() } };
                self.feed_target(hand, target::Event::SealedReply(reply));
            }
        }
    }

    fn tell(&mut self, hand: &Hand, index: usize) {
        self.t.containers[index].told = true;
        let container = name(index);
        match self.t.containers[index].at {
            At::Held => self.feed_target(hand, target::Event::AtGate { container }),
            At::Resumed => self.feed_target(hand, target::Event::Resumed { container }),
            At::Broken { ran } => self.feed_target(hand, target::Event::RestoreFailed { container, ran, failure: because("RestoreFailed") }),
            At::Keeper | At::Going | At::Gone | At::Fresh => {}
        }
    }

    fn create(&mut self, hand: &Hand, index: usize) {
        let answer = match (self.target.up, self.t.consumed) {
            (true, _) => self.target.machine.create(),
            (false, true) => target::Create::Afresh,
            (false, false) => target::Create::Refuse,
        };
        let container = &mut self.t.containers[index];
        match answer {
            target::Create::Keep => {
                container.at = At::Keeper;
                container.told = true;
                self.feed_target(hand, target::Event::Keeper { container: name(index) });
            }
            target::Create::Afresh => {
                container.at = At::Fresh;
                self.target_ran = true;
            }
            target::Create::Refuse => {}
        }
    }

    fn feed_source(&mut self, event: source::Event) {
        self.source.todo = self.source.machine.step(event).into();
        self.said_yes |= self.source.todo.contains(&source::Effect::AnswerSealed(Sealed::Yes));
    }

    fn feed_target(&mut self, hand: &Hand, event: target::Event) {
        // One of two failed: as if both had.
        if hand.variant == Variant::PartialIsNothing
            && *self.target.machine.state() == target::State::Opening
            && let target::Event::RestoreFailed { .. } = &event
        {
            for index in 0..self.t.containers.len() {
                let failed = target::Event::RestoreFailed { container: name(index), ran: false, failure: because("RestoreFailed") };
                let effects = self.target.machine.step(failed);
                self.target.todo.extend(effects);
            }
            return;
        }
        self.target.todo = self.target.machine.step(event).into();
    }

    fn source_effect(&mut self, hand: &Hand, effect: source::Effect) {
        use source::Effect;
        match effect {
            Effect::Journal => {
                self.source.journal = self.source.machine.clone();
                self.source.journal_boot = self.s.boot;
            }
            Effect::CreateHandover => self.call(Role::Source, Request::Create),
            Effect::ReadHandover => self.call(Role::Source, Request::Read),
            Effect::WriteAborted { version } => self.call(Role::Source, Request::Write { from: version, to: Owner::Aborted }),
            Effect::Fence => self.s.fenced = hand.variant != Variant::NoFence,
            Effect::Unfence => self.s.fenced = false,
            Effect::Freeze => {
                self.s.freeze_boot = self.s.boot;
                if self.s.alive {
                    self.s.frozen = true;
                    self.s.froze = true;
                    self.source.inbox.push_back(source::Event::Frozen);
                } else {
                    self.source.inbox.push_back(source::Event::FreezeFailed(because("NotRunning")));
                }
            }
            Effect::Dump => self.s.dumping = true,
            Effect::SealPod => {
                self.s.sealed = hand.variant != Variant::NoPodSeal;
                self.source.inbox.push_back(source::Event::PodSealed(self.facts(hand)));
            }
            Effect::Thaw => {
                self.s.dumping = false;
                self.s.frozen = false;
                self.s.sealed = false;
            }
            Effect::Kill => self.s.alive = false,
            Effect::OfferToTarget => self.send(Msg::Offer),
            Effect::AskTarget { abandon } => self.send(Msg::Ask { abandon }),
            Effect::AnswerSealed(answer) => self.send(Msg::SealedReply { yes: answer == Sealed::Yes }),
            Effect::ShutTraffic | Effect::OpenTraffic | Effect::Report(_) => {}
        }
    }

    fn target_effect(&mut self, hand: &Hand, effect: target::Effect) {
        use target::Effect;
        match effect {
            Effect::Journal => {
                if hand.variant != Variant::NoJournal {
                    self.target.journal = self.target.machine.clone();
                    self.target.journal_boot = self.t.boot;
                }
            }
            Effect::AnswerImagesGo => self.t.images_go = true,
            Effect::Verify => self.t.verifying = true,
            Effect::ReadHandover => self.call(Role::Target, Request::Read),
            Effect::WriteSwap { version } => self.call(Role::Target, Request::Write { from: version, to: Owner::Target }),
            Effect::WriteRunning { version } => self.call(Role::Target, Request::Write { from: version, to: Owner::Running }),
            Effect::WriteBack { version } => self.call(Role::Target, Request::Write { from: version, to: Owner::Source }),
            Effect::AskSealed => {
                if hand.variant == Variant::SkipAskSealed {
                    self.target.inbox.push_back(target::Event::SealedReply(Sealed::Yes));
                } else {
                    self.send(Msg::SealedAsk);
                }
            }
            Effect::OpenGate => {
                for container in &mut self.t.containers {
                    if container.at == At::Held && container.told {
                        container.at = At::Going;
                    }
                }
                self.t.consumed |= hand.variant == Variant::ConsumeEarly;
            }
            Effect::AbortGate => {
                for container in &mut self.t.containers {
                    if matches!(container.at, At::Keeper | At::Held) {
                        container.at = At::Gone;
                        container.told = true;
                    }
                }
                self.t.images_go = false;
                self.t.verifying = false;
            }
            Effect::MarkConsumed => self.t.consumed = true,
            Effect::AnswerPeer(peer) | Effect::Report(peer) => self.send(Msg::Told(peer)),
        }
    }
}

fn costs(world: &World, action: &Action) -> bool {
    match action {
        Action::Crash(_)
        | Action::Reboot(_)
        | Action::Cancel
        | Action::Undo
        | Action::RemoveHandover
        | Action::KillSource
        | Action::Meddle
        | Action::RestoreBreaks(_)
        | Action::ResumeBreaks(_)
        | Action::KillTarget(..)
        | Action::VerifyFails => true,
        Action::DumpFails => world.s.alive && world.s.frozen,
        _ => false,
    }
}
