//! What a pod has on disk besides its image: overlay upper directories, emptyDirs, /dev/shm. Sent once while the pod runs; inside the freeze only what changed since.
//!
//! ```text
//!   index (running) ─▶ tar of everything ─▶ target        index (frozen) ─▶ diff ─▶ removals + tar of the changes ─▶ target
//! ```

use std::{collections::BTreeSet, path::PathBuf};

use godwit_node::volumes::{Changes, Directory, Index};
use godwit_rpc::v1::{FileChunk, Migration, Receipt, handoff_client::HandoffClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::stream::head;
use crate::{
    failure::{failure, internal},
    packing::Packing,
};

type Failure = godwit_rpc::v1::Failure;

/// One directory and what the target has of it.
pub struct Travelling {
    directory: Directory,
    sent: Index,
    mapped: BTreeSet<PathBuf>,
}

impl Travelling {
    /// Nothing of it was sent.
    #[must_use]
    pub fn new(directory: Directory, mapped: BTreeSet<PathBuf>) -> Self {
        Self { directory, sent: Index::empty(), mapped }
    }

    /// Sends what the target does not have. Returns the bytes that went.
    ///
    /// # Errors
    /// When a file cannot be read or the target does not take it.
    pub async fn send(&mut self, client: &mut HandoffClient<Channel>, migration: &Migration) -> Result<u64, Failure> {
        let (directory, mapped) = (self.directory.clone(), self.mapped.clone());
        let now = crate::task::spawn_blocking(move || Index::read(&directory, mapped))
            .await
            .map_err(|error| internal("cannot list the pod's files", error))?
            .map_err(|error| internal(&format!("cannot list the pod's files ({})", self.directory.kind), error))?;
        let changes = now.changes(&self.sent);
        if changes.changed.is_empty() && changes.removed.is_empty() {
            return Ok(0);
        }
        let bytes = self.transfer(client, migration, &changes).await?;
        self.sent = now;
        Ok(bytes)
    }

    async fn transfer(&self, client: &mut HandoffClient<Channel>, migration: &Migration, changes: &Changes) -> Result<u64, Failure> {
        let container = self.directory.container.clone().unwrap_or_default();
        let (out, chunks) = mpsc::channel(8);
        let mut first = head(migration, &container, &self.directory.kind.to_string());
        first.path = "removed".into();
        first.data = serde_json::to_vec(&changes.removed).map_err(|error| internal("cannot list removals", error))?;
        first.end = true;
        first.length = first.data.len() as u64;
        first.digest = blake3::hash(&first.data).as_bytes().to_vec();
        let call = client.files(ReceiverStream::new(chunks));
        let pack = async {
            // The receiver going away is told by the call's own result.
            if out.send(first).await.is_err() || changes.changed.is_empty() {
                drop(out);
                return Ok(0);
            }
            pack(&self.directory, changes, out).await
        };
        let (reply, packed) = tokio::join!(call, pack);
        let sent = packed?;
        let receipt: Receipt = reply
            .map_err(|status| {
                failure(
                    "TransferFailed",
                    format!("the target did not take the pod's files: {}", status.message()),
                    "try again; look at the log of the target's agent if it stays",
                )
            })?
            .into_inner();
        match receipt.failure {
            Some(refusal) => Err(refusal),
            None => Ok(sent),
        }
    }
}

async fn pack(directory: &Directory, changes: &Changes, out: mpsc::Sender<FileChunk>) -> Result<u64, Failure> {
    let mut packing = Packing::of(directory, changes)?;
    while let Some(piece) = packing.next().await? {
        let chunk = FileChunk { path: "tar".into(), data: piece.to_vec(), ..FileChunk::default() };
        if out.send(chunk).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let (length, digest) = packing.end().await?;
    let end = FileChunk { path: "tar".into(), end: true, digest: digest.as_bytes().to_vec(), length, ..FileChunk::default() };
    let _ = out.send(end).await;
    Ok(length)
}
