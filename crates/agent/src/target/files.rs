//! Applies the pod's files: removals first, then a tar stream, through the new container's own mounts.

use std::pin::pin;

use blake3::Hasher;
use futures::{Stream, StreamExt};
use godwit_node::volumes::{self, Directory, Removal};
use godwit_rpc::v1::{FileChunk, Receipt};
use tokio::io::AsyncWriteExt;

use crate::failure::{failure, internal};

type Failure = godwit_rpc::v1::Failure;

/// Takes one stream for one directory; `first` is its first message.
///
/// # Errors
/// When the stream is cut, damaged, or the node does not take a file.
pub async fn apply(directory: &Directory, first: FileChunk, rest: impl Stream<Item = Result<FileChunk, tonic::Status>>) -> Result<Receipt, Failure> {
    let removals: Vec<Removal> = serde_json::from_slice(&first.data).map_err(|error| internal("the list of removals is damaged", error))?;
    if blake3::hash(&first.data).as_bytes() != first.digest.as_slice() {
        return Err(internal("the list of removals is damaged", "its digest is another"));
    }
    let removing = directory.clone();
    crate::task::spawn_blocking(move || volumes::apply_removals(&removing, &removals))
        .await
        .map_err(|error| internal("cannot remove files", error))?
        .map_err(|error| internal("cannot remove files", error))?;
    let mut rest = pin!(rest);
    let mut receipt = Receipt { files: 1, bytes: first.length, ..Receipt::default() };
    let Some(mut chunk) = next(&mut rest).await? else {
        return Ok(receipt);
    };
    let mut tar = volumes::unpack(directory).map_err(|error| internal("cannot start tar", error))?;
    let mut stdin = tar.stdin.take().ok_or_else(|| internal("tar", "no input"))?;
    let (mut hash, mut length) = (Hasher::new(), 0u64);
    let whole = loop {
        hash.update(&chunk.data);
        length += chunk.data.len() as u64;
        if let Err(error) = stdin.write_all(&chunk.data).await {
            tracing::debug!(%error, "tar takes no more");
            break chunk;
        }
        if chunk.end {
            break chunk;
        }
        // Others have their turn after every piece, however fast the pieces come.
        tokio::task::yield_now().await;
        chunk = next(&mut rest).await?.ok_or_else(|| failure("TransferFailed", "the stream of the pod's files was cut", "try again"))?;
    };
    drop(stdin);
    tar.finish().await.map_err(|error| internal("the pod's files could not be written on the target", error))?;
    if whole.length != length || whole.digest != hash.finalize().as_bytes() {
        return Err(failure("TransferDamaged", "the pod's files arrived damaged", "try again; look for a fault in the network between the nodes"));
    }
    receipt.bytes += length;
    receipt.digest = whole.digest;
    Ok(receipt)
}

async fn next(stream: &mut (impl Stream<Item = Result<FileChunk, tonic::Status>> + Unpin)) -> Result<Option<FileChunk>, Failure> {
    stream
        .next()
        .await
        .transpose()
        .map_err(|status| failure("TransferFailed", format!("the stream of the pod's files broke: {}", status.message()), "try again"))
}
