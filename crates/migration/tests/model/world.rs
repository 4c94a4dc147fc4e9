//! The whole world as one value, what may happen in it, and the bounds.

use std::collections::VecDeque;

use godwit_migration::handover::{PeerState, Role, source, target};

use crate::node::{At, SourceNode, TargetNode, name};
use crate::server::{Call, Request, Server};

/// The bounds, and which protocol.
#[derive(Clone, Debug)]
pub struct Hand {
    pub containers: usize,
    /// Crashes, kills, reboots, failures, orders to stop.
    pub faults: u8,
    /// Answers of the API server and messages that get lost or come twice.
    pub losses: u8,
    pub variant: Variant,
    /// Others act between two effects of one step. Otherwise only faults come in between.
    pub interleave: bool,
    /// Nothing gets lost any more: the fair future.
    pub calm: bool,
}

/// The real protocol, or one that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Real,
    SkipAskSealed,
    ThawOnTimeout,
    NoFence,
    NoPodSeal,
    GuessUnknown,
    ConsumeEarly,
    NoJournal,
    NoProof,
    PartialIsNothing,
}

/// One agent: its machine, and what is lost when it crashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agent<M, E, V> {
    pub up: bool,
    pub machine: M,
    pub journal: M,
    pub journal_boot: u8,
    pub todo: VecDeque<E>,
    pub inbox: VecDeque<V>,
    pub call: Option<Call>,
}

impl<M: Clone, E, V> Agent<M, E, V> {
    fn new(machine: M) -> Self {
        Self { up: true, journal: machine.clone(), machine, journal_boot: 0, todo: VecDeque::new(), inbox: VecDeque::new(), call: None }
    }

    pub fn idle(&self) -> bool {
        self.up && self.todo.is_empty() && self.inbox.is_empty()
    }
}

pub type SourceAgent = Agent<source::Machine, source::Effect, source::Event>;
pub type TargetAgent = Agent<target::Machine, target::Effect, target::Event>;

/// A message between the agents.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Msg {
    Offer,
    Ask { abandon: bool },
    Told(PeerState),
    SealedAsk,
    SealedReply { yes: bool },
}

impl Msg {
    /// Texts do not count.
    pub fn key(&self) -> u8 {
        match self {
            Self::Offer => 0,
            Self::Ask { abandon } => 1 + u8::from(*abandon),
            Self::SealedAsk => 3,
            Self::SealedReply { yes } => 4 + u8::from(*yes),
            Self::Told(peer) => match peer {
                PeerState::Prepared => 6,
                PeerState::Restoring => 7,
                PeerState::Swapped => 8,
                PeerState::Withdrawing(_) => 9,
                PeerState::Running => 10,
                PeerState::Never(_) => 11,
            },
        }
    }

