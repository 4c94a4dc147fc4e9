//! The anchor: connections of a pod live on although the pod has another address on another node (facts of the network are in `godwit_network`).
//!
//! ```text
//!   node of the old pod (holder)                              node of the new pod (mirror)
//!     prepare   announced: the address may be asked for
//!     open      Link ◀─────────────────────────────────────── interface `old0` with the old address, and its end of the tunnel
//!     freeze    gate shut, what arrives is kept
//!     ran       Pass ◀─────────────────────────────────────── as soon as anything of the pod has run, and not before
//!               frames pass by eth0 ⇄ anc0, what was kept too
//!     later     Connections, EndConnections ────────────────▶ how many there are; the end
//! ```
//!
//! The holder decides what passes, so the commit of the hand-over is the commit of the network, too: until `Pass` no frame of the new pod reaches a peer, and on a
//! rollback the gate is opened at the source as if there had been no tunnel. A pod that moves on takes its mirrors along: the new node links to the *first*
//! holder, and `Pass` there points the anchor to the new pod; nothing is chained.
//!
//! Where both pods are on one network segment ([`segment`]) the address moves by itself: the same, without a tunnel; what passes is decided at the new pod, right after something of
//! it has run, and the old pod, sealed, reserves the address.
//!
//! Where both nodes have WireGuard the tunnel goes through it ([`wireguard`]).
//!
//! Both sides are journaled before anything is made, in roles of their own (`anchor`, `mirror`), so that what a crash leaves is found and taken away.

pub mod holder;
pub mod mirrors;
pub mod probe;
pub mod segment;
pub mod wireguard;

use godwit_rpc::v1::{AnchorName, Failure};
use serde::{Deserialize, Serialize};

use crate::failure::{failure, internal};

/// Names an anchor for both sides.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Name {
    /// UID of the old pod.
    pub pod_uid: String,
    /// Ticket of the migration that made it.
    pub ticket: Vec<u8>,
}

impl Name {
    /// As the contract has it, about the new pod `target`.
    #[must_use]
    pub fn about(&self, target: &str) -> AnchorName {
        AnchorName { pod_uid: self.pod_uid.clone(), ticket: self.ticket.clone(), target_pod_uid: target.to_owned() }
    }

    /// Whether somebody knows the ticket. The comparison of hashes takes the same time whatever they are.
    #[must_use]
    pub fn knows(&self, shown: &[u8]) -> bool {
        !self.ticket.is_empty() && blake3::hash(&self.ticket) == blake3::hash(shown)
    }
}

/// What the kernel refused.
#[must_use]
pub fn refused(error: &godwit_network::Error) -> Failure {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    failure(error.reason(), format!("{error}{source}"), error.remedy())
}

/// Runs what talks to the kernel on a thread on which it may block.
///
/// # Errors
/// What it says.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    crate::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(internal("the network", error)))
}
