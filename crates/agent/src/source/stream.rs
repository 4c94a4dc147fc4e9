//! Sends the files of a directory while they grow: CRIU's images on their way to the target while CRIU still writes them.
//!
//! CRIU writes every image from its start to its end and never seeks back (criu-image-streamer relies on the same), so what has been read once stays true. Each file
//! ends with its length and blake3 digest; the receipt repeats what arrived.
//!
//! ```text
//!   criu dump ──▶ tmpfs ──read as it grows──▶ FileChunk … FileChunk{end, digest} ──gRPC over mTLS──▶ target's tmpfs
//! ```

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use blake3::Hasher;
use godwit_rpc::v1::{FileChunk, Migration};
use tokio::sync::{mpsc, watch};

/// Largest piece of a file in one message, in bytes.
const PIECE: usize = 512 << 10;
/// How long to rest when nothing has grown.
const REST: Duration = Duration::from_micros(500);

/// What was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// blake3 over the digests of the files in the order in which they ended.
    pub digest: Vec<u8>,
}

struct Growing {
    file: File,
    sent: u64,
    hash: Hasher,
}

/// Follows the directory until `finished` turns true, then sends the rest and the ends. Runs on a thread of its own.
///
/// # Errors
/// When a file cannot be read, or the receiver has gone (`BrokenPipe`).
pub fn follow(
    directory: &Path,
    head: &FileChunk,
    out: &mpsc::Sender<FileChunk>,
    finished: &watch::Receiver<bool>,
    skip: &[&str],
    count: &dyn Fn(u64),
) -> io::Result<Sent> {
    let mut files: BTreeMap<PathBuf, Growing> = BTreeMap::new();
    let mut total = Sent::default();
    let mut buffer = vec![0u8; PIECE];
    let mut first = Some(head.clone());
    loop {
        let last = *finished.borrow();
        let mut grown = false;
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if skip.contains(&name.as_str()) || !entry.file_type()?.is_file() {
                continue;
            }
            let growing = match files.entry(path.clone()) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Growing { file: File::open(&path)?, sent: 0, hash: Hasher::new() }),
            };
            loop {
                let read = growing.file.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                grown = true;
                growing.hash.update(&buffer[..read]);
                growing.sent += read as u64;
                total.bytes += read as u64;
                count(read as u64);
                let mut chunk = first.take().unwrap_or_default();
                chunk.path.clone_from(&name);
                chunk.data = buffer[..read].to_vec();
                out.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe)?;
            }
        }
        if last {
            break;
        }
        if !grown {
            std::thread::sleep(REST);
        }
    }
    let mut whole = Hasher::new();
    for (path, growing) in files {
        let digest = growing.hash.finalize();
        whole.update(digest.as_bytes());
        total.files += 1;
        let mut chunk = first.take().unwrap_or_default();
        chunk.path = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        chunk.end = true;
        chunk.digest = digest.as_bytes().to_vec();
        chunk.length = growing.sent;
        out.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe)?;
    }
    total.digest = whole.finalize().as_bytes().to_vec();
    Ok(total)
}

/// The head of a stream.
#[must_use]
pub fn head(migration: &Migration, container: &str, kind: &str) -> FileChunk {
    FileChunk { migration: Some(migration.clone()), container: container.to_owned(), kind: kind.to_owned(), ..FileChunk::default() }
}
