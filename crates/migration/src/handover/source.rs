//! The source's machine: seal, offer, and then either never thaw again or thaw for good.
//!
//! ```text
//!   Prepared ─Begin─▶ Claiming ─created─▶ Sealing ─dumped, pod sealed─▶ Offered ──────────┐ Running
//!      │                 │ refused           │ failed, cancelled          │ cancel, …     ▼
//!      │                 │                   │ (nothing was offered)      ▼              Gone ─Retire─▶ Retired
//!      ▼                 ▼                   ▼     Aborted or Never    Aborting ──────────▲ Running
//!   Released ◀───────────┴───────────────────┴────────────────────────────┘
//! ```

use serde::{Deserialize, Serialize};

use super::{Owner, PeerState, Read, SealFacts, Sealed, Version, Written};
use crate::Failure;

/// Where the source stands.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing was touched.
    Prepared,
    /// The `Handover` is being created; the pod runs.
    Claiming,
    /// Fenced, traffic shut, frozen, dumping, being sealed. The target was offered nothing.
    Sealing,
    /// The dump is complete and at the target, the pod is sealed, the target may swap.
    Offered,
    /// Wants the pod back: tries to write `Aborted`, and asks the target for its promise. Still sealed.
    Aborting {
        /// Why.
        why: Failure,
        /// The seal was broken: the target must not open.
        broken: bool,
    },
    /// The pod runs here as before. Final once `settled`.
    Released {
        /// Why it was taken back.
        why: Failure,
        /// It had been fenced, shut or frozen by this migration. If not, it is not touched now either: it may be sealed by another one.
        touched: bool,
        /// The `Handover` says `Aborted`, or is not there.
        settled: bool,
    },
    /// The target runs, or has run. Never thawed again.
    Gone,
    /// Killed while sealed. Final.
    Retired,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Do it. Fed once, when the target was opened and everything outside the freeze is ready.
    Begin,
    /// Answer to [`Effect::CreateHandover`]. `Conflict`: one exists already (read it).
    HandoverCreated(Written),
    /// Answer to [`Effect::Freeze`]: traffic is shut and all containers of the pod, none missing, are frozen.
    Frozen,
    /// Answer to [`Effect::Freeze`]: could not.
    FreezeFailed(Failure),
    /// Answer to [`Effect::Dump`]: every dump ended well and the target has receipted every file.
    DumpDone,
    /// Answer to [`Effect::Dump`]: could not, or the target did not receipt it.
    DumpFailed(Failure),
    /// Answer to [`Effect::SealPod`]: done, and this is what the pod looks like now.
    PodSealed(SealFacts),
    /// The target said where it stands: outcome of `Handoff.Restore`, or an answer to [`Effect::AskTarget`].
    Target(PeerState),
    /// The target did not answer, or does not know this migration.
    TargetSilent,
    /// Answer to [`Effect::ReadHandover`].
    Handover(Read),
    /// Answer to [`Effect::WriteAborted`].
    AbortWritten(Written),
    /// The user, or the controller, wants it taken back.
    Cancel(Failure),
    /// The deadline passed. Like a cancel: it begins an abort, it decides nothing.
    DeadlinePassed,
    /// The agent noticed that the pod's cgroup was thawed by somebody else, or that a container was started. Not: a container was killed under the seal.
    SealBroken(String),
    /// The target asks `Handoff.Sealed`; these are the facts at this moment.
    AskSealed(SealFacts),
    /// The timer: ask again.
    Retry,
    /// The agent came back with this journal.
    Restarted {
        /// The node's boot id is the one from before.
        same_boot: bool,
    },
    /// The controller says: the pod object's deletion is on its way, end it.
    Retire,
}

