//! Freezing, listing and killing the processes of a container or a pod, on cgroup v1 (the freezer hierarchy) and v2.
//!
//! ```text
//!   kubepods/…/pod<uid>          pod()   sealed after the dump: what the kubelet starts here meanwhile never runs
//!   └── <container id>           of(pid) frozen for the dump
//!       └── (made by the application itself)
//! ```
//!
//! v1: `freezer.state`, `freezer.self_freezing`, `freezer.parent_freezing` (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst). v2: `cgroup.freeze`, `frozen` in
//! `cgroup.events`, `cgroup.kill` (cgroup-v2.rst). On v1 a signal, SIGKILL too, waits in a frozen task until it is thawed; on v2 SIGKILL ends it at once.
//!
//! A task that waits in vfork for its child counts as frozen but does not answer ptrace, and CRIU would wait for it in vain: after freezing, such tasks are looked for,
//! and the cgroup is thawed for a moment and frozen again until there is none.

mod freeze;
mod kill;
mod locate;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Finding;
pub use freeze::{before_freeze, freeze_all};
pub use locate::{elsewhere, pods_beside};

/// Which of the two kinds of hierarchy.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Version {
    /// The freezer controller is on a hierarchy of its own.
    V1,
    /// The unified hierarchy.
    V2,
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// An error of this module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process is gone or its cgroup is not below the node's cgroup mount.
    #[error("cannot find the cgroup of process {pid}")]
    Unknown {
        /// The process.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// A file of the cgroup cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The deadline passed; what was frozen has been thawed again.
    #[error("cgroup {cgroup} did not freeze in time; not frozen: {tasks}")]
    NotFrozen {
        /// Its name.
        cgroup: PathBuf,
        /// The tasks that kept it from freezing, as far as they can be told.
        tasks: String,
    },
    /// A task stayed in vfork up to the deadline; everything has been thawed again.
    #[error("a task waits in vfork for its child: {tasks}")]
    Uninterruptible {
        /// The tasks.
        tasks: String,
    },
    /// Processes were left when the deadline passed.
    #[error("processes of cgroup {cgroup} are still there: {pids:?}")]
    NotEmpty {
        /// Its name.
        cgroup: PathBuf,
        /// The processes.
        pids: Vec<i32>,
    },
}

impl Error {
    /// The same for users.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let mut message = self.to_string();
        if let Self::Unknown { source, .. } | Self::File { source, .. } = self {
            message = format!("{message}: {source}");
        }
        let (reason, remedy) = match self {
            Self::Unknown { .. } => ("CgroupUnknown", "The container may just have ended; check its state and try again."),
            Self::File { .. } => ("CgroupUnusable", "Check that the cgroup still exists and that the agent may write to the node's cgroup mount."),
            Self::NotFrozen { .. } => {
                ("FreezeTimedOut", "A process waits for a disk or a network filesystem, or the node is overloaded. Try again, or with a longer deadline.")
            }
            Self::Uninterruptible { .. } => ("TaskInVfork", "The process starts another one by vfork and that one has not come as far as exec. Try again."),
            Self::NotEmpty { .. } => ("ProcessesRemain", "A process does not end, probably because it waits for a disk or a network filesystem."),
        };
        Finding::new(reason, message, remedy)
    }
}

/// A cgroup of the node. Serialised it is the agent's path of it, which stays the same when the agent restarts.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub struct Cgroup {
    version: Version,
    /// Where the hierarchy is mounted, as the agent reaches it.
    mount: PathBuf,
    /// Below that; no leading slash.
    name: PathBuf,
}

impl Cgroup {
    /// v1 or v2.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The cgroup's directory, openable by the agent.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.mount.join(&self.name)
    }

    /// The cgroup's path below the node's mount, without a leading slash.
    #[must_use]
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The parent; none for the top.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let name = self.name.parent()?;
        Some(Self { name: name.to_owned(), ..self.clone() })
    }

    /// The pod's cgroup: the nearest ancestor (or itself) that the kubelet made for a pod, `pod<uid>` or `…-pod<uid>.slice`.
    #[must_use]
    pub fn pod(&self) -> Option<Self> {
        let is_pod = |cgroup: &Self| cgroup.name.file_name().and_then(|name| name.to_str()).and_then(pod_uid).is_some();
        std::iter::successors(Some(self.clone()), Self::parent).find(is_pod)
    }

    /// Whether its directory exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path().is_dir()
    }

    /// How much memory may be charged to it, in bytes; `None` if there is no limit, or none that can be read.
    #[must_use]
    pub fn memory_limit(&self) -> Option<u64> {
        // v1: a page less than 2^63 is "no limit" (mm/memcontrol-v1.c).
        const UNLIMITED: u64 = 1 << 60;
        let text = match self.version {
            Version::V1 => fs::read_to_string(self.mount.parent()?.join("memory").join(&self.name).join("memory.limit_in_bytes")).ok()?,
            Version::V2 => self.read("memory.max").ok()?,
        };
        text.trim().parse().ok().filter(|limit| *limit < UNLIMITED)
    }

    /// All processes in it and below, by the agent's pid namespace. A cgroup that is gone has none.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        for directory in self.directories() {
            match self.read_in(&directory, "cgroup.procs") {
                Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0)),
                Err(Error::File { source, .. }) if gone(&source) => {}
                Err(error) => return Err(error),
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Its directory and all below.
    fn directories(&self) -> Vec<PathBuf> {
        let below = walkdir::WalkDir::new(self.path()).into_iter().filter_map(Result::ok);
        below.filter(|entry| entry.file_type().is_dir()).map(walkdir::DirEntry::into_path).collect()
    }

    fn read(&self, file: &str) -> Result<String, Error> {
        self.read_in(&self.path(), file)
    }

    fn read_in(&self, directory: &Path, file: &str) -> Result<String, Error> {
        let path = directory.join(file);
        fs::read_to_string(&path).map_err(|source| Error::File { path, source })
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Error> {
        let path = self.path().join(file);
        fs::write(&path, text).map_err(|source| Error::File { path, source })
    }
}

/// ENOENT before, ENODEV after the file was opened.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV)
}

/// The UID of the pod that a cgroup was made for, by its name. Both cgroup drivers of the kubelet: `pod<uid>` by cgroupfs, `kubepods-…-pod<uid with underscores>.slice` by systemd.
fn pod_uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1,
        None => name.strip_prefix("pod")?,
    };
    let is_uid = !uid.is_empty() && uid.chars().all(|c| c.is_ascii_hexdigit() || c == '-' || c == '_');
    is_uid.then(|| uid.replace('_', "-"))
}
