//! `PodCheckpoint`: one order to keep what a running pod is at one instant, and the record of where it lies. `PodRestore`: one order to make a new pod of it.
//!
//! ```text
//!   running pod ── PodCheckpoint ──▶ shared://  <directory>/<namespace>/<name>-<uid>/ ── PodRestore ──▶ new pod, on any node
//!       goes on                      oci://     <repository>:<name>-<uid>             ── PodRestore ──▶ another one …
//! ```

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check::Facts;
use crate::migration::{DNS_NAME, Engine, Failure};

/// The directory that the chart's value `checkpoints.directory` names.
pub const SHARED: &str = "shared://";
/// What a repository in an OCI registry begins with.
pub const OCI: &str = "oci://";

/// Whether a repository (`HOST[:PORT]/PATH`) is `place`, a registry or a path in one, or lies below it.
#[must_use]
pub fn is_within(repository: &str, place: &str) -> bool {
    let place = place.trim_end_matches('/');
    !place.is_empty() && repository.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// CEL: the directory, or a host, perhaps with a port, and a repository below it (OCI Distribution Specification 1.1, "Pulling manifests").
const STORE: &str =
    "self == 'shared://' || self.matches('^oci://[a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*)+$')";

fn shared() -> String {
    SHARED.to_owned()
}

/// Keep what a running pod is at this instant.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "godwit.dev",
    version = "v1alpha1",
    kind = "PodCheckpoint",
    doc = "What a running pod was at one instant: memory, files and processes of all its containers. Deleting it deletes what is stored.",
    plural = "podcheckpoints",
    shortname = "pcp",
    namespaced,
    status = "PodCheckpointStatus",
    printcolumn = r#"{"name":"Pod","type":"string","jsonPath":".spec.podName"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.node"}"#,
    printcolumn = r#"{"name":"Bytes","type":"integer","jsonPath":".status.bytes"}"#,
    printcolumn = r#"{"name":"Encrypted-with","type":"string","jsonPath":".spec.encryption.secretName","priority":1}"#,
    printcolumn = r#"{"name":"Freeze-ms","type":"integer","jsonPath":".status.freezeMs"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.failure.reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(
    validation = Rule::new("self.podName == oldSelf.podName").message("podName cannot be changed; make another PodCheckpoint"),
    validation = Rule::new("(has(self.store) ? self.store : 'shared://') == (has(oldSelf.store) ? oldSelf.store : 'shared://')").message("store cannot be changed; make another PodCheckpoint"),
    validation = Rule::new("has(self.encryption) == has(oldSelf.encryption) && (!has(self.encryption) || self.encryption == oldSelf.encryption)").message("encryption cannot be changed; make another PodCheckpoint"),
    validation = Rule::new("has(self.credentials) == has(oldSelf.credentials) && (!has(self.credentials) || self.credentials == oldSelf.credentials)").message("credentials cannot be changed; change what is in the Secret"),
    validation = Rule::new("!has(self.credentials) || (has(self.store) && self.store.startsWith('oci://'))").message("credentials are for a registry: store must be oci://HOST/REPOSITORY")
)]
#[serde(rename_all = "camelCase")]
pub struct PodCheckpointSpec {
    /// Pod in the namespace of this object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(DNS_NAME).message("podName must be the name of a pod: lower-case letters, digits, '-' and '.'"))]
    pub pod_name: String,
    /// Where it is kept. `shared://` is the directory that the installation names and every node mounts; `oci://HOST[:PORT]/REPOSITORY` a repository in a registry.
    #[serde(default = "shared")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new(STORE).message("store must be shared://, the directory that the installation names, or oci://HOST[:PORT]/REPOSITORY, in lower case and without a tag"))]
    pub store: String,
    /// Who logs in to the registry, to write, to read and to delete. Default: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Seconds after which it is deleted, with what is stored. Default: it stays; one that failed stays for a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub ttl_seconds: Option<u32>,
    /// Of all complete checkpoints of this pod (by its name) only so many of the newest stay when this one is complete. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub keep: Option<u32>,
    /// Encrypt what is stored. Default: it is not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

fn default_key() -> String {
    "key".to_owned()
}

/// Where the key of an encrypted checkpoint is. Whoever names it must be allowed `get` on that Secret.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// A Secret in the namespace of this object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(DNS_NAME).message("secretName must be the name of a Secret: lower-case letters, digits, '-' and '.'"))]
    pub secret_name: String,
    /// Which of its values is the key: 32 bytes, or base64 of 32 bytes.
    #[serde(default = "default_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')").message("key must be the name of a value in a Secret: letters, digits, '-', '_' and '.'"))]
    pub key: String,
}

