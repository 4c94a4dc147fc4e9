//! `PodMigration`: one order to move one pod, and the record of how it went.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// CEL: a DNS subdomain (RFC 1123), as Kubernetes wants the names of pods and nodes.
pub(crate) const DNS_NAME: &str = r"self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')";

/// Move one running pod to another node.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "godwit.dev",
    version = "v1alpha1",
    kind = "PodMigration",
    doc = "An order to move one running pod to another node, and the record of how it went.",
    plural = "podmigrations",
    shortname = "pm",
    namespaced,
    status = "PodMigrationStatus",
    printcolumn = r#"{"name":"Pod","type":"string","jsonPath":".spec.podName"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"From","type":"string","jsonPath":".status.sourceNode"}"#,
    printcolumn = r#"{"name":"To","type":"string","jsonPath":".status.targetNode"}"#,
    printcolumn = r#"{"name":"Now","type":"string","jsonPath":".status.targetPod"}"#,
    printcolumn = r#"{"name":"Freeze-ms","type":"integer","jsonPath":".status.freeze.totalMs"}"#,
    printcolumn = r#"{"name":"Anchored","type":"integer","jsonPath":".status.anchor.connections"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.failure.reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(
    validation = Rule::new("self.podName == oldSelf.podName").message("podName cannot be changed; make another PodMigration"),
    validation = Rule::new("has(self.targetNode) == has(oldSelf.targetNode) && (!has(self.targetNode) || self.targetNode == oldSelf.targetNode)").message("targetNode cannot be changed; cancel this PodMigration and make another"),
    validation = Rule::new("has(self.deadlineSeconds) == has(oldSelf.deadlineSeconds) && (!has(self.deadlineSeconds) || self.deadlineSeconds == oldSelf.deadlineSeconds)").message("deadlineSeconds cannot be changed"),
    validation = Rule::new("(has(self.dryRun) && self.dryRun) == (has(oldSelf.dryRun) && oldSelf.dryRun)").message("dryRun cannot be changed; make another PodMigration"),
    validation = Rule::new("!(has(oldSelf.cancel) && oldSelf.cancel) || (has(self.cancel) && self.cancel)").message("a cancel cannot be withdrawn; make another PodMigration"),
    validation = Rule::new("(has(self.network) ? self.network : 'Auto') == (has(oldSelf.network) ? oldSelf.network : 'Auto')").message("network cannot be changed; make another PodMigration"),
    validation = Rule::new("has(self.anchorTtlSeconds) == has(oldSelf.anchorTtlSeconds) && (!has(self.anchorTtlSeconds) || self.anchorTtlSeconds == oldSelf.anchorTtlSeconds)").message("anchorTtlSeconds cannot be changed"),
    validation = Rule::new("!(has(oldSelf.releaseAnchor) && oldSelf.releaseAnchor) || (has(self.releaseAnchor) && self.releaseAnchor)").message("the release of an anchor cannot be withdrawn"),
    validation = Rule::new("has(self.ttlSeconds) == has(oldSelf.ttlSeconds) && (!has(self.ttlSeconds) || self.ttlSeconds == oldSelf.ttlSeconds)").message("ttlSeconds cannot be changed"),
    validation = Rule::new("has(self.memory) == has(oldSelf.memory) && (!has(self.memory) || self.memory == oldSelf.memory)").message("memory cannot be changed; make another PodMigration"),
    validation = Rule::new("has(self.freezeBudgetMs) == has(oldSelf.freezeBudgetMs) && (!has(self.freezeBudgetMs) || self.freezeBudgetMs == oldSelf.freezeBudgetMs)").message("freezeBudgetMs cannot be changed"),
    validation = Rule::new("has(self.bandwidthMiB) == has(oldSelf.bandwidthMiB) && (!has(self.bandwidthMiB) || self.bandwidthMiB == oldSelf.bandwidthMiB)").message("bandwidthMiB cannot be changed"),
    validation = Rule::new("has(self.ifNotConverging) == has(oldSelf.ifNotConverging) && (!has(self.ifNotConverging) || self.ifNotConverging == oldSelf.ifNotConverging)").message("ifNotConverging cannot be changed"),
    validation = Rule::new("has(self.compression) == has(oldSelf.compression) && (!has(self.compression) || self.compression == oldSelf.compression)").message("compression cannot be changed"),
    validation = Rule::new("has(self.tracking) == has(oldSelf.tracking) && (!has(self.tracking) || self.tracking == oldSelf.tracking)").message("tracking cannot be changed"),
    validation = Rule::new("has(self.engine) == has(oldSelf.engine) && (!has(self.engine) || self.engine == oldSelf.engine)").message("engine cannot be changed; make another PodMigration"),
    validation = Rule::new("has(self.connections) == has(oldSelf.connections) && (!has(self.connections) || self.connections == oldSelf.connections)").message("connections cannot be changed")
)]
#[serde(rename_all = "camelCase")]
pub struct PodMigrationSpec {
    /// Pod in the namespace of this object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(DNS_NAME).message("podName must be the name of a pod: lower-case letters, digits, '-' and '.'"))]
    pub pod_name: String,
    /// Node to move to. Without it the scheduler chooses another one than the pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(DNS_NAME).message("targetNode must be the name of a node: lower-case letters, digits, '-' and '.'"))]
    pub target_node: Option<String>,
    /// Seconds for everything up to the commit; when they pass, the migration is taken back. Without it: 120, and 60 more for each GiB of memory, and twice
    /// the time that all of it takes within `bandwidthMiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub deadline_seconds: Option<u32>,
    /// What becomes of the pod's connections.
    #[serde(default, skip_serializing_if = "Network::is_auto")]
    pub network: Network,
    /// Seconds after which an anchor is retired although connections still use it. Default: one day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub anchor_ttl_seconds: Option<u32>,
    /// Retire the anchor now: connections that still use it are reset, and the old pod goes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub release_anchor: bool,
    /// Only plan: list what would be done and what is in the way, touch nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Take the migration back if it has not committed yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
    /// Seconds for which the record stays once the migration has ended. Default: one day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
    /// What makes the pod anew on its new node. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// When memory travels. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryStrategy>,
    /// Milliseconds for which the pod may stand still, as a wish: memory travels ahead in rounds until what is left fits, or does not get less. Default: 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub freeze_budget_ms: Option<u32>,
    /// MiB a second that memory may use of the network while the pod runs. Default: no limit. Inside the freeze there is none.
    #[serde(default, rename = "bandwidthMiB", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub bandwidth_mib: Option<u32>,
    /// Whether memory that travels while the pod runs is compressed (zstd). Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// What to do when the pod changes its memory as fast as it travels, so that what is left will not fit the freeze budget. Default: LongerFreeze.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_not_converging: Option<NotConverging>,
    /// How it is told which pages change while memory travels. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking: Option<Tracking>,
    /// Connections between the nodes on which memory travels beside each other. Default: one, and up to four where more of them bring more across.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8))]
    pub connections: Option<u32>,
}

