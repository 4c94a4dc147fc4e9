//! The directories of a pod that travel with it, and how their contents get from one node to the other.
//!
//! ```text
//!   source                                                  target
//!   overlay's upper directory  (Index: what changed)
//!   merged root filesystem     ── pack ─▶ tar ─▶ unpack ──▶ merged root filesystem   (through the mounted overlay, never behind its back)
//!   pods/<uid>/volumes/kubernetes.io~empty-dir/<name> ────▶ the same below the new pod's UID
//!   sandbox's shm  ───────────────────────────────────────▶ the new sandbox's shm
//! ```
//!
//! Before the freeze: `Index::read`, `changes` against an empty index, all of it copied. Inside the freeze: `Index::read` again, only what has changed is copied. At the target,
//! for each copy: `apply_removals` first, then `unpack`.
//!
//! The kubelet's own binds (/etc/hosts, /etc/resolv.conf, /etc/hostname, the termination log) lie elsewhere and do not travel.

mod changes;
mod directory;
mod index;
mod mapped;
mod removals;
mod tar;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

use crate::Finding;
pub use changes::{Changes, Removal};
pub use directory::{Directory, Kind, Side, directories};
pub use index::{Entry, Index, Type};
pub use mapped::mapped;
pub use removals::apply_removals;
pub use tar::{Tar, pack, unpack};

/// An error of this module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory of the pod is missing or cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A container's root filesystem is not an overlay, so what it changed cannot be told.
    #[error("the root filesystem of container {container} at {rootfs} is not an overlay")]
    NotOverlay {
        /// The container.
        container: String,
        /// Where it is mounted on the node.
        rootfs: PathBuf,
    },
    /// A path that is to be removed is not a plain relative path, or cannot be unlinked.
    #[error("{path} cannot be removed")]
    Removal {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// tar failed.
    #[error("tar failed ({status}): {text}")]
    Tar {
        /// How it ended.
        status: String,
        /// What it wrote.
        text: String,
    },
    /// tar cannot be started or awaited.
    #[error("cannot run tar")]
    Run(#[source] io::Error),
}

impl Error {
    /// The same for users.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let (reason, remedy) = match self {
            Self::Unreadable { .. } => ("VolumeUnreadable", "Check that the pod still runs on the node and that the agent is privileged."),
            Self::NotOverlay { .. } => {
                ("SnapshotterUnsupported", "Use the overlay snapshotter (containerd) or the overlay storage driver (CRI-O) on this node.")
            }
            Self::Removal { .. } => ("VolumeUnsafe", "The directory does not look as it did on the source node. Try again with a new target pod."),
            Self::Tar { .. } => ("CopyFailed", "Check that the target node's disk is not full and that its filesystem takes the same extended attributes."),
            Self::Run(_) => ("CopyFailed", "Check that the agent's image holds GNU tar."),
        };
        let message = match self {
            Self::Unreadable { source, .. } | Self::Removal { source, .. } | Self::Run(source) => format!("{self}: {source}"),
            _ => self.to_string(),
        };
        Finding::new(reason, message, remedy)
    }
}
