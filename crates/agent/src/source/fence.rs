//! The fence: while it stands, the kubelet cannot create a container of the pod, also not after a reboot of the node.
//!
//! The kubelet writes the pod's `etc-hosts` anew for every container that it creates (kubernetes `pkg/kubelet/kubelet_pods.go`, `makeHostsMount`). With a directory in
//! the file's place that write fails, the container is not created and the kubelet tries again later. Running containers keep their bind mount of the old file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use godwit_node::host::Host;

fn paths(host: &Host, uid: &str) -> (PathBuf, PathBuf) {
    let pod = host.path(Path::new("/var/lib/kubelet/pods").join(uid));
    (pod.join("etc-hosts"), pod.join("etc-hosts.godwit"))
}

/// Puts it up; it may be there already.
///
/// # Errors
/// When the kubelet's directory of the pod cannot be changed.
pub fn raise(host: &Host, uid: &str) -> io::Result<()> {
    let (hosts, aside) = paths(host, uid);
    if hosts.is_dir() {
        return Ok(());
    }
    fs::rename(&hosts, &aside)?;
    fs::create_dir(&hosts)?;
    sync(&hosts)
}

/// Whether it stands.
#[must_use]
pub fn raised(host: &Host, uid: &str) -> bool {
    paths(host, uid).0.is_dir()
}

/// Takes it away; it may be gone already, the pod with it.
///
/// # Errors
/// When the kubelet's directory of the pod cannot be changed.
pub fn lower(host: &Host, uid: &str) -> io::Result<()> {
    let (hosts, aside) = paths(host, uid);
    if !hosts.is_dir() {
        return Ok(());
    }
    fs::remove_dir(&hosts)?;
    match fs::rename(&aside, &hosts) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    sync(&hosts)
}

fn sync(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_fence_stands_and_leaves_no_trace() {
        let root = std::env::temp_dir().join(format!("godwit-fence-{}", std::process::id()));
        let pod = root.join("var/lib/kubelet/pods/uid");
        fs::create_dir_all(&pod).unwrap();
        fs::write(pod.join("etc-hosts"), "127.0.0.1 localhost\n").unwrap();
        let host = Host::at(&root);
        raise(&host, "uid").unwrap();
        raise(&host, "uid").unwrap();
        assert!(raised(&host, "uid"));
        assert!(fs::write(pod.join("etc-hosts"), "x").is_err(), "the kubelet cannot write its file");
        lower(&host, "uid").unwrap();
        lower(&host, "uid").unwrap();
        assert_eq!(fs::read_to_string(pod.join("etc-hosts")).unwrap(), "127.0.0.1 localhost\n");
        assert_eq!(fs::read_dir(&pod).unwrap().count(), 1);
        lower(&host, "another").unwrap();
        fs::remove_dir_all(root).unwrap();
    }
}
