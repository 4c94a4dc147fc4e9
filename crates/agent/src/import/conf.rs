//! How a CRIU that the container runtime starts comes to the configuration of its own restore, and no other CRIU does.
//!
//! runc and crun name to CRIU the file `/etc/criu/runc.conf` (crun also `/etc/criu/crun.conf`) whether it is there or not (runc: libcontainer/criu_linux.go,
//! `handleCriuConfigurationFile`), and CRIU goes on without it if it cannot be opened (criu/config.c, `parse_config`). While a pod is to come, the file is a link:
//!
//! ```text
//!   /etc/criu/runc.conf ─▶ /proc/self/cwd/godwit-criu.conf      CRIU works in the bundle, to which runc and crun change: only there is, by a second link, its configuration
//!   BUNDLE/godwit-criu.conf ─▶ /run/godwit/imports/…/criu.conf
//! ```
//! Annotations would name the file as well, but CRI-O takes them away (`org.criu.config` is none that it allows).

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use godwit_node::host::Host;

/// Where the files are that the runtimes name to CRIU.
const FOLDER: &str = "/etc/criu";
/// These files.
const FILES: [&str; 2] = ["runc.conf", "crun.conf"];
/// The link in a bundle.
const OWN: &str = "godwit-criu.conf";
const TARGET: &str = "/proc/self/cwd/godwit-criu.conf";

/// A file that somebody else has put where the link would be.
#[must_use]
pub fn foreign(host: &Host) -> Option<PathBuf> {
    let theirs = FILES.into_iter().find(|file| {
        let path = host.path(FOLDER).join(file);
        path.symlink_metadata().is_ok() && !is_ours(&path)
    });
    theirs.map(|file| Path::new(FOLDER).join(file))
}

/// Makes the links.
///
/// # Errors
/// When one cannot be made.
pub fn link(host: &Host) -> io::Result<()> {
    let folder = host.path(FOLDER);
    fs::create_dir_all(&folder)?;
    for path in FILES.map(|file| folder.join(file)) {
        match symlink(TARGET, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_ours(&path) => {}
            made => made?,
        }
    }
    Ok(())
}

/// Takes the links away.
pub fn unlink(host: &Host) {
    let folder = host.path(FOLDER);
    for path in FILES.map(|file| folder.join(file)) {
        if is_ours(&path)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(%error, path = %path.display(), "a link stays");
        }
    }
}

/// Gives a CRIU that works in this bundle its configuration.
///
/// # Errors
/// When the bundle is gone.
pub fn place(host: &Host, bundle: &Path, conf: &Path) -> io::Result<()> {
    let link = host.path(bundle).join(OWN);
    match symlink(conf, &link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn is_ours(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target == Path::new(TARGET))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_our_links_come_and_go() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::at(root.path());
        assert_eq!(foreign(&host), None);
        link(&host).unwrap();
        link(&host).unwrap();
        assert_eq!(foreign(&host), None);
        unlink(&host);
        assert_eq!(fs::read_dir(root.path().join("etc/criu")).unwrap().count(), 0);
        fs::write(root.path().join("etc/criu/runc.conf"), "tcp-established\n").unwrap();
        assert_eq!(foreign(&host), Some(PathBuf::from("/etc/criu/runc.conf")));
        assert!(link(&host).is_err());
        unlink(&host);
        assert!(root.path().join("etc/criu/runc.conf").exists());
    }
}