    fn to(&self) -> Role {
        match self {
            Self::Offer | Self::Ask { .. } | Self::SealedReply { .. } => Role::Target,
            Self::Told(_) | Self::SealedAsk => Role::Source,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub source: SourceAgent,
    pub target: TargetAgent,
    pub s: SourceNode,
    pub t: TargetNode,
    pub server: Server,
    /// In flight, in any order, at most one of a kind.
    pub net: Vec<Msg>,
    /// Writes whose caller does not wait any more and which may still take effect.
    pub late: Vec<(Role, Request)>,
    pub faults: u8,
    pub losses: u8,
    /// Code of the pod ran at the source since the freeze began.
    pub source_ran: bool,
    /// Code of the pod ran at the target.
    pub target_ran: bool,
    /// The source answered that it is sealed.
    pub said_yes: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The agent crashes, or its node, when it has executed so many of the effects that the action led to.
    Cut {
        action: Box<Action>,
        after: usize,
        reboot: bool,
    },
    /// The agent executes its next effect.
    Run(Role),
    /// The agent takes the next local answer.
    Take(Role),
    Crash(Role),
    Restart(Role),
    Reboot(Role),
    /// The controller calls `Agent.Switch`.
    Begin,
    Cancel,
    Undo,
    Retire,
    Retry(Role),
    /// The API server executes the call.
    Serve(Role),
    /// Its answer arrives.
    Answer(Role),
    /// The call breaks: no answer, executed or not.
    LoseCall(Role),
    /// A write that nobody waits for takes effect.
    Late(usize),
    RemoveHandover,
    Deliver(usize),
    /// The message arrives, and will arrive again.
    Double(usize),
    Lose(usize),
    DumpOk,
    DumpFails,
    /// The kubelet kills the source's containers.
    KillSource,
    /// Somebody thaws the pod by hand, before the source has answered that it is sealed.
    Meddle,
    /// The kubelet starts them.
    StartSource,
    Restore(usize),
    RestoreBreaks(usize),
    VerifyOk,
    VerifyFails,
    /// The gate, the keeper or the survey after a restart tells the agent.
    Tell(usize),
    Resume(usize),
    /// CRIU fails between gate and resume and says so.
    ResumeBreaks(usize),
    /// The kubelet kills a container of the target; if it was going, it may have run.
    KillTarget(usize, bool),
    /// The kubelet calls `create` again.
    CreateTarget(usize),
}

impl World {
    pub fn new(hand: &Hand) -> Self {
        Self {
            source: Agent::new(source::Machine::new()),
            target: Agent::new(target::Machine::new((0..hand.containers).map(name))),
            s: SourceNode::new(),
            t: TargetNode::new(hand.containers),
            server: Server::default(),
            net: vec![],
            late: vec![],
            faults: hand.faults,
            losses: hand.losses,
            source_ran: false,
            target_ran: false,
            said_yes: false,
        }
    }

    pub fn send(&mut self, msg: Msg) {
        if let Err(place) = self.net.binary_search_by_key(&msg.key(), Msg::key) {
            self.net.insert(place, msg);
        }
    }

    /// Everything that may happen next.
    pub fn actions(&self, hand: &Hand, actions: &mut Vec<Action>) {
        self.whole_actions(hand, actions);
        if hand.calm || hand.interleave || self.faults == 0 {
            return;
        }
        for index in 0..actions.len() {
            let (effects, fault) = self.effects(hand, &actions[index]);
            for after in (0..effects).filter(|_| fault) {
                for reboot in [false, true] {
                    actions.push(Action::Cut { action: Box::new(actions[index].clone()), after, reboot });
                }
            }
        }
    }

    fn whole_actions(&self, hand: &Hand, actions: &mut Vec<Action>) {
        let fault = self.faults > 0 && !hand.calm;
        let loss = self.losses > 0 && !hand.calm;
        // A violated world needs no future.
        if self.source_ran && self.target_ran {
            return;
        }
        for role in [Role::Source, Role::Target] {
            let (todo, inbox, up) = match role {
                Role::Source => (!self.source.todo.is_empty(), !self.source.inbox.is_empty(), self.source.up),
                Role::Target => (!self.target.todo.is_empty(), !self.target.inbox.is_empty(), self.target.up),
            };
            if todo || inbox {
                actions.push(if todo { Action::Run(role) } else { Action::Take(role) });
                if fault {
                    actions.extend([Action::Crash(role), Action::Reboot(role)]);
                }
                if !hand.interleave {
                    if fault && role == Role::Source && self.s.alive {
                        actions.push(Action::KillSource);
                    }
                    return;
                }
            } else if !up {
                actions.push(Action::Restart(role));
                if fault {
                    actions.push(Action::Reboot(role));
                }
            } else if fault {
                actions.extend([Action::Crash(role), Action::Reboot(role)]);
            }
        }
        self.calls(fault, loss, actions);
        self.messages(loss, actions);
        self.at_source(fault, actions);
        self.at_target(fault, actions);
    }

    fn calls(&self, fault: bool, loss: bool, actions: &mut Vec<Action>) {
        for (role, call, idle) in [(Role::Source, &self.source.call, self.source.idle()), (Role::Target, &self.target.call, self.target.idle())] {
            match call {
                Some(Call::Asked(_)) => actions.push(Action::Serve(role)),
                Some(Call::Answered(_)) if idle => actions.push(Action::Answer(role)),
                _ => {}
            }
            if call.is_some() && idle && loss {
                actions.push(Action::LoseCall(role));
            }
        }
        for (index, (_, request)) in self.late.iter().enumerate() {
            if self.server.bites(request) {
                actions.push(Action::Late(index));
            }
        }
        if fault && self.server.object.is_some() {
            actions.push(Action::RemoveHandover);
        }
    }

    fn messages(&self, loss: bool, actions: &mut Vec<Action>) {
        for (index, msg) in self.net.iter().enumerate() {
            let idle = match msg.to() {
                Role::Source => self.source.idle(),
                Role::Target => self.target.idle(),
            };
            if idle {
                actions.push(Action::Deliver(index));
            }
            if loss {
                actions.push(Action::Lose(index));
                if idle {
                    actions.push(Action::Double(index));
                }
            }
        }
    }

    /// Whether a question to or an answer from the target (or the other way round) is still on its way.
    fn in_flight(&self, keys: std::ops::RangeInclusive<u8>) -> bool {
        self.net.iter().any(|msg| keys.contains(&msg.key()))
    }

    fn at_source(&self, fault: bool, actions: &mut Vec<Action>) {
        if self.source.idle() {
            if *self.source.machine.state() == source::State::Prepared {
                actions.push(Action::Begin);
            }
            if self.source.call.is_none() && !self.source.machine.finished() && !self.in_flight(0..=2) && !self.in_flight(6..=11) {
                actions.push(Action::Retry(Role::Source));
            }
            if self.s.dumping {
                actions.push(if self.s.alive && self.s.frozen { Action::DumpOk } else { Action::DumpFails });
                if fault {
                    actions.push(Action::DumpFails);
                }
            }
            if *self.source.machine.state() == source::State::Gone {
                actions.push(Action::Retire);
            }
            if fault {
                actions.push(Action::Cancel);
            }
        }
        if fault && self.s.alive {
            actions.push(Action::KillSource);
            if self.s.sealed && !self.said_yes {
                actions.push(Action::Meddle);
            }
        }
        if !self.s.alive && !self.s.fenced && !self.s.deleted {
            actions.push(Action::StartSource);
        }
    }

    fn at_target(&self, fault: bool, actions: &mut Vec<Action>) {
        if self.target.idle() {
            if self.target.call.is_none() && !self.target.machine.finished() && !self.in_flight(3..=5) {
                actions.push(Action::Retry(Role::Target));
            }
            if self.t.verifying {
                actions.push(Action::VerifyOk);
                if fault {
                    actions.push(Action::VerifyFails);
                }
            }
            if fault {
                actions.push(Action::Undo);
            }
        }
        for (index, container) in self.t.containers.iter().enumerate() {
            let restoring = matches!(container.at, At::Keeper | At::Held);
            if container.at == At::Keeper && self.t.images_go && self.target.idle() {
                actions.push(Action::Restore(index));
            }
            if !container.told && container.at != At::Keeper && self.target.idle() {
                actions.push(Action::Tell(index));
            }
            if container.at == At::Going {
                actions.push(Action::Resume(index));
            }
            if matches!(container.at, At::Gone | At::Broken { .. }) && (self.target.idle() || !self.target.up) {
                actions.push(Action::CreateTarget(index));
            }
            if fault {
                if restoring {
                    actions.extend([Action::RestoreBreaks(index), Action::KillTarget(index, false)]);
                }
                if container.at == At::Going {
                    actions.extend([Action::ResumeBreaks(index), Action::KillTarget(index, false), Action::KillTarget(index, true)]);
                }
            }
        }
    }
}
