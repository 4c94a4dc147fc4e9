//! The store: a directory that every node mounts. A checkpoint appears in it whole, by a rename, or not at all.
//!
//! ```text
//!   <store>/<namespace>/.<name>-<uid>.part/  ──rename──▶  <store>/<namespace>/<name>-<uid>/
//! ```

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use godwit_node::host::Host;
use godwit_rpc::v1::{Checkpoint, Failure};

use super::index::{self, FORMAT, Index};
use crate::failure::{failure, internal};

/// What must stay free beside a checkpoint, in bytes.
const SPARE: u64 = 64 << 20;
/// An index is not longer than this, in bytes.
const LONGEST: u64 = 64 << 20;

/// The store of this node.
#[derive(Clone, Debug)]
pub struct Store {
    /// As the agent opens it.
    root: PathBuf,
    /// As the node names it.
    name: PathBuf,
}

/// A checkpoint that is being written. Dropped before it is finished, it is removed.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    whole: PathBuf,
    finished: bool,
}

impl Store {
    /// The store that the installation names.
    ///
    /// # Errors
    /// `CheckpointsOff` when it names none, `StoreMissing` when the directory is not there.
    pub fn open(host: &Host, directory: Option<&Path>) -> Result<Self, Failure> {
        let Some(name) = directory else {
            return Err(failure(
                "CheckpointsOff",
                "this installation has no place for checkpoints",
                "set the chart's value checkpoints.directory to a directory that every node mounts, then upgrade the release",
            ));
        };
        let root = host.path(name);
        if !root.is_dir() {
            return Err(failure(
                "StoreMissing",
                format!("this node has no directory {}", name.display()),
                "mount the shared file system there, on every node; Godwit does not make the directory, so that nothing is written beside a mount that is missing",
            ));
        }
        Ok(Self { root, name: name.to_owned() })
    }

    /// Path of a checkpoint below the store.
    #[must_use]
    pub fn path(checkpoint: &Checkpoint) -> String {
        format!("{}/{}-{}", checkpoint.namespace, checkpoint.name, checkpoint.uid)
    }

    /// Where a checkpoint lies, as the agent opens it.
    #[must_use]
    pub fn place(&self, checkpoint: &Checkpoint) -> PathBuf {
        self.root.join(Self::path(checkpoint))
    }

    fn part(&self, checkpoint: &Checkpoint) -> PathBuf {
        self.root.join(&checkpoint.namespace).join(format!(".{}-{}.part", checkpoint.name, checkpoint.uid))
    }

    /// Whether so many bytes have room.
    ///
    /// # Errors
    /// `StoreFull`.
    pub fn room(&self, bytes: u64) -> Result<(), Failure> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|error| self.unusable(&error.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < bytes.saturating_add(SPARE) {
            return Err(failure(
                "StoreFull",
                format!("the checkpoint needs {} MiB in {}, which has {} MiB free", bytes.saturating_add(SPARE) >> 20, self.name.display(), free >> 20),
                "delete checkpoints that are not needed any more (kubectl migrate checkpoints), or enlarge the file system",
            ));
        }
        Ok(())
    }

    /// A place for a new checkpoint; what an attempt that was cut off has left there goes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin(&self, checkpoint: &Checkpoint) -> Result<Part, Failure> {
        let path = self.part(checkpoint);
        let make = || -> io::Result<()> {
            remove(&path)?;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
        };
        make().map_err(|error| self.unusable(&error))?;
        Ok(Part { path, whole: self.place(checkpoint), finished: false })
    }

    /// The index of a checkpoint, if it is there, with its digest.
    ///
    /// # Errors
    /// `CheckpointDamaged` when it cannot be read or understood.
    pub fn index(&self, checkpoint: &Checkpoint) -> Result<Option<(Index, String)>, Failure> {
        let path = self.place(checkpoint).join(index::FILE);
        let text = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(damaged(checkpoint, format!("its index cannot be read: {error}"))),
            Ok(meta) if meta.len() > LONGEST => return Err(damaged(checkpoint, "its index is too long")),
            Ok(_) => fs::read(&path).map_err(|error| damaged(checkpoint, format!("its index cannot be read: {error}")))?,
        };
        let index: Index = serde_json::from_slice(&text).map_err(|error| damaged(checkpoint, format!("its index cannot be understood: {error}")))?;
        if index.format != FORMAT || index.uid != checkpoint.uid {
            return Err(damaged(checkpoint, "its index is of another checkpoint or format"));
        }
        Ok(Some((index, blake3::hash(&text).to_hex().to_string())))
    }

    /// The index of a checkpoint whose digest is known.
    ///
    /// # Errors
    /// `CheckpointMissing` when it is not there, `CheckpointDamaged` when it is another one.
    pub fn proven(&self, checkpoint: &Checkpoint, digest: &str) -> Result<Index, Failure> {
        match self.index(checkpoint)? {
            None => Err(failure(
                "CheckpointMissing",
                format!("checkpoint {} is not in {} on this node", checkpoint.name, self.name.display()),
                "see that the same file system is mounted there on every node; if it was deleted by hand, delete the PodCheckpoint too",
            )),
            Some((_, found)) if found != digest => Err(damaged(checkpoint, "its index was changed after it was made")),
            Some((index, _)) => Ok(index),
        }
    }

    /// Deletes what there is of a checkpoint.
    ///
    /// # Errors
    /// When it cannot be deleted.
    pub fn remove(&self, checkpoint: &Checkpoint) -> io::Result<()> {
        remove(&self.part(checkpoint))?;
        let (whole, part) = (self.place(checkpoint), self.part(checkpoint));
        // First its name, so that nobody finds half of it.
        match fs::rename(&whole, &part) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        remove(&part)?;
        // The namespace's folder, if it is empty.
        let _ = fs::remove_dir(self.root.join(&checkpoint.namespace));
        Ok(())
    }

    fn unusable(&self, error: &io::Error) -> Failure {
        failure(
            "StoreUnusable",
            format!("{} cannot be written on this node: {error}", self.name.display()),
            "see that root may write there (no root_squash on NFS) and that it is not mounted read-only",
        )
    }
}

