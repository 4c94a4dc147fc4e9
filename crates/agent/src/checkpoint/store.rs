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

use super::{
    cipher::{self, Vault},
    index::{self, FORMAT, Index},
    key_missing, key_wrong,
    passage::Passage,
};
use crate::failure::{failure, internal};

/// What must stay free beside a checkpoint, in bytes.
const SPARE: u64 = 64 << 20;
/// An index is not longer than this, in bytes.
pub const LONGEST: u64 = 64 << 20;

/// The store of this node.
#[derive(Clone, Debug)]
pub struct Store {
    /// As the agent opens it.
    root: PathBuf,
    /// As the node names it.
    name: PathBuf,
    /// What to do when it is full.
    remedy: &'static str,
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
        Ok(Self {
            root,
            name: name.to_owned(),
            remedy: "delete checkpoints that are not needed any more (kubectl migrate checkpoints), or enlarge the file system",
        })
    }

    /// A folder on this node's disk for one checkpoint on its way to or from elsewhere.
    #[must_use]
    pub fn spool(root: PathBuf, name: PathBuf) -> Self {
        Self { root, name, remedy: "free space on this node's disk, or choose another node: what goes to a registry or comes from there is on disk meanwhile" }
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
                self.remedy,
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
    /// `CheckpointDamaged` when it cannot be read or understood, `CheckpointKeyMissing` or `CheckpointKeyWrong` when it is encrypted.
    pub fn index(&self, checkpoint: &Checkpoint, vault: Option<&Vault>) -> Result<Option<(Index, String)>, Failure> {
        let Some(stored) = self.read(checkpoint)? else { return Ok(None) };
        Ok(Some((understand(checkpoint, &stored, vault)?, digest(&stored))))
    }

    fn read(&self, checkpoint: &Checkpoint) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.place(checkpoint).join(index::FILE);
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(damaged(checkpoint, format!("its index cannot be read: {error}"))),
            Ok(meta) if meta.len() > LONGEST => Err(damaged(checkpoint, "its index is too long")),
            Ok(_) => fs::read(&path).map(Some).map_err(|error| damaged(checkpoint, format!("its index cannot be read: {error}"))),
        }
    }

    /// The index of a checkpoint whose digest is known.
    ///
    /// # Errors
    /// `CheckpointMissing` when it is not there, `CheckpointDamaged` when it is another one, `CheckpointKeyMissing` or `CheckpointKeyWrong` when it is encrypted.
    pub fn proven(&self, checkpoint: &Checkpoint, proof: &str, vault: Option<&Vault>) -> Result<Index, Failure> {
        match self.read(checkpoint)? {
            None => Err(failure(
                "CheckpointMissing",
                format!("checkpoint {} is not in {} on this node", checkpoint.name, self.name.display()),
                "see that the same file system is mounted there on every node; if it was deleted by hand, delete the PodCheckpoint too",
            )),
            Some(stored) if digest(&stored) != proof => Err(damaged(checkpoint, "its index was changed after it was made")),
            Some(stored) => understand(checkpoint, &stored, vault),
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
    pub fn finish(mut self, index: &Index, vault: Option<&Vault>) -> io::Result<String> {
        let (mut text, mut end) = (Vec::new(), Vec::new());
        let mut passage = Passage::into_store(vault, index::FILE)?;
        let text = [passage.take(&serde_json::to_vec_pretty(index)?, &mut text)?.to_vec(), {
            passage.end(&mut end)?;
            end
        }]
        .concat();
        let mut file = index::private(&self.path.join(index::FILE))?;
        file.write_all(&text)?;
        file.sync_all()?;
        sync_tree(&self.path)?;
        fs::rename(&self.path, &self.whole)?;
        self.finished = true;
        if let Some(parent) = self.whole.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
        Ok(digest(&text))
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

fn digest(stored: &[u8]) -> String {
    blake3::hash(stored).to_hex().to_string()
}

/// The index in what is stored of it.
fn understand(checkpoint: &Checkpoint, stored: &[u8], vault: Option<&Vault>) -> Result<Index, Failure> {
    let mut text = Vec::new();
    if let Some(vault) = vault {
        let mut opener = vault.open(index::FILE);
        let opened = opener.push(stored, &mut text).and_then(|()| opener.finish(&mut text));
        opened.map_err(|error| match error {
            cipher::Error::OtherKey(id) => key_wrong(checkpoint, &id),
            error => damaged(checkpoint, format!("its index: {error}")),
        })?;
    } else if cipher::is_sealed(stored) {
        return Err(key_missing(checkpoint));
    }
    let text = if vault.is_some() { text.as_slice() } else { stored };
    let index: Index = serde_json::from_slice(text).map_err(|error| damaged(checkpoint, format!("its index cannot be understood: {error}")))?;
    if index.format != FORMAT || index.uid != checkpoint.uid {
        return Err(damaged(checkpoint, "its index is of another checkpoint or format"));
    }
    Ok(index)
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

/// Removes a folder, if it is there.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
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
        assert_eq!(store.index(&checkpoint, None).unwrap(), None);
        drop(part);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left of one that was given up");
        let digest = store.begin(&checkpoint).unwrap().finish(&index(), None).unwrap();
        assert_eq!(store.proven(&checkpoint, &digest, None).unwrap(), index());
        assert_eq!(fs::metadata(store.place(&checkpoint)).unwrap().permissions().mode() & 0o777, 0o700);
        store.remove(&checkpoint).unwrap();
        store.remove(&checkpoint).unwrap();
        assert_eq!(store.proven(&checkpoint, &digest, None).unwrap_err().reason, "CheckpointMissing");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_changed_index_is_refused() {
        let (_folder, store, checkpoint) = store();
        let digest = store.begin(&checkpoint).unwrap().finish(&index(), None).unwrap();
        let file = store.place(&checkpoint).join(index::FILE);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{text} ")).unwrap();
        assert_eq!(store.proven(&checkpoint, &digest, None).unwrap_err().reason, "CheckpointDamaged");
        let other = Checkpoint { uid: "u2".into(), ..checkpoint };
        fs::create_dir_all(store.place(&other)).unwrap();
        fs::write(store.place(&other).join(index::FILE), text).unwrap();
        assert_eq!(store.proven(&other, &digest, None).unwrap_err().reason, "CheckpointDamaged", "another one's index, whole as it is");
    }

    #[test]
    fn an_encrypted_one_wants_its_key() {
        let (_folder, store, checkpoint) = store();
        let vault = |key: u8, uid: &str| Vault::new(godwit_rpc::Key::parse(&[key; 32]).unwrap(), uid);
        let own = vault(1, "u1");
        let digest = store.begin(&checkpoint).unwrap().finish(&Index { hostname: "secretive".into(), ..index() }, Some(&own)).unwrap();
        assert_eq!(store.proven(&checkpoint, &digest, Some(&own)).unwrap().hostname, "secretive");
        assert_eq!(store.index(&checkpoint, Some(&own)).unwrap().unwrap().1, digest);
        let reason = |vault: Option<&Vault>| store.proven(&checkpoint, &digest, vault).unwrap_err().reason;
        assert_eq!(reason(None), "CheckpointKeyMissing");
        assert_eq!(reason(Some(&vault(2, "u1"))), "CheckpointKeyWrong");
        assert_eq!(reason(Some(&vault(1, "u2"))), "CheckpointDamaged");
        let file = store.place(&checkpoint).join(index::FILE);
        let text = fs::read(&file).unwrap();
        assert!(!text.windows(9).any(|window| window == b"secretive"));
        // Somebody puts a plain one in its place.
        fs::write(&file, serde_json::to_vec(&index()).unwrap()).unwrap();
        assert_eq!(store.index(&checkpoint, Some(&own)).unwrap_err().reason, "CheckpointDamaged");
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
