//! The target's machine: restore up to the gate, verify, swap, ask the source once more, open; or promise never to.
//!
//! ```text
//!   Prepared ─ImagesReady─▶ Restoring ─all at the gate─▶ Verifying ─verified─▶ Swapping ─H=Target─▶ Owner ─sealed: yes─▶ Opening ─one ran─▶ Running ─▶ Done
//!      │                        │                            │                    │                  │ no, failed         │ all failed,
//!      ▼ undone, failed         ▼                            ▼         H=Aborted, │                  ▼                    ▼ none ran
//!    Never ◀────────────────────┴────────────────────────────┴──────── gone ──────┴◀──H=Source── GivingBack ◀─────────────┘
//! ```

mod why;
mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Owner, PeerState, Read, Sealed, Version, Written};
use crate::Failure;
pub use words::*;

/// The target's side of one migration. Serialised, it is the journal.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub struct Machine {
    state: State,
    containers: BTreeMap<String, Stage>,
    /// The version that the next write starts from, as far as known.
    version: Option<Version>,
    /// The source said yes.
    sealed: bool,
    /// A swap may be in effect, but the target does not want to run any more.
    give_up: Option<Failure>,
    /// The outcome was reported.
    reported: bool,
    /// The version from which the last write was refused. If it is still the newest, the refusal was no conflict: only a timer tries again.
    refused: Option<Version>,
}

impl Machine {
    /// A machine in [`State::Prepared`] for a pod with these containers.
    #[must_use]
    pub fn new(containers: impl IntoIterator<Item = String>) -> Self {
        Self {
            state: State::Prepared,
            containers: containers.into_iter().map(|name| (name, Stage::Waiting)).collect(),
            version: None,
            sealed: false,
            give_up: None,
            reported: false,
            refused: None,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where each container stands, by name.
    #[must_use]
    pub fn containers(&self) -> &BTreeMap<String, Stage> {
        &self.containers
    }

    /// Whether nothing is left to do: the journal may be dropped and, when the source has finished too, the `Handover` deleted.
    #[must_use]
    pub fn finished(&self) -> bool {
        matches!(self.state, State::Done | State::Never { .. })
    }

    /// What to answer to `create` of a container of the target pod. After [`Create::Keep`] feed [`Event::Keeper`]. A wrapper that cannot reach the agent goes by the consumed marker alone.
    #[must_use]
    pub fn create(&self) -> Create {
        match self.state {
            State::Prepared => Create::Keep,
            State::Running | State::Done => Create::Afresh,
            _ => Create::Refuse,
        }
    }

    /// Where it stands, in the words for the source.
    #[must_use]
    pub fn peer_state(&self) -> PeerState {
        match &self.state {
            State::Prepared => PeerState::Prepared,
            State::Restoring | State::Verifying => PeerState::Restoring,
            State::Swapping => match &self.give_up {
                Some(why) => PeerState::Withdrawing(why.clone()),
                None => PeerState::Swapped,
            },
            State::Owner | State::Opening => PeerState::Swapped,
            State::Running | State::Done => PeerState::Running,
            State::GivingBack { why } => PeerState::Withdrawing(why.clone()),
            State::Never { why } => PeerState::Never(why.clone()),
        }
    }

    /// Takes one event and says what to do. Total: what does not fit the state changes nothing.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::ImagesReady => self.images_ready(),
            Event::Keeper { container } => self.new_keeper(&container),
            Event::AtGate { container } => self.at_gate(&container),
            Event::VerifiedOk => self.verified(),
            Event::VerifyFailed(why) => match self.state {
                State::Verifying => self.never(why),
                _ => vec![],
            },
            Event::RestoreFailed { container, ran, failure } => self.restore_failed(&container, ran, failure),
            Event::Resumed { container } => self.resumed(&container),
            Event::Handover(read) => self.read(read),
            Event::SwapWritten(written) => self.swap_written(written),
            Event::BackWritten(written) => self.back_written(&written),
            Event::RunningWritten(written) => self.running_written(&written),
            Event::SealedReply(answer) => self.sealed_reply(answer),
            Event::SourceSilent => vec![],
            Event::Undo(why) => self.undo(why),
            Event::AskedByPeer { abandon } => self.asked(abandon),
            Event::Retry => {
                self.refused = None;
                self.retry()
            }
            Event::Restarted { same_boot } => self.restarted(same_boot),
        }
    }

