//! The contract between controller and agents: messages and services generated from `proto/`, and mutual TLS around them.
//!
//! ```text
//!   controller ── v1::agent_client   ── mTLS "controller"   ──▶ agent   (service Agent,   tls::require(&request, &[Identity::Controller]))
//!   agent      ── v1::handoff_client ── mTLS "agent:node-a" ──▶ agent   (service Handoff, tls::require_agent(&request))
//! ```
//!
//! - [`identity`] who somebody is: the common name of the certificate.
//! - [`credentials`] own certificate, key and the CA, replaced while connections go on.
//! - [`tls`] channels that know whom they talk to, and a listener that knows who calls.
//! - [`authority`] the CA: made once, signs for a day.
//! - [`key`] the key of encrypted checkpoints, which no log shows.
//! - [`login`] who logs in to a registry, whose password no log shows.
//! - [`logs`] log lines that say which migration they are about.
//! - [`api_server`] (feature `kube`) a client for the API server that never waits for an acknowledgement.
//! - [`certificates`] (feature `kube`) how an agent gets its certificate through `certificates.k8s.io`.

#[cfg(feature = "kube")]
pub mod api_server;
pub mod authority;
#[cfg(feature = "kube")]
pub mod certificates;
pub mod credentials;
pub mod failure;
pub mod identity;
pub mod key;
pub mod login;
pub mod logs;
pub mod tls;

pub use credentials::{Credentials, Material};
pub use identity::Identity;
pub use key::Key;
pub use login::Login;

/// Generated from `proto/godwit/agent/v1/agent.proto`, whose comments are the documentation.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("godwit.agent.v1");
}
