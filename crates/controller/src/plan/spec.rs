//! What stands in a pod's object that cannot move, by name and with the way out.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use kube::ResourceExt;

use godwit_api::migration::Failure;

use crate::failure;
use crate::owner::Owner;
use crate::target::import;

/// Annotation of the kubelet on pods that it has from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A claim that the pod uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Its access modes, as bound.
    pub modes: Vec<String>,
}

/// What the pod's object says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// What is in the way.
    pub blockers: Vec<Failure>,
    /// What will be different.
    pub warnings: Vec<String>,
    /// Its containers are not started again when they end.
    pub never_restarted: bool,
}

/// Names of the claims that `pod` uses.
#[must_use]
pub fn claims(pod: &Pod) -> Vec<String> {
    volumes(pod).iter().filter_map(|volume| volume.persistent_volume_claim.as_ref()).map(|claim| claim.claim_name.clone()).collect()
}

/// Whether the pod's containers are not started again when they end.
#[must_use]
pub fn is_never_restarted(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("Never")
}

/// Reads the pod's object.
#[must_use]
pub fn facts(pod: &Pod, claims: &[Claim]) -> Facts {
    let mut facts = Facts { never_restarted: is_never_restarted(pod), ..Facts::default() };
    let mut block = |reason: &str, message: String, remedy: &str| facts.blockers.push(failure::new(reason, message, remedy));
    owner(pod, &mut block);
    if let Some(spec) = &pod.spec {
        whole(spec, &mut block);
        spec.containers.iter().for_each(|container| one(container, &mut block));
        for init in spec.init_containers.iter().flatten().filter(|init| init.restart_policy.as_deref() == Some("Always")) {
            block("SidecarContainer", format!("init container {} is a sidecar", init.name), "Make it an ordinary container.");
        }
    }
    volumes(pod).iter().for_each(|volume| storage(volume, claims, &mut block));
    if crate::naming::hostname(pod).is_none() {
        facts.warnings.push("the host name changes: a pod's name with dots cannot be given as host name".into());
    }
    if pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_ref()).is_some_and(|list| !list.is_empty()) {
        facts.warnings.push("ephemeral containers stay behind and end".into());
    }
    facts
}

fn volumes(pod: &Pod) -> &[Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

type Block<'a> = &'a mut dyn FnMut(&str, String, &str);

fn owner(pod: &Pod, block: Block<'_>) {
    if pod.annotations().contains_key(MIRROR) {
        block("StaticPod", "the pod comes from a file on its node".into(), "Move the file to the other node.");
        return;
    }
    if let Owner::Other(owner) = Owner::of(pod) {
        block(
            "OwnerNotSupported",
            format!("the pod belongs to {} {}", owner.kind, owner.name),
            "Only pods without owner and pods of ReplicaSets and Deployments can be moved yet.",
        );
    }
}

fn whole(spec: &PodSpec, block: Block<'_>) {
    let shared = [
        (spec.host_network, "HostNetwork", "the pod uses the network of its node"),
        (spec.host_pid, "HostPid", "the pod sees the processes of its node"),
        (spec.host_ipc, "HostIpc", "the pod uses the IPC of its node"),
        (spec.share_process_namespace, "SharedPidNamespace", "the containers of the pod share their process namespace"),
    ];
    for (_, reason, message) in shared.into_iter().filter(|(value, ..)| *value == Some(true)) {
        block(reason, message.into(), "Run the pod without that, then it can be moved.");
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        block("DeviceInUse", "the pod holds resource claims for devices".into(), "Devices cannot be moved.");
    }
}

fn one(container: &Container, block: Block<'_>) {
    let name = &container.name;
    if container.tty == Some(true) || container.stdin == Some(true) {
        block("Terminal", format!("container {name} has a terminal or an open standard input"), "Run it without tty and stdin.");
    }
    if container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some()) {
        block("PostStartHook", format!("container {name} has a postStart hook, which would run a second time"), "Do its work in an init container.");
    }
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    if let Some(device) = limits.into_iter().flat_map(|limits| limits.keys()).find(|name| name.contains('/') && !name.contains("kubernetes.io/")) {
        block("DeviceInUse", format!("container {name} uses the device {device}"), "Devices cannot be moved.");
    }
    if container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
        block("BlockVolume", format!("container {name} uses a volume as a block device"), "Use a file system on a shared volume.");
    }
    let mounts = container.volume_mounts.iter().flatten();
    for mount in mounts.filter(|mount| mount.mount_path == "/etc/hosts") {
        block("EtcHostsMount", format!("container {name} mounts {} over /etc/hosts", mount.name), "Use hostAliases in the pod's spec.");
    }
}

