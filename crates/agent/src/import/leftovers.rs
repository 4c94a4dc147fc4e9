//! What imports leave: folders of restores that this agent did not see the end of, and what containerd leaves of an import that fails. It looks into the image through a mount of its
//! own, which it takes away only if everything after it succeeds (internal/cri/server/container_checkpoint_linux.go, `CRImportCheckpoint`).

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use godwit_node::host::Host;
use godwit_runtime::{
    import::{PASSED, RESUMED},
    process::Process,
};
use nix::mount::{MntFlags, umount2};

use super::{image, keeper};
use crate::{node::Node, target::consumed};

/// Between two looks at a CRIU that is to end.
const LOOK: Duration = Duration::from_millis(50);
/// Between two looks for mounts.
const SWEEP: Duration = Duration::from_secs(5);
/// How the mounts of containerd begin.
const PREFIX: &str = "/tmp/checkpoint";
/// More of a file is not looked at, in bytes.
const ENOUGH: u64 = 64 << 10;

/// Removes the folder of a restore, with what is mounted in it.
///
/// # Errors
/// When something stays.
pub fn remove(host: &Host, folder: &Path) -> io::Result<()> {
    let scratch = folder.join(super::SCRATCH);
    // It may not have come to that.
    let mounted = |_| Ok(());
    host.within(move || umount2(&scratch, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).or_else(mounted))?;
    super::absent(fs::remove_dir_all(host.path(folder)))?;
    // The last one takes the migration's along.
    let _ = folder.parent().map(|folder| fs::remove_dir(host.path(folder)));
    Ok(())
}

/// Removes the folders of all but these migrations, each when its CRIU has ended. Restores are begun anew after a restart: of one whose pod runs that is noted, as it would have been.
pub fn forget_others(host: &Host, migrations: &BTreeSet<String>) {
    for other in names(&host.path(super::FOLDER)).filter(|name| !migrations.contains(name)) {
        let folder = Path::new(super::FOLDER).join(other);
        if !at_work(&host.path(&folder)) {
            forget(host, &folder);
            continue;
        }
        let host = host.clone();
        crate::task::spawn(async move {
            while at_work(&host.path(&folder)) {
                tokio::time::sleep(LOOK).await;
            }
            forget(&host, &folder);
        });
    }
}

/// Until nothing of an earlier agent's attempt is left. `false`: it does not end.
pub async fn await_forgotten(host: &Host, uid: &str, patience: Duration) -> bool {
    let folder = host.path(Path::new(super::FOLDER).join(uid));
    let end = tokio::time::Instant::now() + patience;
    while folder.exists() && tokio::time::Instant::now() < end {
        tokio::time::sleep(LOOK).await;
    }
    !folder.exists()
}

fn forget(host: &Host, folder: &Path) {
    for container in names(&host.path(folder)).collect::<Vec<_>>() {
        let folder = folder.join(container);
        if let Some(pod) = ran(&host.path(&folder))
            && let Err(error) = consumed::mark(host, &pod)
        {
            tracing::error!(%error, pod, "the consumed marker cannot be written");
        }
        if let Err(error) = remove(host, &folder) {
            tracing::warn!(%error, folder = %folder.display(), "the folder of a restore stays");
        }
    }
    let _ = fs::remove_dir(host.path(folder));
}

/// Whether a CRIU still works on one of the containers.
fn at_work(folder: &Path) -> bool {
    names(folder).any(|container| mark(&folder.join(container), keeper::CRIU).is_some_and(|criu| criu.alive()))
}

/// The pod of a restore whose processes run.
fn ran(folder: &Path) -> Option<String> {
    let ran = mark(folder, RESUMED).is_some() || mark(folder, PASSED).is_some_and(|first| first.alive());
    ran.then(|| fs::read_to_string(folder.join(keeper::POD)).ok()).flatten()
}

/// A process that is noted in a container's folder.
pub fn mark(folder: &Path, name: &str) -> Option<Process> {
    serde_json::from_slice(&fs::read(folder.join(name)).ok()?).ok()
}

fn names(folder: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}

/// Takes away, for ever, what containerd has left of images of ours, when none is being imported: the kubelet may try to make a container of a pod that does not come any more.
pub async fn keep_swept(node: Arc<Node>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        if node.imports.is_empty() {
            sweep(&node.host).await;
        }
    }
}

async fn sweep(host: &Host) {
    let host = host.clone();
    let swept = crate::task::spawn_blocking(move || {
        let table = fs::read_to_string(host.proc_of_init().join("mountinfo"))?;
        for (mount, _) in mounts(&table).filter(|(mount, gone)| *gone || is_ours(&host.path(mount))) {
            let path = mount.clone();
            host.within(move || Ok(umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?))?;
            let _ = fs::remove_dir(host.path(&mount));
        }
        Ok::<_, io::Error>(())
    });
    if let Ok(Err(error)) = swept.await {
        tracing::warn!(%error, "what containerd left of an import stays");
    }
}

/// Where containerd has mounted images: in that folder anybody may make files, but only root mounts. And whether the image is gone since: then its folder is (proc_pid_mountinfo(5)).
fn mounts(table: &str) -> impl Iterator<Item = (PathBuf, bool)> {
    let mounts = table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        Some((fields.next()?, fields.next()?))
    });
    mounts.filter(|(_, point)| point.starts_with(PREFIX)).map(|(root, point)| (PathBuf::from(point), root.ends_with("//deleted")))
}

/// Whether it is an image of ours. What is in an image may be anything.
fn is_ours(mount: &Path) -> bool {
    let mut text = String::new();
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let read = OpenOptions::new().read(true).custom_flags(flags).open(mount.join("config.dump")).and_then(|file| file.take(ENOUGH).read_to_string(&mut text));
    read.is_ok() && text.contains(&image::base_name(""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_images_of_ours_are_swept() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str, text: &str| {
            let folder = root.path().join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("config.dump"), text).unwrap();
            folder
        };
        let mark = format!("\"rootfsImageName\":\"127.0.0.1:{}/base/ab:1\"", godwit_api::names::IMAGES_PORT);
        assert!(is_ours(&make("a", &mark)) && !is_ours(&make("b", "registry/app:1")) && !is_ours(root.path()));
        let table = "1 2 0:1 / /tmp/checkpoint12 ro - overlay overlay ro\n2 2 0:1 / /tmp ro - tmpfs tmpfs rw\n3 2 0:1 / /var/tmp/checkpoint1 ro - overlay overlay ro\n\
            4 2 0:1 /snapshots/3/fs//deleted /tmp/checkpoint3 ro - ext4 /dev/vda rw\n";
        let found = ["/tmp/checkpoint12", "/tmp/checkpoint3"].map(PathBuf::from);
        assert_eq!(mounts(table).collect::<Vec<_>>(), found.into_iter().zip([false, true]).collect::<Vec<_>>());
    }

    #[test]
    fn folders_of_migrations_that_nobody_knows_go() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::at(root.path());
        let imports = root.path().join("run/godwit/imports");
        for name in ["known/web", "gone/web"] {
            fs::create_dir_all(imports.join(name)).unwrap();
        }
        let ran = imports.join("ran/web");
        fs::create_dir_all(&ran).unwrap();
        fs::write(ran.join(keeper::POD), "p").unwrap();
        fs::write(ran.join(RESUMED), serde_json::to_vec(&Process { pid: 1, start: 0 }).unwrap()).unwrap();
        forget_others(&host, &BTreeSet::from(["known".to_owned()]));
        let left: Vec<_> = fs::read_dir(imports).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["known"]);
        assert_eq!(consumed::pods(&host).unwrap(), ["p"]);
    }
}
