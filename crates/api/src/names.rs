//! Names that several parts must agree on.

/// RuntimeClass and runtime handler under which target pods run.
pub const RUNTIME_HANDLER: &str = "godwit";

/// Annotation on a target pod: UID of the `PodMigration` that made it. It names, it never authorises.
pub const ANNOTATION_MIGRATION: &str = "godwit.dev/migration";
/// Annotation on a target pod: UID of the source pod, which is also the name of the `Handover`.
pub const ANNOTATION_SOURCE_UID: &str = "godwit.dev/source-uid";
/// Annotation on a `PodMigration`: the `traceparent` (W3C Trace Context, version 00) of who ordered it. Its spans then belong to that trace.
pub const ANNOTATION_TRACEPARENT: &str = "godwit.dev/traceparent";
/// Label on objects made for a migration: name of the `PodMigration`.
pub const LABEL_MIGRATION: &str = "godwit.dev/migration-name";
/// Label on a pod that was made of a checkpoint: name of the `PodRestore`.
pub const LABEL_RESTORE: &str = "godwit.dev/restore-name";
/// Label on a sealed source pod that stays for its anchor: name of the `PodMigration`.
pub const LABEL_ANCHOR: &str = "godwit.dev/anchor";
/// Annotation on a source pod that is to stay for its anchor: its ReplicaSet may not delete it (policy `godwit-owners`).
pub const ANNOTATION_STAYS: &str = "godwit.dev/stays";
/// Readiness gate and pod condition of a target pod: true once the restored containers run.
pub const CONDITION_LIVE: &str = "godwit.dev/live";
/// Finalizer on `Handover` objects and on `PodMigration` objects in flight.
pub const FINALIZER: &str = "godwit.dev/hand-over";
/// Finalizer on `PodCheckpoint` objects whose files have to go first, and on `PodRestore` objects under way.
pub const FINALIZER_CHECKPOINT: &str = "godwit.dev/checkpoint";
/// Node label that the agent sets when the runtime handler is installed and the agent serves.
pub const NODE_LABEL_READY: &str = "godwit.dev/agent";

/// Name of the agents' DaemonSet, and their pods' label `app.kubernetes.io/name`.
pub const AGENT: &str = "godwit-agent";
/// Name of the controller's Deployment, and who its events are from.
pub const CONTROLLER: &str = "godwit-controller";

/// Signer of the certificates for controller and agents (`certificates.k8s.io`).
pub const SIGNER: &str = "godwit.dev/mtls";
/// ConfigMap in the system namespace with key `ca.crt`: the CA of controller and agents.
pub const CA_CONFIG_MAP: &str = "godwit-ca";
/// Secret in the system namespace with the CA's key pair, read by the controller only.
pub const CA_SECRET: &str = "godwit-ca";
/// Common name of the controller's certificate. An agent's is `agent:<node name>`.
pub const CN_CONTROLLER: &str = "controller";
/// Prefix of the common name of an agent's certificate.
pub const CN_AGENT_PREFIX: &str = "agent:";
/// TCP port of the agent on the node's address.
pub const AGENT_PORT: u16 = 7410;
