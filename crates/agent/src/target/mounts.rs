//! Mounts that CRIU binds into a restored container, made in the node's mount namespace.

use std::io;

use godwit_criu::restore::Prepared;
use godwit_node::host::Host;

/// Makes them.
///
/// # Errors
/// The first mount that fails.
pub async fn make(host: &Host, prepared: &Prepared) -> io::Result<()> {
    let prepared = prepared.clone();
    inside(host, move || prepared.make()).await
}

async fn inside(host: &Host, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let host = host.clone();
    crate::task::spawn_blocking(move || host.within(work)).await.map_err(io::Error::other)?
}
