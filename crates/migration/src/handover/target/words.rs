//! The words of the target's machine: its states, what it is told, what it orders.

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::handover::{PeerState, Read, Sealed, Version, Written};

/// Where the target stands.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum State {
    /// Keepers wait.
    Prepared,
    /// The images are there; the restores run up to the gate.
    Restoring,
    /// All containers are held at the gate and are being verified.
    Verifying,
    /// Verified; the swap is journaled and is sent, or is about to be, or its reply was lost.
    Swapping,
    /// The swap took effect: the pod is the target's. The gate is shut until the source says that it is sealed. (Not journaled: the arbiter knows.)
    Owner,
    /// The source is sealed; the gate is open, or was when the agent last lived. Something may have run.
    Opening,
    /// Something ran. Never taken back.
    Running,
    /// The `Handover` says `Running`. Final.
    Done,
    /// Owns the pod, will not run it, proved that nothing ran: gives it back.
    GivingBack {
        /// Why.
        why: Failure,
    },
    /// Promise: nothing ran, nothing will, no swap is in effect or under way. Final.
    Never {
        /// Why.
        why: Failure,
    },
}

/// Where one container stands.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Stage {
    /// A keeper waits, or CRIU restores.
    Waiting,
    /// CRIU holds it at `post-restore`.
    AtGate,
    /// CRIU said `post-resume`.
    Resumed,
    /// The restore failed, or nothing is left of it.
    Failed {
        /// It may have run.
        ran: bool,
    },
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// `Handoff.Restore` was called, and every file is there and its digest is right. May come again.
    ImagesReady,
    /// `create` of this container was answered with [`Create::Keep`]: a new keeper waits, whatever was seen of an earlier one is void.
    Keeper {
        /// Name of the container.
        container: String,
    },
    /// The gate of this container asks (it asks again after the agent restarted).
    AtGate {
        /// Name of the container.
        container: String,
    },
    /// Answer to [`Effect::Verify`]: the restored tree is what the images say.
    VerifiedOk,
    /// Answer to [`Effect::Verify`]: it is not.
    VerifyFailed(Failure),
    /// The restore of this container failed, or neither its keeper nor its processes are there any more.
    RestoreFailed {
        /// Name of the container.
        container: String,
        /// Whether anything of it may have run. `false` needs proof: the gate was never answered, or CRIU itself reported the failure by its exit code (it was
        /// not killed) and its `post-resume` was not called. Ignored, as false, while the gate is shut.
        ran: bool,
        /// Why, with the end of CRIU's log.
        failure: Failure,
    },
    /// CRIU said `post-resume` for this container: it runs.
    Resumed {
        /// Name of the container.
        container: String,
    },
    /// Answer to [`Effect::ReadHandover`].
    Handover(Read),
    /// Answer to [`Effect::WriteSwap`].
    SwapWritten(Written),
    /// Answer to [`Effect::WriteBack`].
    BackWritten(Written),
    /// Answer to [`Effect::WriteRunning`].
    RunningWritten(Written),
    /// Answer to [`Effect::AskSealed`].
    SealedReply(Sealed),
    /// The source did not answer [`Effect::AskSealed`], or not with a yes or no: wait.
    SourceSilent,
    /// The controller, or the kubelet by deleting the target pod, wants it undone. Too late once the swap took effect.
    Undo(Failure),
    /// The source asks `Handoff.Ask`.
    AskedByPeer {
        /// The source wants out and asks for the promise.
        abandon: bool,
    },
    /// The timer: ask again.
    Retry,
    /// The agent came back with this journal. Then feed `AtGate`, `Resumed` and `RestoreFailed` as they are found.
    Restarted {
        /// The node's boot id is the one from before: restored processes may still be held.
        same_boot: bool,
    },
}

/// What the agent is to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Make the machine durable. Always the first effect of a step.
    Journal,
    /// Answer `Images` with `Go` to every container that asks, now and later.
    AnswerImagesGo,
    /// Compare the restored tree of every container with the images. Answer: [`Event::VerifiedOk`] or [`Event::VerifyFailed`].
    Verify,
    /// Uncached GET. Answer: [`Event::Handover`].
    ReadHandover,
    /// `Source` → `Target`, from this version. Answer: [`Event::SwapWritten`].
    WriteSwap {
        /// The version that was read.
        version: Version,
    },
    /// Call `Handoff.Sealed`. Answer: [`Event::SealedReply`] or [`Event::SourceSilent`].
    AskSealed,
    /// Answer `Gate` with `Go` to every container that asks, now and later.
    OpenGate,
    /// Answer `Images` and `Gate` with `Abort`, keepers with `Exit`, now and later; kill what was restored.
    AbortGate,
    /// Make the consumed marker: from now on `create` for this pod starts the image afresh.
    MarkConsumed,
    /// `Target` → `Running`, from this version. Answer: [`Event::RunningWritten`].
    WriteRunning {
        /// The version that was read or made.
        version: Version,
    },
    /// `Target` → `Source`, from this version. Answer: [`Event::BackWritten`].
    WriteBack {
        /// The version that was read or made.
        version: Version,
    },
    /// Answer `Handoff.Ask`.
    AnswerPeer(PeerState),
    /// Tell whoever listens to `Handoff.Restore` where it stands now: [`PeerState::Running`], [`PeerState::Never`] or [`PeerState::Withdrawing`].
    Report(PeerState),
}

/// What to answer to an OCI `create` of a container of the target pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Create {
    /// Leave a keeper.
    Keep,
    /// Start the image afresh: this migration was consumed.
    Afresh,
    /// Refuse; the kubelet comes again.
    Refuse,
}