impl Part {
    /// Where it is written, as the agent opens it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the index and gives the checkpoint its name. Returns the digest of the index; everything is on disk then.
    ///
    /// # Errors
    /// When something cannot be written; nothing is left then.
    pub fn finish(mut self, index: &Index) -> io::Result<String> {
        let text = serde_json::to_vec_pretty(index)?;
        let mut file = index::private(&self.path.join(index::FILE))?;
        file.write_all(&text)?;
        file.sync_all()?;
        sync_tree(&self.path)?;
        fs::rename(&self.path, &self.whole)?;
        self.finished = true;
        if let Some(parent) = self.whole.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
        Ok(blake3::hash(&text).to_hex().to_string())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "what was written of a checkpoint cannot be removed");
        }
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

/// A checkpoint is not what it was.
pub fn damaged(checkpoint: &Checkpoint, what: impl std::fmt::Display) -> Failure {
    failure(
        "CheckpointDamaged",
        format!("checkpoint {} is not as it was made: {what}", checkpoint.name),
        "do not use it: delete the PodCheckpoint, and look who can write to the store",
    )
}

/// Something of a checkpoint cannot be written.
pub fn unwritten(error: &io::Error) -> Failure {
    if error.raw_os_error() == Some(nix::libc::ENOSPC) {
        return failure("StoreFull", "the file system of the store became full", "delete checkpoints that are not needed any more, or enlarge it");
    }
    internal("the checkpoint cannot be written", error)
}

fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    fs::File::open(directory)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn store() -> (tempfile::TempDir, Store, Checkpoint) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&Host::at(folder.path()), Some(Path::new("/"))).unwrap();
        (folder, store, Checkpoint { uid: "u1".into(), namespace: "shop".into(), name: "web".into() })
    }

    fn index() -> Index {
        Index { format: FORMAT, uid: "u1".into(), ..Index::default() }
    }

    #[test]
    fn it_is_there_whole_or_not_at_all() {
        let (folder, store, checkpoint) = store();
        let part = store.begin(&checkpoint).unwrap();
        fs::write(part.path().join("half"), "x").unwrap();
        assert_eq!(store.index(&checkpoint).unwrap(), None);
        drop(part);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left of one that was given up");
        let digest = store.begin(&checkpoint).unwrap().finish(&index()).unwrap();
        assert_eq!(store.proven(&checkpoint, &digest).unwrap(), index());
        assert_eq!(fs::metadata(store.place(&checkpoint)).unwrap().permissions().mode() & 0o777, 0o700);
        store.remove(&checkpoint).unwrap();
        store.remove(&checkpoint).unwrap();
        assert_eq!(store.proven(&checkpoint, &digest).unwrap_err().reason, "CheckpointMissing");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_changed_index_is_refused() {
        let (_folder, store, checkpoint) = store();
        let digest = store.begin(&checkpoint).unwrap().finish(&index()).unwrap();
        let file = store.place(&checkpoint).join(index::FILE);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{text} ")).unwrap();
        assert_eq!(store.proven(&checkpoint, &digest).unwrap_err().reason, "CheckpointDamaged");
        let other = Checkpoint { uid: "u2".into(), ..checkpoint };
        fs::create_dir_all(store.place(&other)).unwrap();
        fs::write(store.place(&other).join(index::FILE), text).unwrap();
        assert_eq!(store.proven(&other, &digest).unwrap_err().reason, "CheckpointDamaged", "another one's index, whole as it is");
    }

    #[test]
    fn no_store_no_checkpoint() {
        let host = Host::at("/");
        assert_eq!(Store::open(&host, None).unwrap_err().reason, "CheckpointsOff");
        assert_eq!(Store::open(&host, Some(Path::new("/nowhere/at/all"))).unwrap_err().reason, "StoreMissing");
        let (_folder, store, _) = store();
        assert!(store.room(1).is_ok());
        assert_eq!(store.room(u64::MAX / 2).unwrap_err().reason, "StoreFull");
    }
}
