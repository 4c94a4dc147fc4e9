//! `lpm.my.domain/v1 PodMigration`: the manifest of an earlier controller, taken as it is where the installation says so (chart value `lpm.enabled`).
//!
//! ```text
//!   PodMigration.lpm.my.domain NAME ──owns──▶ PodMigration.godwit.dev NAME      same name, same namespace: `kubectl get podmigration NAME` finds one
//!                                   ◀─status─                                   or the other, and either way the same move
//! ```

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::migration::DNS_NAME;

/// Label on the pod that a migration has made for such a manifest: name of the pod that was moved. Of a longer name than a label may hold, what fits and a digest.
pub const LABEL_SOURCE_POD: &str = "migration.source-pod";

/// Move one running pod to another node.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "lpm.my.domain",
    version = "v1",
    kind = "PodMigration",
    doc = "An order to move one running pod to another node. Godwit carries it out as a PodMigration.godwit.dev of the same name, which says more.",
    plural = "podmigrations",
    namespaced,
    status = "PodMigrationStatus",
    printcolumn = r#"{"name":"Pod","type":"string","jsonPath":".spec.podName"}"#,
    printcolumn = r#"{"name":"Target","type":"string","jsonPath":".spec.targetNode"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Restored","type":"string","jsonPath":".status.restoredPod"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
// Who made it was asked for their rights over this very pod.
#[x_kube(validation = Rule::new("self == oldSelf").message("a PodMigration of lpm.my.domain cannot be changed; make another"))]
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
}

/// How it went so far. Written by the controller only.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodMigrationStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: Phase,
    /// The same in words; why, if it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Name of the pod that continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_pod: Option<String>,
    /// UID of the PodMigration.godwit.dev that carries it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_uid: Option<String>,
}

/// The words of that manifest's status, in the order in which they come.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Queued, or looked at; nothing is touched.
    #[default]
    Pending,
    /// The target is made ready, memory travels, the pod is dumped.
    Checkpointing,
    /// The images are there.
    CheckpointComplete,
    /// The pod is restored on the target node.
    Restoring,
    /// The pod runs on the target node.
    Succeeded,
    /// The pod runs where it was.
    Failed,
}
