//! Failures as users see them: every reason word of the controller stands in this file.

use std::fmt::Display;

use godwit_api::migration::Failure;

/// A failure from its three parts.
pub fn new(reason: &str, message: impl Into<String>, remedy: impl Into<String>) -> Failure {
    Failure { reason: reason.to_owned(), message: message.into(), remedy: remedy.into(), log: String::new() }
}

/// The pod is not there.
#[must_use]
pub fn pod_not_found(namespace: &str, pod: &str) -> Failure {
    new("PodNotFound", format!("there is no pod {pod} in namespace {namespace}"), "Check name and namespace: kubectl get pods -A.")
}

/// The pod does not run.
#[must_use]
pub fn pod_not_running(pod: &str, phase: &str) -> Failure {
    new(
        "PodNotRunning",
        format!("pod {pod} is {phase}, only a running pod has something to move"),
        "Wait until it runs, or delete and create it on the other node.",
    )
}

/// The pod went away while it was to move.
#[must_use]
pub fn pod_deleted(pod: &str) -> Failure {
    new("PodDeleted", format!("pod {pod} was deleted while it was to move"), "Nothing to do: the deletion takes its course.")
}

/// The reason of [`source_node_gone`].
pub const SOURCE_NODE_GONE: &str = "SourceNodeGone";

/// The source went away with its node before it had moved.
#[must_use]
pub fn source_node_gone(pod: &str, node: &str) -> Failure {
    new(
        SOURCE_NODE_GONE,
        format!("node {node} was taken out of the cluster, and pod {pod} with it; nothing of the pod has run at the target"),
        "Its owner makes another pod; make one without an owner anew, or restore a checkpoint of it.",
    )
}

/// Somebody else is at it.
#[must_use]
pub fn already_migrating(pod: &str, other: &str) -> Failure {
    new(
        "AlreadyMigrating",
        format!("pod {pod} is being moved by PodMigration {other}"),
        format!("Wait for {other} to end, or cancel it: kubectl migrate cancel {other}."),
    )
}

/// No such node.
#[must_use]
pub fn node_not_found(node: &str) -> Failure {
    new("NodeNotFound", format!("there is no node {node}"), "Choose one of: kubectl get nodes -l godwit.dev/agent.")
}

/// The node cannot take pods now.
#[must_use]
pub fn node_not_ready(node: &str, why: impl Display) -> Failure {
    new("NodeNotReady", format!("node {node} is not Ready: {why}"), "Choose another node, or bring this one back.")
}

/// The node is cordoned.
#[must_use]
pub fn node_unschedulable(node: &str) -> Failure {
    new("NodeUnschedulable", format!("node {node} is cordoned"), format!("Choose another node, or kubectl uncordon {node}."))
}

/// No agent there.
#[must_use]
pub fn no_agent(node: &str) -> Failure {
    new(
        "NoAgent",
        format!("node {node} has no Godwit agent that is ready"),
        format!("Choose another node, or look at the agent: kubectl -n godwit-system get pods -o wide --field-selector spec.nodeName={node}."),
    )
}

/// It is there already.
#[must_use]
pub fn same_node(pod: &str, node: &str) -> Failure {
    new("SameNode", format!("pod {pod} runs on node {node} already"), "Name another node, or none: the scheduler chooses then.")
}

/// Nowhere to go.
#[must_use]
pub fn no_target(pod: &str, why: &str) -> Failure {
    new("NoTarget", format!("no other node can take pod {pod}: {why}"), "Name a node with --to to see what is in its way.")
}

/// The scheduler found no room.
#[must_use]
pub fn node_full(message: &str) -> Failure {
    new("NodeFull", format!("the scheduler finds no place for the target pod: {message}"), "Choose another node, or make room on this one.")
}

/// The API server did not accept the target pod.
#[must_use]
pub fn target_refused(message: &str) -> Failure {
    new(
        "TargetRefused",
        format!("the target pod was not accepted: {message}"),
        "Change the quota or admission policy that refused it, or move the pod by hand.",
    )
}

/// The target pod disappeared.
#[must_use]
pub fn target_gone(pod: &str, why: &str) -> Failure {
    new("TargetGone", format!("the target pod {pod} {why}"), "Try again; if it happens again, look at the events of that pod.")
}

