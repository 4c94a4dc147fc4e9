//! Mutual TLS: channels that know whom they talk to, and a listener that knows who calls.
//!
//! ```text
//!   connect(address, expected, credentials)                       incoming(listener, credentials)
//!        │  TLS 1.3, both sides show a certificate of the same CA        │
//!        │  server name = expected.server_name()                         │  common name of the client ──▶ Peer in the request's extensions
//!        ▼                                                               ▼
//!   Channel: every new connection uses the credentials of that       require(&request, &[Identity::Controller])
//!   moment; a server with another identity is refused
//! ```

mod client;
mod peer;
mod server;

pub use client::{ConnectError, connect};
pub use peer::{Peer, peer, require, require_agent};
pub use server::{Connection, incoming, server};

#[cfg(test)]
mod tests;
