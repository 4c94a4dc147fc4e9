//! `MigrationTrace`: one order to tell what the logs of both nodes say about a migration, and a window through which it is told.
//! `kubectl migrate trace` makes them and takes them away again.
//!
//! ```text
//!   kubectl migrate trace ── spec.read: told up to here ──▶ MigrationTrace ◀── lines after that, at most a window full ── controller ◀── agents
//! ```

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::migration::Clock;

/// Tell what the logs say about one migration of this namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "godwit.dev",
    version = "v1alpha1",
    kind = "MigrationTrace",
    doc = "An order to tell what the logs of both nodes say about a migration, and a window through which it is told.",
    plural = "migrationtraces",
    namespaced,
    status = "MigrationTraceStatus",
    printcolumn = r#"{"name":"Migration","type":"string","jsonPath":".spec.migration"}"#,
    printcolumn = r#"{"name":"Told","type":"integer","jsonPath":".spec.read"}"#,
    printcolumn = r#"{"name":"Ended","type":"date","jsonPath":".status.completionTime"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = Rule::new("self.migration == oldSelf.migration && (has(self.raise) && self.raise) == (has(oldSelf.raise) && oldSelf.raise)").message("only what was read can be changed; make another MigrationTrace"))]
#[serde(rename_all = "camelCase")]
pub struct MigrationTraceSpec {
    /// A PodMigration of the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub migration: String,
    /// Nothing from before this moment. Default: from when the migration was ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<MicroTime>,
    /// Everything that the logs say, not only what matters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verbose: bool,
    /// Let CRI-O log more while this lasts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raise: bool,
    /// Number of the first line that was not read yet: what is before it may go.
    #[serde(default)]
    pub read: u64,
}

/// The window. Written by the controller only.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MigrationTraceStatus {
    /// Number of the first line in `lines`.
    #[serde(default)]
    pub first: u64,
    /// Lines that were not read yet, in the order in which they came here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<TraceLine>,
    /// The nodes that tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<TraceNode>,
    /// When there was nothing more to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Why it ended early.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A node that tells.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TraceNode {
    /// `source` or `target`.
    pub role: String,
    /// Its clock against the controller's, measured when it began to tell.
    pub clock: Clock,
    /// All that was there when it began has been told.
    #[serde(default)]
    pub past_told: bool,
}

/// One line of a log.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TraceLine {
    /// Microseconds since the epoch, by the clock of the node.
    pub at_us: i64,
    /// The node.
    pub node: String,
    /// `kubelet`, `runtime`, `criu`, …
    pub source: String,
    /// `debug`, `info`, `warning`, `error`.
    pub level: String,
    /// What was said.
    pub text: String,
}
