//! A container of a pod.
//!
//! Verbose status (`info` is a JSON text): containerd `internal/cri/server/container_status.go`: `{sandboxID, pid, runtimeType, runtimeOptions: {binary_name, root}, runtimeSpec, …}`;
//! CRI-O `server/container_status.go`: `{sandboxID, pid, runtimeSpec, privileged}`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::state::{self, Locations};
use super::v1::{ContainerState, ContainerStatusResponse};
use super::{Error, GODWIT_HANDLER, Kind, Spec};
use crate::{Host, mounts};

/// The OCI runtime that made a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// runc.
    Runc,
    /// crun.
    Crun,
    /// Something else, by the name of its program.
    Other(String),
}

impl fmt::Display for Runtime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Other(name) => name,
        })
    }
}

/// State of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, not started.
    Created,
    /// Started.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know.
    Unknown,
}

/// A container. Paths are those of the node.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// Id of its sandbox.
    pub sandbox_id: String,
    /// How often it was made anew: the kubelet's restart count.
    pub attempt: u32,
    /// Its state.
    pub state: State,
    /// Its init process in the node's pid namespace; 0 unless it has one.
    pub pid: i32,
    /// The image as the runtime refers to it, by digest or id.
    pub image_ref: String,
    /// Id of the image.
    pub image_id: String,
    /// What the kubelet has written down with it.
    pub annotations: BTreeMap<String, String>,
    /// Its log file.
    pub log_path: PathBuf,
    /// What made it.
    pub runtime: Runtime,
    /// Runtime handler of its pod; empty for the default.
    pub handler: String,
    /// Its OCI bundle.
    pub bundle: PathBuf,
    /// Where its root filesystem is mounted: all layers merged.
    pub rootfs: PathBuf,
    /// The overlay's upper directory: what the container changed.
    pub upper: Option<PathBuf>,
    /// Its OCI configuration.
    pub spec: Spec,
}

impl Container {
    /// Whether it runs under Godwit's runtime handler.
    #[must_use]
    pub fn under_godwit(&self) -> bool {
        self.handler == GODWIT_HANDLER
    }

    pub(super) fn read(host: &Host, kind: Kind, answer: &ContainerStatusResponse, handler: String) -> Result<Self, Error> {
        let status = answer.status.clone().unwrap_or_default();
        let info = info(&status.id, &answer.info)?;
        let spec = Spec::from(info["runtimeSpec"].clone());
        if spec.raw.is_null() {
            return Err(Error::Status { id: status.id, why: "it has no runtimeSpec".into() });
        }
        let state = match status.state() {
            ContainerState::ContainerCreated => State::Created,
            ContainerState::ContainerRunning => State::Running,
            ContainerState::ContainerExited => State::Exited,
            ContainerState::ContainerUnknown => State::Unknown,
        };
        let alive = matches!(state, State::Created | State::Running);
        let pid = info["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| alive && *pid > 0).unwrap_or_default();
        let locations = match kind {
            Kind::Containerd => Locations::of_containerd(&status.id, &info["runtimeOptions"], &handler),
            Kind::CriO => Locations::of_crio(&status.id, pid, &handler),
        };
        let state::Made { runtime, bundle, init } = state::find(host, &status.id, &locations);
        let pid = init.filter(|_| alive && pid > 0).unwrap_or(pid);
        let rootfs = if spec.root.is_absolute() { spec.root.clone() } else { bundle.join(&spec.root) };
        let metadata = status.metadata.unwrap_or_default();
        Ok(Self {
            upper: upper_of(host, &rootfs, pid)?,
            sandbox_id: info["sandboxID"].as_str().unwrap_or_default().to_owned(),
            name: metadata.name,
            attempt: metadata.attempt,
            state,
            pid,
            image_ref: status.image_ref,
            image_id: status.image_id,
            annotations: status.annotations.into_iter().collect(),
            log_path: status.log_path.into(),
            runtime,
            handler,
            bundle,
            rootfs,
            spec,
            id: status.id,
        })
    }
}

/// The JSON text under `info`.
pub(super) fn info(id: &str, info: &HashMap<String, String>) -> Result<Value, Error> {
    let unreadable = |why: String| Error::Status { id: id.to_owned(), why };
    let text = info.get("info").ok_or_else(|| unreadable("it has no verbose status".into()))?;
    serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))
}