/// What makes a pod anew on its new node.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Live where the new node has Godwit's runtime handler, else Checkpoint.
    #[default]
    Auto,
    /// Godwit's runtime handler.
    Live,
    /// The container runtime's own import of checkpoint images, with no handler on any node.
    Checkpoint,
}

/// How it is told which pages of a pod have changed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum Tracking {
    /// By write protection where the kernel can do that, else by digests.
    #[default]
    Auto,
    /// By digests of all memory, compared in each round and once more in the freeze.
    Digests,
}

/// Whether memory is compressed on its way.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Where the network, or the bandwidth that is allowed, is what takes the time, and as long as more memory gets across by it.
    #[default]
    Auto,
    /// All that gets smaller by it.
    Always,
    /// Nothing.
    Never,
}

/// What becomes of a migration whose memory does not get less.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum NotConverging {
    /// The pod moves, and stands still for as long as it takes.
    #[default]
    LongerFreeze,
    /// The migration ends before the freeze; the pod runs on where it is.
    GiveUp,
    /// What is left travels after the switch, as with `memory: PostCopy`.
    PostCopy,
}

/// When memory travels.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum MemoryStrategy {
    /// PreCopy where it is possible and worth it, else StopAndCopy.
    #[default]
    Auto,
    /// While the pod stands still.
    StopAndCopy,
    /// While the pod runs, as far as it can; the pod moves only when all of it is at the target.
    PreCopy,
    /// While the pod runs, once or twice; what changes meanwhile travels after the switch. Until it has come, the pod is lost with its source. Only where the cluster allows it.
    PostCopy,
}

