//! Who calls, as far as services need it.

use std::net::SocketAddr;

use tonic::{Request, Status};

use crate::identity::Identity;

/// Who is at the other end of the connection on which a request came. In the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// By its certificate.
    pub identity: Identity,
    /// From where.
    pub address: SocketAddr,
}

/// Who sent the request.
///
/// # Errors
/// `Unauthenticated` when it did not come through [`super::incoming`].
pub fn peer<T>(request: &Request<T>) -> Result<&Peer, Status> {
    request.extensions().get::<Peer>().ok_or_else(|| Status::unauthenticated("no certificate came with this call"))
}

/// Lets only one of `allowed` pass.
///
/// # Errors
/// `Unauthenticated` or `PermissionDenied`.
pub fn require<T>(request: &Request<T>, allowed: &[Identity]) -> Result<(), Status> {
    let peer = peer(request)?;
    if allowed.contains(&peer.identity) { Ok(()) } else { Err(denied(&peer.identity)) }
}

/// Lets only agents pass; the node's name of the one who calls.
///
/// # Errors
/// `Unauthenticated` or `PermissionDenied`.
pub fn require_agent<T>(request: &Request<T>) -> Result<String, Status> {
    match &peer(request)?.identity {
        Identity::Agent(node) => Ok(node.clone()),
        other => Err(denied(other)),
    }
}

fn denied(who: &Identity) -> Status {
    Status::permission_denied(format!("this call is not for {who}"))
}
