//! The container runtime of the node, containerd or CRI-O, by the Container Runtime Interface (`proto/cri/v1/api.proto`).
//!
//! The interface itself says little about a container; the rest comes from the verbose status, whose JSON is each runtime's own, and from what the runtimes leave on disk:
//!
//! ```text
//!   ListPodSandbox, ListContainers   by label io.kubernetes.pod.uid
//!   PodSandboxStatus  verbose ─▶ info: {pid, runtimeSpec, …}              namespaces, shm, hostname
//!   ContainerStatus   verbose ─▶ info: {pid, sandboxID, runtimeSpec, …}   the OCI configuration
//!   <state root>/<id>/state.json | status                                runc or crun, bundle   (state.rs)
//!   mountinfo of the node's init                                         the overlay's upper directory
//! ```

mod archived;
mod client;
mod container;
mod sandbox;
mod spec;
mod state;

use std::io;
use std::path::PathBuf;

use crate::Finding;
pub use archived::{Bind, Made, Order};
pub use client::{Client, Kind};
pub use container::{Container, Runtime, State};
pub use sandbox::Sandbox;
pub use spec::{Mount, Namespace, Spec, User};

/// The generated interface.
#[allow(missing_docs, clippy::all, rustdoc::all)]
mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The runtime handler whose containers are Godwit's.
const GODWIT_HANDLER: &str = "godwit";
const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";

/// An error of this module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No runtime answers.
    #[error("no container runtime answers on this node (tried {tried})")]
    NoRuntime {
        /// The sockets that were tried, and what came of it.
        tried: String,
    },
    /// A call failed.
    #[error("the container runtime failed to answer {call}")]
    Call {
        /// The call.
        call: &'static str,
        /// Its status.
        source: Box<tonic::Status>,
    },
    /// The verbose status is not what this runtime is known to send.
    #[error("the container runtime's description of {id} cannot be read: {why}")]
    Status {
        /// Container or sandbox.
        id: String,
        /// What is missing or wrong.
        why: String,
    },
    /// The node's files cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// The same for users.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let (reason, remedy) = match self {
            Self::NoRuntime { .. } => ("NoContainerRuntime", "Check that containerd or CRI-O runs on the node and that its socket is at the usual place."),
            Self::Call { .. } => ("ContainerRuntimeFailed", "Look into the log of containerd or CRI-O on the node, then try again."),
            Self::Status { .. } => (
                "ContainerRuntimeUnknown",
                "This version of the container runtime describes its containers in another way than the known ones; please report it.",
            ),
            Self::File { .. } => ("NodeUnreadable", "Check that the agent is privileged and shares the node's pid namespace."),
        };
        let message = match self {
            Self::Call { source, .. } => format!("{self}: {}", source.message()),
            Self::File { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        };
        Finding::new(reason, message, remedy)
    }
}
