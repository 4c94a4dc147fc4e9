//! The sandbox of a pod.
//!
//! Verbose status (`info` is a JSON text): containerd `internal/cri/server/podsandbox/types/sandbox_info.go`: `{pid, runtimeHandler…, config: {hostname, linux: {cgroup_parent}},
//! runtimeSpec}`; its IPC and UTS namespaces are those of the pause process. CRI-O `server/sandbox_status.go`: `{image, pid, runtimeSpec}`, without a pid when no infra container
//! runs; namespaces are files, the rest stands in annotations `io.kubernetes.cri-o.*` of the spec.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

use super::v1::{NamespaceMode, PodSandboxState, PodSandboxStatusResponse};
use super::{Error, Spec};
use crate::PodNamespaces;

/// A pod's sandbox.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// Name of the pod.
    pub name: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// UID of the pod.
    pub uid: String,
    /// How many sandboxes the pod had before.
    pub attempt: u32,
    /// Whether it is ready.
    pub ready: bool,
    /// Its addresses; none with the host's network.
    pub ips: Vec<IpAddr>,
    /// Whether it uses the node's network.
    pub host_network: bool,
    /// Its namespaces.
    pub namespaces: PodNamespaces,
    /// Its runtime handler; empty for the default.
    pub runtime_handler: String,
    /// Hostname of the pod.
    pub hostname: String,
    /// Directory on the node that its containers have at /dev/shm.
    pub shm: Option<PathBuf>,
    /// The pod's cgroup as the kubelet named it.
    pub cgroup_parent: String,
    /// Its own process, if it has one.
    pub pid: Option<i32>,
    /// Annotations of the pod.
    pub annotations: BTreeMap<String, String>,
    /// Its OCI configuration.
    pub spec: Spec,
}

impl Sandbox {
    pub(super) fn read(answer: &PodSandboxStatusResponse) -> Result<Self, Error> {
        let status = answer.status.clone().unwrap_or_default();
        let id = status.id.clone();
        let info = super::container::info(&id, &answer.info)?;
        let spec = Spec::from(info["runtimeSpec"].clone());
        let metadata = status.metadata.clone().unwrap_or_default();
        let network = status.network.clone().unwrap_or_default();
        let mode = status
            .linux
            .as_ref()
            .and_then(|linux| linux.namespaces.as_ref())
            .and_then(|namespaces| namespaces.options.as_ref())
            .map(|options| options.network());
        let pid = info["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
        let annotation = |name: &str| spec.annotations.get(&format!("io.kubernetes.cri-o.{name}")).filter(|value| !value.is_empty()).cloned();
        let namespace = |kind: &str, file: &str| spec.joined(kind).map(PathBuf::from).or_else(|| pid.map(|pid| format!("/proc/{pid}/ns/{file}").into()));
        let configured = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let ips = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip)).filter_map(|ip| ip.parse().ok()).collect();
        Ok(Self {
            namespaces: PodNamespaces { net: namespace("network", "net"), ipc: namespace("ipc", "ipc"), uts: namespace("uts", "uts") },
            hostname: annotation("HostName").or_else(|| configured(&info["config"]["hostname"])).unwrap_or_else(|| spec.hostname.clone()),
            shm: annotation("ShmPath").map(PathBuf::from).or_else(|| spec.source_of("/dev/shm").map(PathBuf::from)).filter(|path| path.is_absolute()),
            cgroup_parent: annotation("CgroupParent").or_else(|| configured(&info["config"]["linux"]["cgroup_parent"])).unwrap_or_default(),
            runtime_handler: Some(status.runtime_handler.clone())
                .filter(|handler| !handler.is_empty())
                .or_else(|| annotation("RuntimeHandler"))
                .unwrap_or_default(),
            ready: status.state() == PodSandboxState::SandboxReady,
            host_network: mode == Some(NamespaceMode::Node),
            id,
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            attempt: metadata.attempt,
            ips,
            pid,
            annotations: status.annotations.into_iter().collect(),
            spec,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use serde_json::json;

    use super::super::v1::{PodIp, PodSandboxMetadata, PodSandboxNetworkStatus, PodSandboxStatus};
    use super::*;

    fn answer(info: &Value, handler: &str) -> PodSandboxStatusResponse {
        let status = PodSandboxStatus {
            id: "sb".into(),
            metadata: Some(PodSandboxMetadata { name: "web-0".into(), uid: "u".into(), namespace: "default".into(), attempt: 2 }),
            network: Some(PodSandboxNetworkStatus { ip: "10.0.0.2".into(), additional_ips: vec![PodIp { ip: "fd99::2".into() }] }),
            runtime_handler: handler.into(),
            ..PodSandboxStatus::default()
        };
        PodSandboxStatusResponse { status: Some(status), info: HashMap::from([("info".into(), info.to_string())]), ..PodSandboxStatusResponse::default() }
    }

    #[test]
    fn containerds_description_is_read() {
        let spec = json!({"hostname": "web-0", "linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network", "path": "/var/run/netns/cni-1"}]},
            "mounts": [{"destination": "/dev/shm", "type": "bind", "source": "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/sb/shm", "options": ["rbind", "ro"]}]});
        let info = json!({"pid": 77, "runtimeHandler": "", "config": {"hostname": "web-0", "linux": {"cgroup_parent": "/kubepods/podu"}}, "runtimeSpec": spec});
        let sandbox = Sandbox::read(&answer(&info, "godwit")).unwrap();
        assert_eq!(sandbox.ips.len(), 2);
        assert_eq!(
            sandbox.namespaces,
            PodNamespaces { net: Some("/var/run/netns/cni-1".into()), ipc: Some("/proc/77/ns/ipc".into()), uts: Some("/proc/77/ns/uts".into()) }
        );
        assert_eq!(
            (sandbox.hostname.as_str(), sandbox.cgroup_parent.as_str(), sandbox.runtime_handler.as_str(), sandbox.attempt),
            ("web-0", "/kubepods/podu", "godwit", 2)
        );
        assert_eq!(sandbox.shm, Some("/run/containerd/io.containerd.grpc.v1.cri/sandboxes/sb/shm".into()));
    }

    #[test]
    fn crios_description_is_read() {
        let spec = json!({"linux": {"namespaces": [{"type": "network", "path": "/var/run/netns/1"}, {"type": "ipc", "path": "/var/run/ipcns/1"}, {"type": "uts", "path": "/var/run/utsns/1"}], "cgroupsPath": null}, "mounts": null,
            "annotations": {"io.kubernetes.cri-o.HostName": "web-0", "io.kubernetes.cri-o.ShmPath": "/run/containers/storage/overlay-containers/sb/userdata/shm",
                "io.kubernetes.cri-o.CgroupParent": "kubepods-besteffort-podu.slice", "io.kubernetes.cri-o.RuntimeHandler": "crun"}});
        let sandbox = Sandbox::read(&answer(&json!({"runtimeSpec": spec}), "")).unwrap();
        assert_eq!((sandbox.pid, sandbox.runtime_handler.as_str(), sandbox.hostname.as_str()), (None, "crun", "web-0"));
        assert_eq!(sandbox.namespaces.uts, Some("/var/run/utsns/1".into()));
        assert!(sandbox.shm.unwrap().ends_with("userdata/shm"));
    }

    #[test]
    fn a_description_without_info_is_an_error() {
        let mut empty = answer(&json!({}), "");
        empty.info.clear();
        assert_eq!(Sandbox::read(&empty).unwrap_err().finding().reason, "ContainerRuntimeUnknown");
    }
}
