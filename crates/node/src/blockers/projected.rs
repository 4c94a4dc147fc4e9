//! Volumes that the kubelet writes itself and replaces at will: ConfigMaps, Secrets, tokens. The target pod has new ones, in which the dated directory behind an open file
//! (`..2026_01_01_…/token`) does not exist.

use std::path::{Path, PathBuf};

use crate::Host;
use crate::cri::Container;

const PLUGINS: [&str; 4] = ["kubernetes.io~configmap", "kubernetes.io~secret", "kubernetes.io~projected", "kubernetes.io~downward-api"];

/// Where a container has such volumes, with all symbolic links resolved (`/var/run` often is one).
pub(super) fn places(container: &Container) -> Vec<PathBuf> {
    let root = Host::of_pid(container.pid);
    let is_projected = |source: &Path| source.components().any(|part| PLUGINS.iter().any(|plugin| part.as_os_str() == *plugin));
    let mounts = container.spec.mounts.iter().filter(|mount| is_projected(&mount.source));
    mounts.filter_map(|mount| Some(Path::new("/").join(root.path(&mount.destination).strip_prefix(root.root()).ok()?))).collect()
}

pub(super) fn is_in(places: &[PathBuf], path: &Path) -> bool {
    places.iter().any(|place| path.starts_with(place))
}
