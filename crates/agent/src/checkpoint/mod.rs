//! Checkpoints: what a running pod is at one instant, kept in a directory that every node mounts, and new pods made of it.
//!
//! ```text
//!   Agent.Checkpoint ─▶ take: files (running) ─▶ [frozen: criu dump ‖ files that changed] ─▶ thawed ─▶ store     the pod goes on
//!   Agent.RestorePod ─▶ restore: index and digests checked ─▶ tmpfs ─▶ keepers restore up to the gate ─▶ compared ─▶ gate opened
//!
//!   <store>/<namespace>/<name>-<uid>/
//!     index.json                what is in it: length and blake3 of every file; its own blake3 is in the PodCheckpoint
//!     <container>/images/…      CRIU's images
//!     files/<n>.tar             directory n of the index while the pod still ran …
//!     files/<n>.changes.tar     … and what had changed when it stood still
//! ```
//! Both jobs run on when the caller hangs up, and are told from the start to whoever calls again.

pub mod grip;
pub mod index;
pub mod job;
pub mod restore;
pub mod store;
pub mod take;

use godwit_rpc::v1::Checkpoint;
use tonic::Status;

/// The checkpoint that a request names.
///
/// # Errors
/// `InvalidArgument` when it does not name one in words that can be file names.
pub fn named(checkpoint: Option<Checkpoint>) -> Result<Checkpoint, Status> {
    let checkpoint = checkpoint.ok_or_else(|| Status::invalid_argument("the request names no checkpoint"))?;
    let plain = |name: &str| {
        !name.is_empty()
            && name.len() <= 253
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
    };
    if [&checkpoint.uid, &checkpoint.namespace, &checkpoint.name].into_iter().all(|name| plain(name)) {
        Ok(checkpoint)
    } else {
        Err(Status::invalid_argument("the request names no checkpoint by UID, namespace and name"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_elsewhere() {
        let name = |namespace: &str, name: &str| named(Some(Checkpoint { uid: "u-1".into(), namespace: namespace.into(), name: name.into() })).is_ok();
        assert!(name("shop", "web-0.x"));
        for bad in ["", "..", ".", "a/b", "../x", "-x", "a\0"] {
            assert!(!name(bad, "web") && !name("shop", bad), "{bad:?}");
        }
        assert!(named(None).is_err());
    }
}