/// What the agent is to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Make the machine durable. Always the first effect of a step.
    Journal,
    /// Create the `Handover` (state `Source`). Answer: [`Event::HandoverCreated`].
    CreateHandover,
    /// From now on the kubelet cannot create a container of this pod, also not after a reboot (see [`super::seal`]). Durable.
    Fence,
    /// Shut the pod's traffic gate.
    ShutTraffic,
    /// Freeze the cgroups of all containers. Answer: [`Event::Frozen`] or [`Event::FreezeFailed`].
    Freeze,
    /// Dump all containers and stream everything. Answer: [`Event::DumpDone`] or [`Event::DumpFailed`].
    Dump,
    /// Freeze the whole pod's cgroup. Answer: [`Event::PodSealed`].
    SealPod,
    /// Call `Handoff.Restore` (attaches if it runs already). Answers: [`Event::Target`], [`Event::TargetSilent`].
    OfferToTarget,
    /// Call `Handoff.Ask`. Answers: [`Event::Target`], [`Event::TargetSilent`].
    AskTarget {
        /// The source wants out: the target is to promise, if it can.
        abandon: bool,
    },
    /// Uncached GET. Answer: [`Event::Handover`].
    ReadHandover,
    /// `Source` → `Aborted`, from this version. Answer: [`Event::AbortWritten`].
    WriteAborted {
        /// The version that was read.
        version: Version,
    },
    /// End a dump that is still going on, then thaw pod and containers.
    Thaw,
    /// Open the pod's traffic gate.
    OpenTraffic,
    /// Take the fence away.
    Unfence,
    /// Answer `Handoff.Sealed`.
    AnswerSealed(Sealed),
    /// SIGKILL to every process of the pod while all are frozen, then thaw what is dead.
    Kill,
    /// Tell whoever listens to `Agent.Switch` how it ended.
    Report(Outcome),
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Committed: the pod runs at the target.
    Running,
    /// The pod runs at the source as before.
    TakenBack(Failure),
}

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
            Event::DeadlinePassed => self.abort(deadline(), false),
            Event::SealBroken(what) => self.abort(broken(&what), true),
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
                Sealed::No { why } => self.release(broken(&why), false),
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
            (State::Claiming, Read::NotFound) if self.refused.is_some() => self.release(refused(), true),
            (State::Claiming, Read::NotFound) => vec![Effect::CreateHandover],
            (State::Claiming, Read::Foreign | Read::Found { .. }) => self.release(contended(), true),
            (State::Offered | State::Aborting { .. }, Read::Found { owner: Owner::Running, .. }) => self.gone(),
            (State::Offered, Read::Found { owner: Owner::Aborted, .. }) => self.release(aborted(), true),
            (State::Aborting { why, .. }, Read::Found { owner: Owner::Aborted, .. }) => self.release(why, true),
            // Somebody removed the arbiter: only the target's promise, or its word that it runs, decides now.
            (State::Offered, Read::NotFound | Read::Foreign) => self.abort(removed(), false),
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
            State::Claiming | State::Sealing => self.release(interrupted(same_boot), false),
            // Frozen cgroups outlive the agent. Nothing is sealed anew: that would hide that a seal was broken.
            State::Offered | State::Aborting { .. } if same_boot => self.retry(),
            State::Offered => self.abort(rebooted(), true),
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

fn deadline() -> Failure {
    Failure::new(
        "DeadlineExceeded",
        "the deadline of the migration passed before the commit",
        "Raise spec.deadlineSeconds, or migrate when nodes and network are less busy.",
    )
}

fn broken(what: &str) -> Failure {
    Failure::new("SealBroken", what, "Look at the kubelet's log on the source node for who restarted or thawed the pod, then try again.")
}

fn aborted() -> Failure {
    Failure::new("Aborted", "the Handover says that the migration was taken back", "Try again.")
}

fn removed() -> Failure {
    Failure::new(
        "HandoverRemoved",
        "the Handover object was removed while the pod moved",
        "Do not delete Handover objects or their finalizers; use `kubectl migrate cancel`. Try again.",
    )
}

fn refused() -> Failure {
    Failure::new(
        "HandoverRefused",
        "the API server refuses to let the source's agent create the Handover",
        "Look at the agent's log on the source node for the refusal; check its permissions and the admission policies for handovers.godwit.dev.",
    )
}

fn contended() -> Failure {
    Failure::new("AlreadyMigrating", "another migration holds the Handover of this pod", "Wait until the other migration has ended, or cancel it.")
}

fn rebooted() -> Failure {
    Failure::new("NodeRebooted", "the source node was rebooted while the pod was held there for the hand-over", "Try again when the pod runs.")
}

fn interrupted(same_boot: bool) -> Failure {
    if same_boot {
        Failure::new("AgentRestarted", "the agent on the source node restarted before the pod was offered to the target", "Try again.")
    } else {
        Failure::new("NodeRebooted", "the source node was rebooted before the pod was offered to the target", "Try again when the pod runs.")
    }
}
