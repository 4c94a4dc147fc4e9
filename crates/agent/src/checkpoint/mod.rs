//! Checkpoints: what a running pod is at one instant, kept in a directory that every node mounts or in a registry, and new pods made of it.
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
//! In a registry the same files are blobs of one artifact ([`repository`]). Of an encrypted one every file is stored as [`cipher`] says, the index too, so that without the key there are only names of containers and sizes to be seen.
//! Both jobs run on when the caller hangs up, and are told from the start to whoever calls again.

pub mod cipher;
pub mod contents;
mod deletion;
pub mod grip;
pub mod index;
pub mod job;
pub mod passage;
pub mod place;
pub mod registries;
mod repository;
pub mod restore;
pub mod store;
pub mod take;

use godwit_rpc::{
    Key,
    v1::{Checkpoint, CheckpointKey, Failure},
};
use tonic::Status;

use crate::failure::failure;
use cipher::Vault;

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

/// What a checkpoint is to be encrypted with: nothing, if no id of a key is named.
///
/// # Errors
/// `CheckpointKeyMissing` when there is no key beside the id, `CheckpointKeyWrong` when it is another one.
pub fn vault(checkpoint: &Checkpoint, key_id: &str, key: Option<CheckpointKey>) -> Result<Option<Vault>, Failure> {
    let key = key.and_then(Key::received);
    match key {
        _ if key_id.is_empty() => Ok(None),
        None => Err(key_missing(checkpoint)),
        Some(key) if key.id() != key_id => Err(key_wrong(checkpoint, key_id)),
        Some(key) => Ok(Some(Vault::new(key, &checkpoint.uid))),
    }
}

/// There is no key for what is encrypted.
#[must_use]
pub fn key_missing(checkpoint: &Checkpoint) -> Failure {
    failure("CheckpointKeyMissing", format!("checkpoint {} is encrypted, and its key is not there", checkpoint.name), "name the Secret that has its key")
}

/// There is another key.
#[must_use]
pub fn key_wrong(checkpoint: &Checkpoint, id: &str) -> Failure {
    failure(
        "CheckpointKeyWrong",
        format!("checkpoint {} is encrypted with the key {id}, and this is another one", checkpoint.name),
        "name the Secret that has its key",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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

    #[test]
    fn a_key_is_the_one_that_is_named_or_none() {
        let checkpoint = Checkpoint { uid: "u".into(), namespace: "n".into(), name: "c".into() };
        let key = Key::parse(&[1; 32]).unwrap();
        assert!(vault(&checkpoint, "", None).unwrap().is_none() && vault(&checkpoint, &key.id(), Some(key.message())).unwrap().is_some());
        assert_eq!(vault(&checkpoint, &key.id(), None).unwrap_err().reason, "CheckpointKeyMissing");
        assert_eq!(vault(&checkpoint, &Key::parse(&[2; 32]).unwrap().id(), Some(key.message())).unwrap_err().reason, "CheckpointKeyWrong");
    }
}
