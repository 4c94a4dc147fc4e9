//! The source's machine: seal, offer, and then either never thaw again or thaw for good.
//!
//! ```text
//!   Prepared ─Begin─▶ Claiming ─created─▶ Sealing ─dumped, pod sealed─▶ Offered ──────────┐ Running
//!      │                 │ refused           │ failed, cancelled          │ cancel, …     ▼
//!      │                 │                   │ (nothing was offered)      ▼              Gone ─Retire─▶ Retired
//!      ▼                 ▼                   ▼     Aborted or Never    Aborting ──────────▲ Running
//!   Released ◀───────────┴───────────────────┴────────────────────────────┘
//! ```

mod why;
mod words;

use serde::{Deserialize, Serialize};

use super::{Owner, PeerState, Read, SealFacts, Sealed, Version, Written};
use crate::Failure;
pub use words::*;

/// The source's side of one migration. Serialised, it is the journal.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub struct Machine {
    state: State,
    /// The version that the last write started from.
    version: Option<Version>,
    /// Likewise, if that write was refused. If it is still the newest, the refusal was no conflict: only a timer tries again.
    refused: Option<Version>,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// A machine in [`State::Prepared`].
    #[must_use]
    pub fn new() -> Self {
        Self { state: State::Prepared, version: None, refused: None }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// How it ended, once that is decided. For an `Agent.Switch` that attaches later.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match &self.state {
            State::Gone | State::Retired => Some(Outcome::Running),
            State::Released { why, .. } => Some(Outcome::TakenBack(why.clone())),
            _ => None,
        }
    }

    /// Whether nothing is left to do: the journal may be dropped and, when the target has finished too, the `Handover` deleted.
    #[must_use]
    pub fn finished(&self) -> bool {
        matches!(self.state, State::Retired | State::Released { settled: true, .. })
    }

    /// Takes one event and says what to do. Total: what does not fit the state changes nothing.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Begin => self.begin(),
            Event::HandoverCreated(written) => self.created(&written),
            Event::Frozen => self.when_sealing(Effect::Dump),
            Event::DumpDone => self.when_sealing(Effect::SealPod),
            Event::FreezeFailed(why) | Event::DumpFailed(why) => match self.state {
                State::Sealing => self.release(why, false),
                _ => vec![],
            },
            Event::PodSealed(facts) => self.pod_sealed(&facts),
            Event::Target(peer) => self.target(peer),
            Event::TargetSilent => vec![],
            Event::Handover(read) => self.read(read),
            Event::AbortWritten(written) => self.abort_written(&written),
            Event::Cancel(why) => self.abort(why, false),
            Event::DeadlinePassed => self.abort(why::deadline(), false),
            Event::SealBroken(what) => self.abort(why::broken(&what), true),
            Event::AskSealed(facts) => vec![Effect::AnswerSealed(self.sealed(&facts))],
            Event::Retry => {
                self.refused = None;
                self.retry()
            }
            Event::Restarted { same_boot } => self.restarted(same_boot),
            Event::Retire => match self.state {
                State::Gone => {
                    self.state = State::Retired;
                    vec![Effect::Journal, Effect::Kill, Effect::Unfence]
                }
                State::Retired => vec![Effect::Kill, Effect::Unfence],
                _ => vec![],
            },
        }
    }

    fn begin(&mut self) -> Vec<Effect> {
        match self.state {
            State::Prepared => {
                self.state = State::Claiming;
                vec![Effect::Journal, Effect::CreateHandover]
            }
            _ => self.outcome().map(Effect::Report).into_iter().collect(),
        }
    }

    fn created(&mut self, written: &Written) -> Vec<Effect> {
        match (&self.state, written) {
            (State::Claiming, Written::Ok { .. }) => self.seal(),
            (State::Claiming, _) => {
                self.refused = (*written == Written::Conflict).then(Version::new);
                vec![Effect::ReadHandover]
            }
            _ => vec![],
        }
    }

    fn seal(&mut self) -> Vec<Effect> {
        self.forget();
        self.state = State::Sealing;
        vec![Effect::Journal, Effect::Fence, Effect::ShutTraffic, Effect::Freeze]
    }

    fn when_sealing(&self, effect: Effect) -> Vec<Effect> {
        if self.state == State::Sealing { vec![effect] } else { vec![] }
    }

    fn pod_sealed(&mut self, facts: &SealFacts) -> Vec<Effect> {
        match &self.state {
            State::Sealing => match facts.closed() {
                Sealed::Yes => {
                    self.state = State::Offered;
                    vec![Effect::Journal, Effect::OfferToTarget]
                }
                Sealed::No { why } => self.release(why::broken(&why), false),
            },
            _ => vec![],
        }
    }

    fn target(&mut self, peer: PeerState) -> Vec<Effect> {
        match (&self.state, peer) {
            (State::Offered | State::Aborting { .. }, PeerState::Running) => self.gone(),
            (State::Claiming | State::Sealing | State::Offered, PeerState::Never(why)) => self.release(why, false),
            (State::Aborting { why, .. }, PeerState::Never(_)) => {
                let why = why.clone();
                self.release(why, false)
            }
            (State::Offered, PeerState::Withdrawing(why)) => self.abort(why, false),
            // The offer was lost, or the target restarted before it journaled anything.
            (State::Offered, PeerState::Prepared) => vec![Effect::OfferToTarget],
            _ => vec![],
        }
    }

    fn read(&mut self, read: Read) -> Vec<Effect> {
        match (self.state.clone(), read) {
            (State::Claiming, Read::Found { owner: Owner::Source, .. }) => self.seal(),
            // Refused, although none is there: no conflict.
            (State::Claiming, Read::NotFound) if self.refused.is_some() => self.release(why::refused(), true),
            (State::Claiming, Read::NotFound) => vec![Effect::CreateHandover],
            (State::Claiming, Read::Foreign | Read::Found { .. }) => self.release(why::contended(), true),
            (State::Offered | State::Aborting { .. }, Read::Found { owner: Owner::Running, .. }) => self.gone(),
            (State::Offered, Read::Found { owner: Owner::Aborted, .. }) => self.release(why::aborted(), true),
            (State::Aborting { why, .. }, Read::Found { owner: Owner::Aborted, .. }) => self.release(why, true),
            // Somebody removed the arbiter: only the target's promise, or its word that it runs, decides now.
            (State::Offered, Read::NotFound | Read::Foreign) => self.abort(why::removed(), false),
            (State::Aborting { .. } | State::Released { settled: false, .. }, Read::Found { owner: Owner::Source, version }) => self.write_aborted(version),
            (State::Released { settled: false, .. }, Read::Found { owner: Owner::Aborted, .. } | Read::NotFound | Read::Foreign) => self.settle(),
            _ => vec![],
        }
    }

    fn write_aborted(&mut self, version: Version) -> Vec<Effect> {
        if self.refused.as_ref() == Some(&version) {
            return vec![];
        }
        self.version = Some(version.clone());
        vec![Effect::WriteAborted { version }]
    }

    fn abort_written(&mut self, written: &Written) -> Vec<Effect> {
        match (self.state.clone(), written) {
            (State::Aborting { why, .. }, Written::Ok { .. }) => self.release(why, true),
            (State::Released { settled: false, .. }, Written::Ok { .. }) => self.settle(),
            (State::Aborting { .. } | State::Released { settled: false, .. }, _) => {
                self.refused = self.version.take().filter(|_| *written == Written::Conflict);
                vec![Effect::ReadHandover]
            }
            _ => vec![],
        }
    }

    /// Wants the pod back. What was offered needs the arbiter or the target's promise; what was not offered does not.
    fn abort(&mut self, why: Failure, now_broken: bool) -> Vec<Effect> {
        match &mut self.state {
            State::Prepared => self.release(why, true),
            State::Claiming | State::Sealing => self.release(why, false),
            State::Offered => {
                self.state = State::Aborting { why, broken: now_broken };
                vec![Effect::Journal, Effect::AskTarget { abandon: true }, Effect::ReadHandover]
            }
            State::Aborting { broken, .. } if now_broken && !*broken => {
                *broken = true;
                vec![Effect::Journal]
            }
            _ => vec![],
        }
    }

    fn release(&mut self, why: Failure, settled: bool) -> Vec<Effect> {
        let touched = !matches!(self.state, State::Prepared | State::Claiming);
        let mut effects = vec![Effect::Journal];
        if touched {
            effects.extend([Effect::Thaw, Effect::OpenTraffic, Effect::Unfence]);
        }
        effects.push(Effect::Report(Outcome::TakenBack(why.clone())));
        if !settled {
            effects.extend([Effect::AskTarget { abandon: true }, Effect::ReadHandover]);
        }
        self.forget();
        self.state = State::Released { why, touched, settled };
        effects
    }

    /// No write is to be judged any more.
    fn forget(&mut self) {
        self.version = None;
        self.refused = None;
    }

    fn settle(&mut self) -> Vec<Effect> {
        self.forget();
        if let State::Released { settled, .. } = &mut self.state {
            *settled = true;
        }
        vec![Effect::Journal]
    }

    fn gone(&mut self) -> Vec<Effect> {
        self.forget();
        self.state = State::Gone;
        vec![Effect::Journal, Effect::Report(Outcome::Running)]
    }

    fn sealed(&self, facts: &SealFacts) -> Sealed {
        match &self.state {
            State::Offered | State::Aborting { broken: false, .. } | State::Gone | State::Retired => facts.sealed(),
            State::Aborting { why, .. } => Sealed::No { why: why.message.clone() },
            State::Released { .. } => Sealed::No { why: "the source was taken back and runs".into() },
            State::Prepared | State::Claiming | State::Sealing => Sealed::No { why: "the source has not offered anything".into() },
        }
    }

    fn retry(&self) -> Vec<Effect> {
        match &self.state {
            State::Claiming | State::Released { settled: false, .. } => vec![Effect::ReadHandover],
            State::Offered => vec![Effect::AskTarget { abandon: false }, Effect::ReadHandover],
            State::Aborting { .. } => {
                vec![Effect::AskTarget { abandon: true }, Effect::ReadHandover]
            }
            _ => vec![],
        }
    }

    fn restarted(&mut self, same_boot: bool) -> Vec<Effect> {
        self.forget();
        match &self.state {
            State::Prepared => vec![],
            // What was open at the target and in CRIU is lost; nothing was offered.
            State::Claiming | State::Sealing => self.release(why::interrupted(same_boot), false),
            // Frozen cgroups outlive the agent. Nothing is sealed anew: that would hide that a seal was broken.
            State::Offered | State::Aborting { .. } if same_boot => self.retry(),
            State::Offered => self.abort(why::rebooted(), true),
            State::Aborting { why, .. } => {
                self.state = State::Aborting { why: why.clone(), broken: true };
                vec![Effect::Journal, Effect::AskTarget { abandon: true }, Effect::ReadHandover]
            }
            State::Released { why, touched, settled } => {
                let mut effects = if *touched { vec![Effect::Thaw, Effect::OpenTraffic, Effect::Unfence] } else { vec![] };
                effects.push(Effect::Report(Outcome::TakenBack(why.clone())));
                if !settled {
                    effects.push(Effect::ReadHandover);
                }
                effects
            }
            State::Gone => vec![Effect::Fence, Effect::ShutTraffic, Effect::SealPod, Effect::Report(Outcome::Running)],
            State::Retired => vec![Effect::Kill, Effect::Unfence],
        }
    }
}