    fn images_ready(&mut self) -> Vec<Effect> {
        match self.state {
            State::Prepared => {
                self.state = State::Restoring;
                let mut effects = vec![Effect::AnswerImagesGo, Effect::ReadHandover];
                effects.extend(self.verify_if_all_at_gate());
                effects
            }
            State::Running | State::Done | State::Never { .. } => {
                vec![Effect::Report(self.peer_state())]
            }
            _ => vec![],
        }
    }

    fn new_keeper(&mut self, container: &str) -> Vec<Effect> {
        if self.state == State::Prepared
            && let Some(stage) = self.containers.get_mut(container)
        {
            *stage = Stage::Waiting;
        }
        vec![]
    }

    fn at_gate(&mut self, container: &str) -> Vec<Effect> {
        let Some(stage) = self.containers.get_mut(container) else {
            return vec![];
        };
        match self.state {
            State::Prepared | State::Restoring | State::Verifying | State::Swapping | State::Owner => {
                if *stage == Stage::Waiting {
                    *stage = Stage::AtGate;
                }
                match self.state {
                    State::Restoring => self.verify_if_all_at_gate(),
                    State::Owner => self.open_if_ready(),
                    _ => vec![],
                }
            }
            State::Opening | State::Running | State::Done => {
                if *stage == Stage::Waiting {
                    *stage = Stage::AtGate;
                }
                vec![Effect::OpenGate]
            }
            State::GivingBack { .. } | State::Never { .. } => vec![Effect::AbortGate],
        }
    }

    fn all_at_gate(&self) -> bool {
        self.containers.values().all(|stage| *stage == Stage::AtGate)
    }

    fn verify_if_all_at_gate(&mut self) -> Vec<Effect> {
        if !self.all_at_gate() {
            return vec![];
        }
        self.state = State::Verifying;
        vec![Effect::Verify]
    }

    fn verified(&mut self) -> Vec<Effect> {
        if self.state != State::Verifying {
            return vec![];
        }
        self.state = State::Swapping;
        match self.version.clone() {
            Some(version) => vec![Effect::Journal, Effect::WriteSwap { version }],
            None => vec![Effect::Journal, Effect::ReadHandover],
        }
    }

    fn swap_written(&mut self, written: Written) -> Vec<Effect> {
        match (&self.state, written) {
            (State::Swapping, Written::Ok { version }) => self.own(version),
            (State::Swapping, written) => self.unsure(&written),
            _ => vec![],
        }
    }

    /// A write did not take effect, or nobody knows.
    fn unsure(&mut self, written: &Written) -> Vec<Effect> {
        self.refused = if *written == Written::Conflict { self.version.clone() } else { None };
        vec![Effect::ReadHandover]
    }

    /// The next write, from what was read.
    fn write(&mut self, version: Version, effect: fn(Version) -> Effect) -> Vec<Effect> {
        if self.refused.as_ref() == Some(&version) {
            return vec![];
        }
        self.version = Some(version.clone());
        vec![effect(version)]
    }

    /// The arbiter says that the pod is the target's.
    fn own(&mut self, version: Version) -> Vec<Effect> {
        self.version = Some(version);
        if let Some(why) = self.give_up.take() {
            return self.give_back(why);
        }
        self.state = State::Owner;
        vec![Effect::AskSealed]
    }

    fn sealed_reply(&mut self, answer: Sealed) -> Vec<Effect> {
        match (&self.state, answer) {
            (State::Owner, Sealed::Yes) => {
                self.sealed = true;
                self.open_if_ready()
            }
            (State::Owner, Sealed::No { why }) => self.give_back(why::not_sealed(&why)),
            _ => vec![],
        }
    }

    fn open_if_ready(&mut self) -> Vec<Effect> {
        if !(self.sealed && self.all_at_gate()) {
            return vec![];
        }
        self.state = State::Opening;
        vec![Effect::Journal, Effect::OpenGate]
    }