/// The upper directory of the overlay that is mounted at `rootfs` on the node, or at `/` of the container's process if that has mounts of its own.
fn upper_of(host: &Host, rootfs: &Path, pid: i32) -> Result<Option<PathBuf>, Error> {
    let read = |proc: &Path| mounts::of(proc).map_err(|source| Error::File { path: proc.join("mountinfo"), source });
    let node = host.proc_of_init();
    let at = |mounts: Vec<mounts::Mount>, point: &Path| mounts.into_iter().rev().find(|mount| mount.point == point).filter(|mount| mount.kind == "overlay");
    let mut mount = at(read(&node)?, rootfs);
    let namespace = |proc: &Path| std::fs::read_link(proc.join("ns/mnt")).ok();
    let process = crate::process::directory(pid);
    if mount.is_none() && pid > 0 && namespace(&process).is_some_and(|own| Some(own) != namespace(&node)) {
        mount = mounts::of(&process).ok().and_then(|mounts| at(mounts, Path::new("/")));
    }
    Ok(mount.and_then(|mount| absolute(mount.option("upperdir")?, rootfs)))
}

/// containers/storage mounts from its own directory when there are very many layers; the path is then relative to the directory that holds `<layer>/merged`.
fn absolute(upper: &str, rootfs: &Path) -> Option<PathBuf> {
    let upper = Path::new(upper);
    if upper.is_absolute() { Some(upper.to_owned()) } else { Some(rootfs.parent()?.parent()?.join(upper)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::super::v1::{ContainerMetadata, ContainerStatus};
    use super::*;

    fn answer(info: &Value, state: ContainerState) -> ContainerStatusResponse {
        let metadata = ContainerMetadata { name: "redis".into(), attempt: 3 };
        let status = ContainerStatus {
            id: "c1".into(),
            metadata: Some(metadata),
            state: state.into(),
            image_ref: "sha256:1".into(),
            log_path: "/var/log/pods/x/0.log".into(),
            ..ContainerStatus::default()
        };
        ContainerStatusResponse { status: Some(status), info: HashMap::from([("info".into(), info.to_string())]) }
    }

    #[test]
    fn a_container_of_containerd_by_crun() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("run/containerd/runc/k8s.io/c1");
        std::fs::create_dir_all(&state).unwrap();
        std::fs::write(state.join("status"), r#"{"pid":5,"bundle":"/run/containerd/io.containerd.runtime.v2.task/k8s.io/c1","rootfs":"rootfs"}"#).unwrap();
        let info = json!({"sandboxID": "sb", "pid": 5, "runtimeType": "io.containerd.runc.v2", "runtimeOptions": {"binary_name": "/usr/bin/crun"}, "runtimeSpec": {"root": {"path": "rootfs"}, "process": {"user": {"uid": 7, "gid": 8}}}});
        let container = Container::read(&Host::at(root.path()), Kind::Containerd, &answer(&info, ContainerState::ContainerRunning), String::new()).unwrap();
        assert_eq!((container.runtime, container.pid, container.attempt, container.state), (Runtime::Crun, 5, 3, State::Running));
        assert_eq!(container.rootfs, Path::new("/run/containerd/io.containerd.runtime.v2.task/k8s.io/c1/rootfs"));
        assert_eq!((container.spec.user.uid, container.sandbox_id.as_str(), container.name.as_str()), (7, "sb", "redis"));
    }

    #[test]
    fn a_container_of_crio_by_runc_that_has_ended() {
        let root = tempfile::tempdir().unwrap();
        let info = json!({"sandboxID": "sb", "pid": 5, "runtimeSpec": {"root": {"path": "/var/lib/containers/storage/overlay/l/merged", "readonly": true}}, "privileged": false});
        let container = Container::read(&Host::at(root.path()), Kind::CriO, &answer(&info, ContainerState::ContainerExited), "godwit".into()).unwrap();
        assert_eq!((container.pid, container.under_godwit(), container.spec.readonly_root), (0, true, true));
        assert_eq!(container.bundle, Path::new("/run/containers/storage/overlay-containers/c1/userdata"));
        assert_eq!(container.rootfs, Path::new("/var/lib/containers/storage/overlay/l/merged"));
    }

    #[test]
    fn a_relative_upper_directory_is_below_the_layers() {
        assert_eq!(absolute("l1/diff", Path::new("/s/overlay/l1/merged")), Some("/s/overlay/l1/diff".into()));
        assert_eq!(absolute("/a/fs", Path::new("/r")), Some("/a/fs".into()));
    }
}
