//! Why something cannot be done, and the way out.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a user reads: a stable word, what was seen, what to do.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Failure {
    /// One CamelCase word that scripts may rely on.
    pub reason: String,
    /// What was seen, with names.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// The lines of a log that say so, if one was read; at most some KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
}

impl Failure {
    pub(crate) fn new(reason: &str, message: impl Into<String>, remedy: &str) -> Self {
        Self { reason: reason.into(), message: message.into(), remedy: remedy.into(), log: String::new() }
    }
}

/// What this crate refuses.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A file or directory could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The OCI configuration lacks something that every container has.
    #[error("the container's OCI configuration has no {0}")]
    Spec(&'static str),
    /// A mount of the container that is neither in its configuration nor of a kind that CRIU can make again.
    #[error("mount {mountpoint} ({kind}) was made after the container started or is of a kind that cannot be moved")]
    UnknownMount {
        /// Where it is mounted, inside the container.
        mountpoint: String,
        /// The type of its file system.
        kind: String,
    },
    /// The target's container lacks a mount that the source's has.
    #[error("the target's container has no mount at {destination}")]
    MissingMount {
        /// Its destination, inside the container.
        destination: String,
    },
    /// The target's container has a mount read-only that the source's has writable.
    #[error("the source has {destination} writable, the target's container has it read-only")]
    ReadOnlyMount {
        /// Its destination, inside the container.
        destination: String,
    },
    /// An image is not there.
    #[error("image {file} is missing")]
    MissingImage {
        /// Name of the file.
        file: String,
    },
    /// An image ends too early or does not say what it should.
    #[error("image {file} is damaged: {what}")]
    Damaged {
        /// Name of the file.
        file: String,
        /// What is wrong.
        what: String,
    },
    /// What was to be changed in the images is not in them.
    #[error("there is nothing in the images for the change: {what}")]
    NothingToAdapt {
        /// The change.
        what: String,
    },
}

impl Problem {
    pub(crate) fn read(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Read { path, source }
    }

    pub(crate) fn damaged(file: &str, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.into(), what: what.into() }
    }

    /// The same for the user.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let (reason, remedy) = match self {
            Self::Read { .. } => ("NodeError", "look at the log of the agent on that node; the migration can be tried again"),
            Self::Spec(_) => ("UnknownContainer", "the container was not made by a Kubernetes runtime as Godwit knows it; report it with its config.json"),
            Self::UnknownMount { .. } => ("UnknownMount", "unmount it inside the container, or declare it as a volume of the pod"),
            Self::MissingMount { .. } => ("MountMissing", "give the target pod the same volumes; admission webhooks on the target may have removed one"),
            Self::ReadOnlyMount { .. } => ("MountReadOnly", "make the volume writable for the target pod too"),
            Self::NothingToAdapt { .. } => {
                ("NothingToAdapt", "these are other images than expected, or of another runtime; look what is in them: kubectl migrate inspect")
            }
            Self::MissingImage { .. } | Self::Damaged { .. } => ("ImagesDamaged", "nothing has run from them; migrate again"),
        };
        let message = match self {
            Self::Read { path, source } => format!("cannot read {}: {source}", path.display()),
            other => other.to_string(),
        };
        Failure::new(reason, message, remedy)
    }
}