    fn resumed(&mut self, container: &str) -> Vec<Effect> {
        let Some(stage) = self.containers.get_mut(container) else {
            return vec![];
        };
        match self.state {
            State::Opening | State::Running | State::Done => {
                *stage = Stage::Resumed;
                self.ran()
            }
            _ => vec![],
        }
    }

    /// Something ran: say so to the journal, the wrapper and the arbiter, and, when all is decided, to the source.
    fn ran(&mut self) -> Vec<Effect> {
        let mut effects = vec![Effect::Journal];
        if self.state == State::Opening {
            self.state = State::Running;
            effects.push(Effect::MarkConsumed);
            effects.push(match self.version.clone() {
                Some(version) => Effect::WriteRunning { version },
                None => Effect::ReadHandover,
            });
        }
        let decided = self.containers.values().all(|stage| matches!(stage, Stage::Resumed | Stage::Failed { .. }));
        if decided && !self.reported {
            self.reported = true;
            effects.push(Effect::Report(PeerState::Running));
        }
        effects
    }

    fn restore_failed(&mut self, container: &str, ran: bool, failure: Failure) -> Vec<Effect> {
        let Some(stage) = self.containers.get_mut(container) else {
            return vec![];
        };
        match self.state {
            State::Prepared | State::Restoring | State::Verifying => {
                *stage = Stage::Failed { ran: false };
                self.never(failure)
            }
            State::Swapping => {
                *stage = Stage::Failed { ran: false };
                self.withdraw(failure)
            }
            State::Owner => {
                *stage = Stage::Failed { ran: false };
                self.give_back(failure)
            }
            // The first report counts: a later one, after a restart, knows less.
            State::Opening if matches!(stage, Stage::Failed { .. }) => vec![],
            State::Opening => {
                *stage = Stage::Failed { ran };
                if ran {
                    self.ran()
                } else if self.containers.values().all(|stage| *stage == Stage::Failed { ran: false }) {
                    self.give_back(failure)
                } else {
                    vec![Effect::Journal]
                }
            }
            // It ran: the kubelet starts this container afresh.
            State::Running | State::Done if *stage != Stage::Resumed => {
                *stage = Stage::Failed { ran };
                self.ran()
            }
            _ => vec![],
        }
    }

    fn read(&mut self, read: Read) -> Vec<Effect> {
        match (&self.state, read) {
            (State::Restoring | State::Verifying, Read::Found { owner: Owner::Source, version }) => {
                self.version = Some(version);
                vec![]
            }
            (State::Restoring | State::Verifying, Read::Found { .. } | Read::NotFound | Read::Foreign) => self.never(why::taken_back()),
            (State::Swapping, Read::Found { owner: Owner::Source, version }) => match &self.give_up {
                // The swap may still be under way: only the source's `Aborted` ends that. Tell it.
                Some(why) => vec![Effect::Report(PeerState::Withdrawing(why.clone()))],
                None if self.refused.as_ref() == Some(&version) => self.withdraw(why::refused()),
                None => self.write(version, |version| Effect::WriteSwap { version }),
            },
            (State::Swapping, Read::Found { owner: Owner::Target, version }) => self.own(version),
            (State::Swapping, Read::Found { owner: Owner::Aborted, .. } | Read::NotFound | Read::Foreign) => {
                let why = self.give_up.take().unwrap_or_else(why::taken_back);
                self.never(why)
            }
            (State::GivingBack { .. }, Read::Found { owner: Owner::Target, version }) => self.write(version, |version| Effect::WriteBack { version }),
            (State::GivingBack { why }, Read::Found { owner: Owner::Source | Owner::Aborted, .. } | Read::NotFound | Read::Foreign) => {
                let why = why.clone();
                self.never(why)
            }
            (State::Running, Read::Found { owner: Owner::Target, version }) => self.write(version, |version| Effect::WriteRunning { version }),
            (State::Running, Read::Found { owner: Owner::Running, .. } | Read::NotFound | Read::Foreign) => self.done(),
            _ => vec![],
        }
    }

