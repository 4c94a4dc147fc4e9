//! Why the source gives up: the texts for the user.

use crate::Failure;

pub(super) fn deadline() -> Failure {
    Failure::new(
        "DeadlineExceeded",
        "the deadline of the migration passed before the commit",
        "Raise spec.deadlineSeconds, or migrate when nodes and network are less busy.",
    )
}

pub(super) fn broken(what: &str) -> Failure {
    Failure::new("SealBroken", what, "Look at the kubelet's log on the source node for who restarted or thawed the pod, then try again.")
}

pub(super) fn aborted() -> Failure {
    Failure::new("Aborted", "the Handover says that the migration was taken back", "Try again.")
}

pub(super) fn removed() -> Failure {
    Failure::new(
        "HandoverRemoved",
        "the Handover object was removed while the pod moved",
        "Do not delete Handover objects or their finalizers; use `kubectl migrate cancel`. Try again.",
    )
}

pub(super) fn refused() -> Failure {
    Failure::new(
        "HandoverRefused",
        "the API server refuses to let the source's agent create the Handover",
        "Look at the agent's log on the source node for the refusal; check its permissions and the admission policies for handovers.godwit.dev.",
    )
}

pub(super) fn contended() -> Failure {
    Failure::new("AlreadyMigrating", "another migration holds the Handover of this pod", "Wait until the other migration has ended, or cancel it.")
}

pub(super) fn rebooted() -> Failure {
    Failure::new("NodeRebooted", "the source node was rebooted while the pod was held there for the hand-over", "Try again when the pod runs.")
}

pub(super) fn interrupted(same_boot: bool) -> Failure {
    if same_boot {
        Failure::new("AgentRestarted", "the agent on the source node restarted before the pod was offered to the target", "Try again.")
    } else {
        Failure::new("NodeRebooted", "the source node was rebooted before the pod was offered to the target", "Try again when the pod runs.")
    }
}
