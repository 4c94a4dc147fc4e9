//! The agent's two gRPC services.

pub mod control;
pub mod handoff;

use std::pin::Pin;

use futures::Stream;
use tonic::Status;

/// A stream of replies.
pub type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The migration that every request names.
///
/// # Errors
/// `InvalidArgument` when it does not.
pub fn named(migration: Option<godwit_rpc::v1::Migration>) -> Result<godwit_rpc::v1::Migration, Status> {
    let migration = migration.ok_or_else(|| Status::invalid_argument("the request names no migration"))?;
    if is_uid(&migration.uid) && is_uid(&migration.source_pod_uid) {
        Ok(migration)
    } else {
        Err(Status::invalid_argument("the request names no migration or pod by a UID"))
    }
}

/// Whether this may be a UID. These become file names.
#[must_use]
pub fn is_uid(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