/// What becomes of a pod's connections when its address changes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash)]
pub enum Network {
    /// Anchor if both nodes can have one, else Close.
    #[default]
    Auto,
    /// The target gets the source's address.
    KeepAddress,
    /// The old address lives on in the new pod, through the old pod's sandbox and a tunnel.
    Anchor,
    /// They end, peers reconnect.
    Close,
}

impl Network {
    /// Whether it is left to Godwit.
    #[must_use]
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// The words used everywhere: here, in spans, metrics, the CLI and the docs (architecture 3).
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Queued.
    #[default]
    Pending,
    /// Both agents look at what there is to move.
    Planning,
    /// Room and agents are made ready.
    Preparing,
    /// What can travel while the pod runs travels; the target pod is made, its keepers wait.
    Copying,
    /// Freeze, dump, restore, verify, commit, run.
    Switching,
    /// The pod runs at the target; what is left is tidied.
    Settling,
    /// The pod runs on the target node.
    Succeeded,
    /// Taken back: the pod runs on the source node as before.
    RolledBack,
    /// Never begun: nothing was touched. A finished dry run ends as Succeeded. Or the pod was lost: with its node before it had moved (`SourceNodeGone`), with post-copy after the switch
    /// (`PodLost`).
    Failed,
}

impl Phase {
    /// Whether nothing will happen any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::RolledBack | Self::Failed)
    }
}

/// How it went so far. Written by the controller only.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodMigrationStatus {
    /// Where the migration stands.
    #[serde(default)]
    pub phase: Phase,
    /// `metadata.generation` that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Node that the pod ran on at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_node: Option<String>,
    /// UID of the source pod: also the name of the Handover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_pod_uid: Option<String>,
    /// Node that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_node: Option<String>,
    /// Name of the pod that continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_pod: Option<String>,
    /// UID of the pod that continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_pod_uid: Option<String>,
    /// What was decided at planning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanSummary>,
    /// Bytes on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Every step that was taken, in order of its start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Step>,
    /// Clocks of the two nodes, measured when the switch began: the times in `timeline` are those of who took the step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clocks: Vec<Clock>,
    /// The trace that the spans of this migration are exported to when it ends: 32 hexadecimal digits. Not there when nothing is exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// For how long the pod stood still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Freeze>,
    /// The old pod's address, while connections live on through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Anchor>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Standard conditions: `Planned`, `Prepared`, `Committed`, `Ready`, `Complete`, and after a while `Healthy`; with post-copy `MemoryComplete`; `Retired`, false, if the source could not be retired at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// When the controller took it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it reached its final phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
}

impl PodMigrationStatus {
    /// The node whose clock tells the times of the steps of `who`; `None` for the controller.
    #[must_use]
    pub fn node_of(&self, who: &str) -> Option<&str> {
        match who {
            "source" => self.source_node.as_deref(),
            "target" | "wrapper" => self.target_node.as_deref(),
            _ => None,
        }
    }

