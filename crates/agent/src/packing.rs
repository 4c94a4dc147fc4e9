//! What has changed in one of a pod's directories, as a tar: read in pieces, counted and digested on the way.
//!
//! ```text
//!   tar ── stdout ──▶ next() ─▶ piece ─▶ piece ─▶ … ─▶ end(): length and blake3 of all of them, if tar says that it has everything
//! ```

use blake3::{Hash, Hasher};
use godwit_node::volumes::{self, Changes, Directory, Tar};
use godwit_rpc::v1::Failure;
use tokio::io::AsyncReadExt;
use tokio::process::ChildStdout;

use crate::failure::internal;

/// Largest piece, in bytes.
const PIECE: usize = 512 << 10;

/// See the module.
pub struct Packing {
    tar: Tar,
    stdout: ChildStdout,
    buffer: Vec<u8>,
    hash: Hasher,
    length: u64,
}

impl Packing {
    /// Starts tar.
    ///
    /// # Errors
    /// When it does not start.
    pub fn of(directory: &Directory, changes: &Changes) -> Result<Self, Failure> {
        let mut tar = volumes::pack(directory, changes).map_err(|error| internal("cannot start tar", error))?;
        let stdout = tar.stdout.take().ok_or_else(|| internal("tar", "no output"))?;
        Ok(Self { tar, stdout, buffer: vec![0u8; PIECE], hash: Hasher::new(), length: 0 })
    }

    /// The next piece; `None` when there is no more.
    ///
    /// # Errors
    /// When tar's output cannot be read.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, Failure> {
        let read = self.stdout.read(&mut self.buffer).await.map_err(|error| internal("cannot read from tar", error))?;
        let piece = &self.buffer[..read];
        self.hash.update(piece);
        self.length += read as u64;
        Ok((read > 0).then_some(piece))
    }

    /// Length in bytes and digest of all pieces.
    ///
    /// # Errors
    /// When tar has failed: the pieces are not everything.
    pub async fn end(self) -> Result<(u64, Hash), Failure> {
        drop(self.stdout);
        self.tar.finish().await.map_err(|error| internal("tar failed", error))?;
        Ok((self.length, self.hash.finalize()))
    }
}
