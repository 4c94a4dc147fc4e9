//! What a `criu restore` that was killed leaves on its node: the tmpfs under which it was building the container's mounts. It takes that away itself when it fails or
//! succeeds (criu/mount.c, mkdtemp(3) below `/tmp/.criu.mntns.`).

use std::path::PathBuf;
use std::{fs, io};

use godwit_node::host::Host;
use nix::mount::{MntFlags, umount2};

/// How such a folder begins, as CRIU names it.
const LEFT: &str = "/tmp/.criu.mntns.";

/// Takes away what belongs to no CRIU that is at work.
///
/// # Errors
/// When it cannot be looked for, or does not go.
pub async fn sweep(host: &Host) -> io::Result<()> {
    let left = mounted(&fs::read_to_string("/proc/1/mountinfo")?);
    // Looked for after the mounts: whose they are was there before.
    if left.is_empty() || is_at_work()? {
        return Ok(());
    }
    tracing::info!(?left, "a restore that was killed left its mounts");
    let host = host.clone();
    let gone = move || {
        left.iter().try_for_each(|folder| {
            umount2(folder, MntFlags::MNT_DETACH)?;
            fs::remove_dir(folder)
        })
    };
    crate::task::spawn_blocking(move || host.within(gone)).await.map_err(io::Error::other)?
}

fn mounted(mountinfo: &str) -> Vec<PathBuf> {
    let places = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    places.filter(|place| place.strip_prefix(LEFT).is_some_and(|rest| !rest.contains('/'))).map(PathBuf::from).collect()
}

fn is_at_work() -> io::Result<bool> {
    for entry in fs::read_dir("/proc")? {
        // Processes end meanwhile.
        let name = fs::read_to_string(entry?.path().join("comm")).unwrap_or_default();
        if name.trim_end() == "criu" {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_roots_of_killed_restores_are_found() {
        let text = "22 1 0:21 / /proc rw - proc proc rw\n\
                    300 22 0:90 / /tmp/.criu.mntns.5Fclzd rw,relatime - tmpfs none rw\n\
                    301 300 0:91 / /tmp/.criu.mntns.5Fclzd/9-0000000000 rw - tmpfs none rw\n\
                    302 22 0:92 / /tmp/other rw - tmpfs none rw\n";
        assert_eq!(mounted(text), [PathBuf::from("/tmp/.criu.mntns.5Fclzd")]);
    }
}