    fn back_written(&mut self, written: &Written) -> Vec<Effect> {
        match (&self.state, written) {
            (State::GivingBack { why }, Written::Ok { .. }) => {
                let why = why.clone();
                self.never(why)
            }
            (State::GivingBack { .. }, _) => self.unsure(written),
            _ => vec![],
        }
    }

    fn running_written(&mut self, written: &Written) -> Vec<Effect> {
        match (&self.state, written) {
            (State::Running, Written::Ok { .. }) => self.done(),
            (State::Running, _) => self.unsure(written),
            _ => vec![],
        }
    }

    fn done(&mut self) -> Vec<Effect> {
        self.version = None;
        self.refused = None;
        self.state = State::Done;
        vec![Effect::Journal]
    }

    fn undo(&mut self, why: Failure) -> Vec<Effect> {
        match self.state {
            State::Prepared | State::Restoring | State::Verifying => self.never(why),
            State::Swapping => self.withdraw(why),
            _ => vec![],
        }
    }

    fn asked(&mut self, abandon: bool) -> Vec<Effect> {
        let mut effects =
            if abandon && matches!(self.state, State::Prepared | State::Restoring | State::Verifying) { self.never(why::abandoned()) } else { vec![] };
        effects.push(Effect::AnswerPeer(self.peer_state()));
        effects
    }

    /// A swap may be in effect or under way: nothing can be promised yet.
    fn withdraw(&mut self, why: Failure) -> Vec<Effect> {
        if self.give_up.is_some() {
            return vec![];
        }
        self.give_up = Some(why.clone());
        vec![Effect::Journal, Effect::AbortGate, Effect::Report(PeerState::Withdrawing(why)), Effect::ReadHandover]
    }

    fn give_back(&mut self, why: Failure) -> Vec<Effect> {
        self.state = State::GivingBack { why };
        let write = match self.version.clone() {
            Some(version) => Effect::WriteBack { version },
            None => Effect::ReadHandover,
        };
        vec![Effect::Journal, Effect::AbortGate, write]
    }

    fn never(&mut self, why: Failure) -> Vec<Effect> {
        self.version = None;
        self.refused = None;
        self.give_up = None;
        self.sealed = false;
        self.state = State::Never { why: why.clone() };
        vec![Effect::Journal, Effect::AbortGate, Effect::Report(PeerState::Never(why))]
    }

    fn retry(&self) -> Vec<Effect> {
        match self.state {
            State::Swapping | State::GivingBack { .. } | State::Running => {
                vec![Effect::ReadHandover]
            }
            State::Owner if !self.sealed => vec![Effect::AskSealed],
            _ => vec![],
        }
    }

    fn restarted(&mut self, same_boot: bool) -> Vec<Effect> {
        self.version = None;
        self.sealed = false;
        self.reported = false;
        self.refused = None;
        for stage in self.containers.values_mut() {
            if *stage == Stage::AtGate {
                *stage = Stage::Waiting;
            }
        }
        match &self.state {
            State::Prepared | State::Restoring | State::Verifying => {
                self.state = State::Prepared;
                if same_boot { vec![] } else { self.never(why::rebooted()) }
            }
            State::Swapping | State::Owner => {
                self.state = State::Swapping;
                match (same_boot, self.give_up.is_some()) {
                    (false, false) => self.withdraw(why::rebooted()),
                    (_, true) => vec![Effect::AbortGate, Effect::ReadHandover],
                    (true, false) => vec![Effect::ReadHandover],
                }
            }
            State::Opening if same_boot => vec![Effect::OpenGate],
            State::Opening => {
                for stage in self.containers.values_mut() {
                    *stage = Stage::Failed { ran: true };
                }
                self.ran()
            }
            State::Running => {
                vec![Effect::MarkConsumed, Effect::OpenGate, Effect::Report(PeerState::Running), Effect::ReadHandover]
            }
            State::Done => vec![Effect::MarkConsumed, Effect::OpenGate],
            State::GivingBack { .. } => vec![Effect::AbortGate, Effect::ReadHandover],
            State::Never { why } => vec![Effect::AbortGate, Effect::Report(PeerState::Never(why.clone()))],
        }
    }
}
