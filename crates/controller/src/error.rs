//! Why a reconciliation stopped. Each is tried again from what stands in the status; what a user must know is a `Failure` in the status instead.

use godwit_fault::Injected;
use godwit_rpc::tls::ConnectError;
use tonic::Status;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no, or is away.
    #[error("the API server did not answer as needed")]
    Kube(#[from] kube::Error),
    /// A watch broke.
    #[error("a watch broke")]
    Watch(#[from] Box<kube::runtime::watcher::Error>),
    /// Somebody else has written the status: another leader is at work.
    #[error("the status was written by another controller")]
    Superseded,
    /// The object was deleted.
    #[error("the PodMigration is gone")]
    Gone,
    /// Something outside has not happened yet.
    #[error("still waiting: {0}")]
    NotYet(&'static str),
    /// A test ordered it.
    #[error(transparent)]
    Injected(#[from] Injected),
    /// An agent could not be called.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// Why a call to an agent did not give an answer.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its node does not exist any more.
    #[error("node {0} does not exist")]
    NoNode(String),
    /// Its node has no address.
    #[error("node {0} has no internal address")]
    NoAddress(String),
    /// The node could not be looked up.
    #[error("node {node} cannot be looked up")]
    Lookup {
        /// Its name.
        node: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// No channel.
    #[error("the agent of node {node} cannot be called")]
    Connect {
        /// Its name.
        node: String,
        /// Why.
        #[source]
        source: ConnectError,
    },
    /// The call ended with an error.
    #[error("the agent of node {node} answered with an error")]
    Call {
        /// Its name.
        node: String,
        /// Which.
        #[source]
        source: Box<Status>,
    },
}

impl AgentError {
    /// Whether the same call may succeed later: nobody has said no.
    #[must_use]
    pub fn passes(&self) -> bool {
        use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Unavailable, Unknown};
        match self {
            Self::Lookup { .. } => true,
            Self::Call { source, .. } => matches!(source.code(), Unavailable | Unknown | Cancelled | Aborted | DeadlineExceeded),
            Self::NoNode(_) | Self::NoAddress(_) | Self::Connect { .. } => false,
        }
    }

    /// The innermost cause, in words.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Call { source, .. } => innermost(source.as_ref()),
            other => innermost(other),
        }
    }
}

/// The last of a chain of causes; a status with a text of its own speaks for itself.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    match last.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => last.to_string(),
    }
}