fn storage(volume: &Volume, claims: &[Claim], block: Block<'_>) {
    let name = &volume.name;
    if import::only_pulls(volume) {
        return;
    }
    if let Some(path) = &volume.host_path {
        block("HostPath", format!("volume {name} is the directory {} of its node", path.path), "Use a shared volume (ReadWriteMany).");
    } else if volume.ephemeral.is_some() {
        block("VolumeNotShared", format!("volume {name} is a volume of this pod alone"), "Use a shared volume (ReadWriteMany).");
    } else if let Some(used) = &volume.persistent_volume_claim {
        let modes = claims.iter().find(|claim| claim.name == used.claim_name).map(|claim| claim.modes.as_slice()).unwrap_or_default();
        if !modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany") {
            let modes = if modes.is_empty() { "unknown".to_owned() } else { modes.join(", ") };
            block(
                "VolumeNotShared",
                format!("volume {name} (claim {}, access {modes}) cannot be on two nodes at once", used.claim_name),
                "Use a claim with access mode ReadWriteMany.",
            );
        }
    } else if !(volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
        || volume.empty_dir.is_some()
        || volume.nfs.is_some())
    {
        block("VolumeKind", format!("volume {name} is of a kind that is not known to be on both nodes"), "Use a claim with access mode ReadWriteMany.");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::{Value, json};

    fn reasons(pod: Value) -> Vec<String> {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let bound = [Claim { name: "rwo".into(), modes: vec!["ReadWriteOnce".into()] }, Claim { name: "rwx".into(), modes: vec!["ReadWriteMany".into()] }];
        facts(&pod, &bound).blockers.into_iter().map(|blocker| blocker.reason).collect()
    }

    fn spec(extra: Value) -> Value {
        let mut spec = json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "hugepages-2Mi": "0"}}}], "volumes": [
            {"name": "a", "emptyDir": {}}, {"name": "b", "configMap": {"name": "x"}}, {"name": "d", "persistentVolumeClaim": {"claimName": "rwx"}}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"metadata": {"name": "p"}, "spec": spec})
    }

    #[test]
    fn an_ordinary_pod_has_nothing_in_the_way() {
        assert_eq!(reasons(spec(json!({}))), Vec::<String>::new());
        assert_eq!(reasons(spec(json!({"runtimeClassName": "godwit"}))), Vec::<String>::new());
    }

    #[test]
    fn each_obstacle_has_its_word() {
        for (extra, reason) in [
            (json!({"hostNetwork": true}), "HostNetwork"),
            (json!({"shareProcessNamespace": true}), "SharedPidNamespace"),
            (json!({"containers": [{"name": "c", "tty": true}]}), "Terminal"),
            (json!({"containers": [{"name": "c", "stdin": true}]}), "Terminal"),
            (json!({"containers": [{"name": "c", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}]}), "PostStartHook"),
            (json!({"containers": [{"name": "c", "resources": {"limits": {"example.com/gpu": "1"}}}]}), "DeviceInUse"),
            (json!({"containers": [{"name": "c", "volumeMounts": [{"name": "a", "mountPath": "/etc/hosts"}]}]}), "EtcHostsMount"),
            (json!({"initContainers": [{"name": "i", "restartPolicy": "Always"}]}), "SidecarContainer"),
            (json!({"volumes": [{"name": "v", "hostPath": {"path": "/data"}}]}), "HostPath"),
            (json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "rwo"}}]}), "VolumeNotShared"),
            (json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "unheard-of"}}]}), "VolumeNotShared"),
            (json!({"volumes": [{"name": "v", "csi": {"driver": "x"}}]}), "VolumeKind"),
        ] {
            assert_eq!(reasons(spec(extra.clone())), [reason], "{extra}");
        }
    }

    #[test]
    fn other_owners_are_named() {
        let mut pod = spec(json!({}));
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "1", "controller": true}]);
        assert_eq!(reasons(pod.clone()), ["OwnerNotSupported"]);
        pod["metadata"]["ownerReferences"][0]["kind"] = json!("ReplicaSet");
        assert_eq!(reasons(pod), Vec::<String>::new());
    }
}