    /// Microseconds to take from a time of `who` to have it by the controller's clock. Less than the measurement can tell is nothing.
    #[must_use]
    pub fn correction_us(&self, who: &str) -> i64 {
        let Some(node) = self.node_of(who) else { return 0 };
        let clock = self.clocks.iter().find(|clock| clock.node == node);
        clock.filter(|clock| clock.offset_us.saturating_abs() > clock.uncertainty_us).map_or(0, |clock| clock.offset_us)
    }
}

/// The plan as users see it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlanSummary {
    /// `Live` or `Checkpoint`; empty when neither is possible.
    pub engine: String,
    /// `PreCopy`, `PostCopy` or `StopAndCopy`.
    pub memory: String,
    /// `Digests`: which pages change while memory travels is told by digests of all memory. Empty: by write protection, or nothing travels before the freeze.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tracking: String,
    /// `KeepAddress`, `Anchor` or `Close`.
    pub network: String,
    /// Containers that move.
    pub containers: u32,
    /// Processes in them.
    pub processes: u32,
    /// Open file descriptors.
    pub fds: u32,
    /// Established TCP connections to outside the pod.
    pub connections: u32,
    /// Resident memory in bytes.
    pub bytes: u64,
    /// What will be different afterwards, in plain words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What is in the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<Failure>,
}

/// An anchor: the sealed source pod, through whose address connections live on in the new pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Anchor {
    /// Connections live on; later: all have ended and the old pod is gone.
    pub active: bool,
    /// The old addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Node that holds them.
    pub holder: String,
    /// Node on which the connections live.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// How many they are, when last looked.
    pub connections: u32,
    /// When the pod was switched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Why it was retired, or what is in the way of looking at it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Bytes on the way.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Bytes sent to the target node.
    pub bytes: u64,
    /// Bytes expected in all, as far as known.
    pub total: u64,
    /// Bytes per second over the last interval.
    pub rate: u64,
    /// Rounds of memory that have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u32>,
    /// Bytes of memory per second that the pod changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_rate: Option<u64>,
    /// Bytes of memory that would be left if the pod were frozen now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u64>,
    /// Milliseconds that these would add to the freeze.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_ms: Option<u32>,
    /// Connections on which memory travels beside each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
}

/// One step of the migration.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Phase in which it was taken.
    pub phase: Phase,
    /// Name of the step, e.g. `dump`.
    pub step: String,
    /// `controller`, `source`, `target`, or `wrapper` for what the OCI wrapper, its keepers and CRIU's hook do on the target node.
    pub who: String,
    /// Start, microseconds since the epoch by the clock of who took it.
    pub start_us: i64,
    /// Duration in microseconds.
    pub duration_us: i64,
    /// What it was about, e.g. the name of a container.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// How far the clock of a node is from the controller's.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Clock {
    /// The node.
    pub node: String,
    /// Microseconds by which it is ahead of the controller's clock; negative when it is behind.
    pub offset_us: i64,
    /// The offset is right to so many microseconds: half of the round trip that measured it.
    pub uncertainty_us: i64,
}

/// The time for which no process of the pod ran, and what it was spent on, in milliseconds. The parts may overlap.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Freeze {
    /// From the order to freeze to the first resumed (or thawed) process.
    pub total_ms: u32,
    /// CRIU writes the images.
    pub dump_ms: u32,
    /// What was still on the way when the dump had ended.
    pub delta_ms: u32,
    /// CRIU restores up to the gate.
    pub restore_ms: u32,
    /// The restored pod is compared with the images.
    pub verify_ms: u32,
    /// The commit and the source's confirmation.
    pub commit_ms: u32,
}

/// Why something cannot be done or went wrong, and the way out.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// CamelCase, stable, one word for each cause.
    pub reason: String,
    /// What was seen, with the names of the container, process, fd, mount or node.
    pub message: String,
    /// What to do.
    pub remedy: String,
    /// The lines of CRIU's or the runtime's log that say so, if one was read; at most some KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
}
