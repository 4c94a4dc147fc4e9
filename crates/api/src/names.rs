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
/// Annotation on a target pod that a container runtime's own import makes: the images of its containers, as JSON, by their names. Its spec names checkpoint images instead, and
/// gets these as soon as a container starts anew.
pub const ANNOTATION_IMAGES: &str = "godwit.dev/images";
/// Label on such a pod.
pub const LABEL_IMPORTED: &str = "godwit.dev/imported";
/// Prefix of the names of its volumes that have the kubelet pull the containers' own images.
pub const VOLUME_BASE: &str = "godwit-base-";
/// Annotation of a pod: CRIU options that it asks for. It goes with the pod.
pub const ANNOTATION_CRIU: &str = "criu.godwit.dev/options";
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
/// TCP port, on every node's loopback, of the registry from which a kubelet pulls checkpoint images that its agent makes.
pub const IMAGES_PORT: u16 = 741;
/// TCP port of the agent on the node's address.
pub const AGENT_PORT: u16 = 7410;

/// The name by which the kubelet of any node has the checkpoint image of a container pulled from its own agent; `migration` is the UID of the `PodMigration`.
#[must_use]
pub fn checkpoint_image(migration: &str, container: &str) -> String {
    format!("127.0.0.1:{IMAGES_PORT}/{migration}/{container}:1")
}

/// Whether an image is one of these.
#[must_use]
pub fn is_checkpoint_image(image: &str) -> bool {
    image.strip_prefix("127.0.0.1:").and_then(|rest| rest.split_once('/')).is_some_and(|(port, _)| port == IMAGES_PORT.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_image_is_known_by_its_name() {
        assert_eq!(checkpoint_image("0c1d", "web"), "127.0.0.1:741/0c1d/web:1");
        assert!(is_checkpoint_image(&checkpoint_image("0c1d", "web")) && !is_checkpoint_image("127.0.0.1:5000/app") && !is_checkpoint_image("app:1"));
    }
}
