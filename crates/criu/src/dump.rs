//! What `criu dump` of one container is told.
//!
//! CRIU is started in the node's mount namespace and the pod's network, IPC and UTS namespaces: it then takes these for its own, leaves them out of the
//! image (the target's pod has its own), and its socket and connection tables are the pod's. The container's cgroup is frozen before; CRIU sees that at its
//! first look, seizes every task, thaws the cgroup for its parasite, and freezes it again before it lets go of the tasks. No instruction of the application
//! runs in between, and the tasks are still frozen when CRIU has ended, whether it succeeded or failed.
//!
//! `--leave-running` is what leaves them there: without it CRIU would kill them, and the way back with them.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Problem;
use crate::mounts::{self, External};

/// A running container and how to see it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its OCI configuration.
    pub spec: &'a Value,
    /// Its init process, as `proc` shows it.
    pub pid: i32,
    /// A `/proc` that shows the processes of the node.
    pub proc: &'a Path,
    /// Its frozen cgroup, as CRIU will see it: in the freezer hierarchy of v1, or in v2.
    pub freezer: &'a Path,
    /// Its root file system, as CRIU will see it.
    pub rootfs: &'a Path,
}

/// Everything that `criu dump` is told of one container, but where to write.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Plan {
    /// The mounts that the target must provide.
    pub externals: Vec<External>,
    pid: i32,
    freezer: String,
    rootfs: String,
}

/// Options that are the same for every container.
const OPTIONS: [&str; 16] = [
    "--no-default-config",
    "--leave-running",
    // The traffic gate is shut and the connections are kept: CRIU's own lock would cost 11 runs of iptables.
    "--network-lock",
    "skip",
    "--tcp-established",
    // A connection whose handshake has not ended (a probe in the accept queue): its client tries again.
    "--skip-in-flight",
    // Not --link-remap: CRIU would take its links away again before the files are copied, and the restore would miss them. Without it the dump refuses.
    "--file-locks",
    // Unlinked files that are still open are carried in the images up to this size.
    "--ghost-limit",
    "1G",
    "--ext-unix-sk",
    // The target's runtime gives the processes their new cgroup.
    "--manage-cgroups=ignore",
    // For a task that does not stop, e.g. in a vfork or with a debugger: seconds.
    "--timeout",
    "5",
    "--log-file",
    "dump.log",
    "--verbosity=4",
];

/// More options for a dump that is begun in another network namespace than the container's, which is at `net`: it is in no image but by the name under which runc and crun hand their
/// own to a restore (runc: libcontainer/criu_linux.go, `criuNsToKey`; crun: `CRIU_EXT_NETNS`).
///
/// # Errors
/// When the namespace is gone.
pub fn external_net(net: &Path) -> io::Result<[String; 2]> {
    use std::os::unix::fs::MetadataExt;
    Ok(["--external".into(), format!("net[{}]:extRootNetNS", std::fs::metadata(net)?.ino())])
}

impl Plan {
    /// Looks at the container. Touches nothing, so it can be made before the freeze.
    ///
    /// # Errors
    /// If the container is gone, or has a mount that cannot be moved.
    pub fn of(source: &Source<'_>) -> Result<Self, Problem> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Ok(Self { externals: mounts::of(source)?, pid: source.pid, freezer: text(source.freezer), rootfs: text(source.rootfs) })
    }

    /// After the freeze: is the container no longer as it was planned (a mount was made, something appeared in `/dev`)? Then plan anew.
    ///
    /// # Errors
    /// As [`Plan::of`].
    pub fn changed(&self, source: &Source<'_>) -> Result<bool, Problem> {
        Ok(Self::of(source)? != *self)
    }

    /// The container's init process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Everything else that CRIU is told on its command line, but where the images go. `work` exists, is empty, and is a path as CRIU sees it.
    #[must_use]
    pub fn options(&self, work: &Path) -> Vec<String> {
        let mut args = vec!["--work-dir".into(), work.to_string_lossy().into_owned()];
        args.extend(["--root".into(), self.rootfs.clone(), "--freeze-cgroup".into(), self.freezer.clone()]);
        args.extend(OPTIONS.map(str::to_owned));
        for external in &self.externals {
            args.extend(["--external".into(), format!("mnt[{}]:{}", external.mountpoint, external.key)]);
        }
        args
    }
}
