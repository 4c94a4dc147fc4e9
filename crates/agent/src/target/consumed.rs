//! The consumed markers: target pods whose migration has run, so that their containers start afresh from now on. They survive reboots and go with their pod.

use std::{fs, io, path::PathBuf};

use godwit_node::host::Host;
use godwit_runtime::protocol::CONSUMED;

use crate::durable;

/// Where the kubelet keeps one directory for each pod of the node, for as long as the pod is there.
const PODS: &str = "/var/lib/kubelet/pods";

fn marker(host: &Host, pod_uid: &str) -> PathBuf {
    host.path(CONSUMED).join(pod_uid)
}

/// Makes the marker of a pod; it is on disk when this returns.
///
/// # Errors
/// When the disk refuses.
pub fn mark(host: &Host, pod_uid: &str) -> io::Result<()> {
    let marker = marker(host, pod_uid);
    marker.parent().map_or(Ok(()), fs::create_dir_all)?;
    durable::replace(&marker, b"")
}

/// Removes the markers of pods that the kubelet has forgotten. A pod's UID never comes back.
///
/// # Errors
/// When a directory cannot be read.
pub fn sweep(host: &Host) -> io::Result<()> {
    let markers = match fs::read_dir(host.path(CONSUMED)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        markers => markers?,
    };
    for entry in markers {
        let entry = entry?;
        let pods = host.path(PODS);
        if pods.is_dir() && !pods.join(entry.file_name()).exists() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// UIDs of the pods that came by migration and are still on this node.
///
/// # Errors
/// As [`sweep`].
pub fn pods(host: &Host) -> io::Result<Vec<String>> {
    sweep(host)?;
    match fs::read_dir(host.path(CONSUMED)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        markers => markers?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_marker_goes_with_its_pod() {
        let root = std::env::temp_dir().join(format!("godwit-consumed-{}", std::process::id()));
        let host = Host::at(&root);
        fs::create_dir_all(root.join("var/lib/kubelet/pods/here")).unwrap();
        for uid in ["here", "gone"] {
            mark(&host, uid).unwrap();
        }
        sweep(&host).unwrap();
        assert!(marker(&host, "here").exists() && !marker(&host, "gone").exists());
        assert_eq!(pods(&host).unwrap(), ["here"]);
        fs::remove_dir_all(root.join("var/lib/kubelet")).unwrap();
        sweep(&host).unwrap();
        assert!(marker(&host, "here").exists(), "a kubelet whose directory cannot be seen proves nothing");
        fs::remove_dir_all(root).unwrap();
    }
}
