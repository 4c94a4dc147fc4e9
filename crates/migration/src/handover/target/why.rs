//! Why the target gives up: the texts for the user.

use crate::Failure;

pub(super) fn not_sealed(why: &str) -> Failure {
    Failure::new("SourceNotSealed", why, "Look at the kubelet's log on the source node for who restarted the pod or the node, then try again.")
}

pub(super) fn taken_back() -> Failure {
    Failure::new("TakenBack", "the source took the migration back before the target owned the pod", "See the source's reason.")
}

pub(super) fn refused() -> Failure {
    Failure::new(
        "SwapRefused",
        "the API server refuses to let the target's agent take over the Handover, although nobody else changed it",
        "Look at the agent's log on the target node for the refusal; check its permissions and the admission policies for handovers.godwit.dev.",
    )
}

pub(super) fn abandoned() -> Failure {
    Failure::new("Abandoned", "the source asked the target to give up", "See the source's reason.")
}

pub(super) fn rebooted() -> Failure {
    Failure::new("NodeRebooted", "the target node was rebooted before the pod ran there", "Try again when the node is Ready.")
}
