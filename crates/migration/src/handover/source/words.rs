//! The words of the source's machine: its states, what it is told, what it orders.

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::handover::{PeerState, Read, SealFacts, Sealed, Version, Written};

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
    /// From now on the kubelet cannot create a container of this pod, also not after a reboot (see [`crate::handover::seal`]). Durable.
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
