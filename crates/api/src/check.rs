//! `NodeCheck`: one order to look at one node, and what was found. `kubectl migrate doctor` makes them and takes them away again.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::migration::Clock;

/// Look at one node.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "godwit.dev",
    version = "v1alpha1",
    kind = "NodeCheck",
    doc = "An order to look whether a node can take part in migrations, and what was found.",
    plural = "nodechecks",
    status = "NodeCheckStatus",
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodeName"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("a NodeCheck cannot be changed; make another"))]
#[serde(rename_all = "camelCase")]
pub struct NodeCheckSpec {
    /// The node.
    #[schemars(length(min = 1, max = 253))]
    pub node_name: String,
    /// Put Godwit's own files on the node in order first: the runtime wrapper, its settings and its drop-in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fix: bool,
}

/// What was found. Written by the controller only.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCheckStatus {
    /// When everything was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// What was looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// What must match between nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
    /// The node's clock against the controller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// `kernel`, `criu`, `oci`, `runtime`, `network`, `room`, `godwit`, …
    pub area: String,
    /// What, in a few words.
    pub name: String,
    /// How it is.
    pub state: CheckState,
    /// What was found.
    pub found: String,
    /// What to do, exactly; empty when it is as it should be.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

/// How something is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckState {
    /// As it should be.
    #[default]
    Ok,
    /// Could not be looked at.
    Unknown,
    /// Pods can move, but not as well as they could.
    Warning,
    /// Pods cannot move from or to this node.
    Failed,
}

/// What must match between nodes.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// As in `uname -m`.
    pub architecture: String,
    /// Features of the processor, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_flags: Vec<String>,
    /// As in `uname -r`.
    pub kernel: String,
    /// Version of CRIU; empty when there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub criu: String,
    /// `v1` or `v2`.
    pub cgroup: String,
    /// Version of the agent.
    pub agent: String,
    /// Name and version of the container runtime.
    pub runtime: String,
}