/// The target's kubelet cannot start it.
#[must_use]
pub fn target_cannot_start(pod: &str, why: &str) -> Failure {
    new(
        "TargetCannotStart",
        format!("the kubelet cannot start the target pod {pod}: {why}"),
        "See that the image and the volumes of the pod are to be had on the target node.",
    )
}

/// Not the same program.
#[must_use]
pub fn image_differs(container: &str, source: &str, target: &str) -> Failure {
    new(
        "ImageDiffers",
        format!("container {container} runs image {source}, the target node has {target} under that name"),
        "Use an image by its digest, or load the same image on the target node.",
    )
}

/// Nobody answers.
#[must_use]
pub fn agent_unreachable(node: &str, why: &str) -> Failure {
    new(
        "AgentUnreachable",
        format!("the Godwit agent of node {node} does not answer: {why}"),
        format!("Look at it: kubectl -n godwit-system get pods -o wide --field-selector spec.nodeName={node}."),
    )
}

/// The agent says no without saying why in our words.
#[must_use]
pub fn agent_refused(node: &str, why: &str) -> Failure {
    new("AgentRefused", format!("the Godwit agent of node {node} refused: {why}"), "Look at its log: kubectl -n godwit-system logs ds/godwit-agent.")
}

/// Too late.
#[must_use]
pub fn deadline(seconds: i64, doing: &str) -> Failure {
    new(
        "DeadlineExceeded",
        format!("{seconds} s passed before the commit, while {doing}"),
        "Give it more time (--deadline), or see what took so long in status.timeline.",
    )
}

/// On demand.
#[must_use]
pub fn cancelled() -> Failure {
    new("Cancelled", "the migration was cancelled", "Nothing to do.")
}

/// No such checkpoint.
#[must_use]
pub fn checkpoint_unknown(name: &str, namespace: &str) -> Failure {
    new("CheckpointUnknown", format!("there is no PodCheckpoint {name} in namespace {namespace}"), "Choose one of: kubectl migrate checkpoints.")
}

/// A checkpoint that cannot be restored (yet, or any more).
#[must_use]
pub fn checkpoint_not_ready(name: &str, why: &str) -> Failure {
    new("CheckpointNotReady", format!("checkpoint {name} cannot be restored: {why}"), "Choose a complete one: kubectl migrate checkpoints.")
}

/// Somebody else wrote into its status.
#[must_use]
pub fn checkpoint_forged(name: &str) -> Failure {
    new(
        "CheckpointForged",
        format!("what PodCheckpoint {name} says is not what Godwit has written there"),
        "Do not use it. Look who may write podcheckpoints/status; or the Secret godwit-ca was made anew, then checkpoints from before are of no use any more.",
    )
}

/// There is no key for what is to be encrypted, or is.
#[must_use]
pub fn key_missing(why: &str, remedy: &str) -> Failure {
    new("CheckpointKeyMissing", why.to_owned(), remedy)
}

/// Nobody can log in to the registry.
#[must_use]
pub fn login_missing(why: &str, remedy: &str) -> Failure {
    new("RegistryLoginMissing", format!("nobody can log in to the registry of the checkpoint: {why}"), remedy)
}

/// What a Secret has is no key.
#[must_use]
pub fn key_invalid(secret: &str, key: &str) -> Failure {
    new(
        "CheckpointKeyInvalid",
        format!("value {key} of Secret {secret} is not a key: neither 32 bytes nor base64 of 32 bytes"),
        "Make one: kubectl create secret generic NAME --from-literal=key=\"$(head -c 32 /dev/urandom | base64)\".",
    )
}

/// Another key than the one that it was encrypted with.
#[must_use]
pub fn key_wrong(name: &str, there: &str, wanted: &str) -> Failure {
    new(
        "CheckpointKeyWrong",
        format!("checkpoint {name} is encrypted with the key {wanted}, and the Secret has the key {there}"),
        "Name the Secret that has its key (--decrypt-with); its id is in the status of the PodCheckpoint.",
    )
}

/// The name is taken.
#[must_use]
pub fn pod_exists(name: &str) -> Failure {
    new("PodExists", format!("there is a pod {name} already"), "Choose another name (--name), or none.")
}
