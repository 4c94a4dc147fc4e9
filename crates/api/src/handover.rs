//! `Handover`: the single arbiter of who may run (architecture 2b). Named by the source pod's UID, so that two migrations of one pod meet in one object.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the hand-over is about. Immutable.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "godwit.dev",
    version = "v1alpha1",
    kind = "Handover",
    doc = "The arbiter of who may run a pod that moves. Written by the two agents of the migration only.",
    namespaced,
    status = "HandoverStatus",
    validation = Rule::new("!has(oldSelf.status) || has(self.status)").message("the status of a Handover cannot be taken away"),
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"From","type":"string","jsonPath":".spec.sourceNode"}"#,
    printcolumn = r#"{"name":"To","type":"string","jsonPath":".spec.targetNode"}"#
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("what a Handover is about cannot be changed"))]
#[serde(rename_all = "camelCase")]
pub struct HandoverSpec {
    /// UID of the PodMigration that this hand-over belongs to.
    pub migration_uid: String,
    /// Name of that PodMigration, in the same namespace.
    pub migration_name: String,
    /// Name of the pod that moves.
    pub source_pod: String,
    /// Node on which it runs at first.
    pub source_node: String,
    /// Name of the pod that continues it.
    pub target_pod: String,
    /// UID of the pod that continues it.
    pub target_pod_uid: String,
    /// Node to which it moves.
    pub target_node: String,
}

/// Written only by the two agents, guarded by resourceVersion and by the transition rule. Without a status the source owns the pod.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[x_kube(
    validation = Rule::new(
        "oldSelf.hasValue() && oldSelf.value().state == self.state \
         || (!oldSelf.hasValue() || oldSelf.value().state == 'Source') && self.state in ['Source', 'Target', 'Aborted'] \
         || oldSelf.hasValue() && oldSelf.value().state == 'Target' && self.state in ['Running', 'Source']"
    )
    .message("a Handover goes from Source to Target or Aborted, and from Target to Running or back to Source")
    .optional_old_self(true)
)]
pub struct HandoverStatus {
    /// Who may run the pod.
    pub state: HandoverState,
}

/// `Source → Target → Running`, `Source → Aborted`, and `Target → Source` with proof that nothing ran.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HandoverState {
    /// The source owns the pod; it may be sealed meanwhile.
    Source,
    /// The target owns the pod; its gate may open once the source confirms that it is still sealed.
    Target,
    /// The target runs. The source is never thawed again.
    Running,
    /// The migration is over; the source owns the pod and thaws.
    Aborted,
}
