//! `PodCheckpoint` and `PodRestore` objects.
//!
//! ```text
//!   PodCheckpoint  Pending ─▶ Working ── Agent.Checkpoint ──▶ Complete (sealed) │ Failed          deleted: Agent.RemoveCheckpoint, then the object goes
//!   PodRestore     Pending ─▶ Preparing (pod made, placed) ─▶ Restoring ── Agent.RestorePod ──▶ Succeeded │ Failed (the pod is removed)
//! ```
//! As with migrations: what is about to be done is written before it is done, and every effect may be repeated.

mod keys;
mod logins;
pub mod make;
pub mod restore;
mod retention;
mod seal;

use godwit_api::PodCheckpoint;
use godwit_rpc::v1;
use kube::ResourceExt;

/// The names under which agents know a checkpoint.
fn name(object: &PodCheckpoint) -> v1::Checkpoint {
    v1::Checkpoint { uid: object.uid().unwrap_or_default(), namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}
