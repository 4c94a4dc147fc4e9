//! Which directories travel.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Error;
use crate::Host;
use crate::cri::{Container, Sandbox};

const EMPTY_DIRS: &str = "volumes/kubernetes.io~empty-dir";
const KUBELET: &str = "/var/lib/kubelet";
/// Where a pod with the node's IPC namespace has its shared memory: the node's own, which stays.
const NODES_SHM: &str = "/dev/shm";

/// What a directory is to the pod. Written as `rootfs`, `empty-dir/<name>` or `shm`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// What a container changed in its root filesystem.
    Rootfs,
    /// An emptyDir volume, on disk or in memory.
    EmptyDir(String),
    /// The sandbox's /dev/shm.
    Shm,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rootfs => formatter.write_str("rootfs"),
            Self::EmptyDir(name) => write!(formatter, "empty-dir/{name}"),
            Self::Shm => formatter.write_str("shm"),
        }
    }
}

/// The text names no kind of directory.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no kind of directory (rootfs, empty-dir/NAME, shm)")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("empty-dir/")) {
            ("rootfs", _) => Ok(Self::Rootfs),
            ("shm", _) => Ok(Self::Shm),
            (_, Some(name)) if !name.is_empty() && !name.contains('/') && name != "." && name != ".." => Ok(Self::EmptyDir(name.to_owned())),
            _ => Err(UnknownKind(text.to_owned())),
        }
    }
}

/// Where the pod leaves, or where it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The node that it leaves.
    Source,
    /// The node where it arrives.
    Target,
}

/// A directory that travels. Paths are openable by the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// What it is.
    pub kind: Kind,
    /// The container, for a root filesystem.
    pub container: Option<String>,
    /// Where the changes are seen: the overlay's upper directory, else the directory itself.
    pub index: PathBuf,
    /// Where contents are read and written: the merged root filesystem, else the directory itself.
    pub data: PathBuf,
    /// Whether its files may change through mappings without a trace: it is in memory (tmpfs), or a container sees a part of it by `subPath`, so that what is mapped
    /// there cannot be told by its path.
    pub memory: bool,
    /// Where containers see it: container and path there.
    pub seen_at: Vec<(String, PathBuf)>,
}

/// The directories of a pod that travel, sorted by kind and container; the two sides pair them by these.
///
/// At the source only containers with a process count (init containers are done; what they changed in their own root filesystem nobody sees any more). At the target every given
/// container counts.
///
/// # Errors
/// A root filesystem is not an overlay (source), or the pod's directory cannot be read.
pub fn directories(host: &Host, side: Side, pod_uid: &str, sandbox: &Sandbox, containers: &[Container]) -> Result<Vec<Directory>, Error> {
    let mut found = Vec::new();
    for container in containers.iter().filter(|container| side == Side::Target || container.pid > 0) {
        let data = host.path(&container.rootfs);
        let index = match (&container.upper, side) {
            (Some(upper), _) => host.path(upper),
            (None, Side::Target) => data.clone(),
            (None, Side::Source) => return Err(Error::NotOverlay { container: container.name.clone(), rootfs: container.rootfs.clone() }),
        };
        let seen_at = vec![(container.name.clone(), PathBuf::from("/"))];
        found.push(Directory { kind: Kind::Rootfs, container: Some(container.name.clone()), memory: in_memory(&index), index, data, seen_at });
    }
    for (name, path) in empty_dirs(host, pod_uid, containers)? {
        found.push(whole(host, Kind::EmptyDir(name), &path, containers));
    }
    if let Some(shm) = sandbox.shm.as_deref().filter(|shm| *shm != Path::new(NODES_SHM)) {
        found.push(whole(host, Kind::Shm, shm, containers));
    }
    found.sort_by(|a, b| (&a.kind, &a.container).cmp(&(&b.kind, &b.container)));
    Ok(found)
}

fn whole(host: &Host, kind: Kind, path: &Path, containers: &[Container]) -> Directory {
    let (mut seen_at, mut in_parts) = (Vec::new(), false);
    for container in containers {
        for mount in &container.spec.mounts {
            if mount.source == path {
                seen_at.push((container.name.clone(), mount.destination.clone()));
            } else if let Kind::EmptyDir(name) = &kind {
                in_parts |= is_part_of(&mount.source, name);
            }
        }
    }
    let path = host.path(path);
    Directory { kind, container: None, memory: in_parts || in_memory(&path), index: path.clone(), data: path, seen_at }
}

/// The kubelet binds a `subPath` at `<pod>/volume-subpaths/<volume>/<container>/<number>` and gives that to the runtime.
fn is_part_of(source: &Path, volume: &str) -> bool {
    let mut names = source.components().map(|component| component.as_os_str());
    names.any(|name| name == "volume-subpaths") && names.next().is_some_and(|name| name == volume)
}

/// Name and node path of each emptyDir of a pod.
fn empty_dirs(host: &Host, pod_uid: &str, containers: &[Container]) -> Result<Vec<(String, PathBuf)>, Error> {
    let directory = pod_directory(pod_uid, containers).join(EMPTY_DIRS);
    let path = host.path(&directory);
    let unreadable = |source| Error::Unreadable { path: path.clone(), source };
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(unreadable)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        if entry.file_type().map_err(unreadable)?.is_dir() {
            found.push((entry.file_name().to_string_lossy().into_owned(), directory.join(entry.file_name())));
        }
    }
    Ok(found)
}

/// The kubelet's directory for a pod, as the mounts of its containers show it; the usual place when they show none.
pub(crate) fn pod_directory(pod_uid: &str, containers: &[Container]) -> PathBuf {
    let tail = Path::new("pods").join(pod_uid);
    let sources = containers.iter().flat_map(|container| &container.spec.mounts).map(|mount| &mount.source);
    let found = sources.filter_map(|source| source.ancestors().find(|ancestor| ancestor.ends_with(&tail))).next();
    found.map_or_else(|| Path::new(KUBELET).join(tail), Path::to_owned)
}

/// TMPFS_MAGIC and HUGETLBFS_MAGIC of linux/magic.h.
fn in_memory(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| matches!(stat.f_type, 0x0102_1994 | 0x9584_58f6))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_of_a_volume_are_recognised() {
        let source = Path::new("/var/lib/kubelet/pods/u/volume-subpaths/data/web/0");
        assert!(is_part_of(source, "data") && !is_part_of(source, "web") && !is_part_of(Path::new("/data"), "data"));
    }

    #[test]
    fn kinds_are_written_and_read() {
        for text in ["rootfs", "shm", "empty-dir/data"] {
            assert_eq!(text.parse::<Kind>().unwrap().to_string(), text);
        }
        for text in ["", "empty-dir/", "empty-dir/../x", "empty-dir/..", "etc"] {
            assert!(text.parse::<Kind>().is_err(), "{text}");
        }
    }
}