impl Encryption {
    /// With the usual name of the value, `key`.
    #[must_use]
    pub fn with(secret: &str) -> Self {
        Self { secret_name: secret.to_owned(), key: default_key() }
    }
}

/// Where name and password for a registry are. Whoever names it must be allowed `get` on that Secret.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// A Secret of type kubernetes.io/dockerconfigjson in the namespace of this object.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(DNS_NAME).message("secretName must be the name of a Secret: lower-case letters, digits, '-' and '.'"))]
    pub secret_name: String,
}

/// What an encrypted checkpoint was encrypted with.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Encrypted {
    /// Names the key, and tells nothing about it: the first eight bytes of a hash of it, in hexadecimal.
    pub key_id: String,
}

impl Default for PodCheckpointSpec {
    fn default() -> Self {
        Self { pod_name: String::new(), store: shared(), credentials: None, ttl_seconds: None, keep: None, encryption: None }
    }
}

/// Where a checkpoint stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum CheckpointPhase {
    /// Not begun.
    #[default]
    Pending,
    /// Being made.
    Working,
    /// Stored; it can be restored.
    Complete,
    /// It was not made. The pod runs, nothing is stored.
    Failed,
}

impl CheckpointPhase {
    /// Whether it has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Failed)
    }
}

/// What is stored. Written by the controller only.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodCheckpointStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: CheckpointPhase,
    /// Node on which the pod ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// UID of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// What names it behind the store: a path below the directory, or a tag of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// blake3 of its index, in hexadecimal; the index has the length and blake3 of every other file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What the controller's key (Secret godwit-ca) makes of this object's UID, the digest and the pod: proves that a checkpoint is as it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
    /// What it is encrypted with, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encrypted>,
    /// Bytes stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Files stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Milliseconds for which the pod stood still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_ms: Option<u32>,
    /// Its containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<CheckpointedContainer>,
    /// What a node must have to take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
    /// Whether a container runtime can make a pod of it without Godwit's runtime handler.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub importable: bool,
    /// What will be different after a restore, in plain words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The pod as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub pod: Option<Value>,
    /// Why it was not made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// When the controller took it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it was complete, or had failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
}

/// A container of a checkpoint.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointedContainer {
    /// Its name.
    pub name: String,
    /// Its processes.
    pub processes: u32,
    /// Bytes of its images: memory and what CRIU writes about it.
    pub bytes: u64,
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Make a new pod of a checkpoint.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "godwit.dev",
    version = "v1alpha1",
    kind = "PodRestore",
    doc = "An order to make a new pod of a PodCheckpoint, and the record of how it went. Deleting the record leaves the pod alone once it runs.",
    plural = "podrestores",
    shortname = "prs",
    namespaced,
    status = "PodRestoreStatus",
    printcolumn = r#"{"name":"Checkpoint","type":"string","jsonPath":".spec.checkpointName"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Pod","type":"string","jsonPath":".status.pod"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.node"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.failure.reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("a PodRestore cannot be changed; make another"))]
#[serde(rename_all = "camelCase")]
pub struct PodRestoreSpec {
    /// A PodCheckpoint of the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub checkpoint_name: String,
    /// Name of the new pod. Default: the old one's, with `-r1`, `-r2`, … behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(DNS_NAME).message("podName must be the name of a pod: lower-case letters, digits, '-' and '.'"))]
    pub pod_name: Option<String>,
    /// Node of the new pod. Without it the scheduler chooses one of those that can take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(DNS_NAME).message("nodeName must be the name of a node: lower-case letters, digits, '-' and '.'"))]
    pub node_name: Option<String>,
    /// What makes the new pod: Godwit's runtime handler, the container runtime's own import of checkpoint images, or the first that its node has. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// Where the key of an encrypted checkpoint is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Who logs in to the registry, if the checkpoint is in one. Default: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

/// Where a restore stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum RestorePhase {
    /// Not begun.
    #[default]
    Pending,
    /// The new pod is made and placed.
    Preparing,
    /// Its processes are restored.
    Restoring,
    /// It runs.
    Succeeded,
    /// It was not restored; the new pod is removed.
    Failed,
}

impl RestorePhase {
    /// Whether it has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// How it went. Written by the controller only.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodRestoreStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: RestorePhase,
    /// The new pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Nodes of which the scheduler may take one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// What makes the new pod: Live or Checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Why it was not restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// When the controller took it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ran, or had failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// `Healthy`: whether the new pod still ran ten seconds later, and who or what ended it if not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
