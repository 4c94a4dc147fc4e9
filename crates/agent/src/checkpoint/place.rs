//! Where a checkpoint is kept: in the directory that every node mounts, or in a repository of a registry. What goes to a repository or comes from there passes through a
//! folder of its own on this node's disk, in the shape of the directory.
//!
//! ```text
//!   shared://            <directory>/<namespace>/<name>-<uid>/
//!   oci://<repository>   /var/lib/godwit/spool/<id>/<namespace>/<name>-<uid>/  ⇄  <repository>:<name>-<uid>      the folder goes with the `Place`
//! ```

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use godwit_api::checkpoint::OCI;
use godwit_node::host::Host;
use godwit_rpc::{
    Login,
    v1::{self, Checkpoint, Failure},
};

use super::{
    cipher::Vault,
    index::Index,
    repository::{self, Repository},
    store::{self, Store},
};
use crate::{failure::internal, node::Node};

/// Folder of what is on its way to or from a repository, as the node names it.
const SPOOL: &str = "/var/lib/godwit/spool";

/// Which store, and who logs in there.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    /// `shared://` or nothing, or `oci://…`.
    store: String,
    login: Option<Login>,
}

impl Shelf {
    /// As it was received.
    #[must_use]
    pub fn received(message: Option<v1::Shelf>) -> Self {
        message.map(|shelf| Self { store: shelf.store, login: shelf.login.map(Login::received) }).unwrap_or_default()
    }
}

/// See the module.
pub struct Place {
    /// The directory, or the folder on this node's disk.
    pub store: Store,
    repository: Option<Repository>,
    /// Dropped at last.
    _spool: Option<Spool>,
}

impl Place {
    /// The place that is named. `id` names the folder, for one that needs it: nobody else has it.
    ///
    /// # Errors
    /// `CheckpointsOff` or `StoreMissing` for the directory, `StoreNotAllowed` for a repository.
    pub fn open(node: &Node, shelf: &Shelf, id: &str) -> Result<Self, Failure> {
        let Some(name) = shelf.store.strip_prefix(OCI) else {
            return Ok(Self { store: Store::open(&node.host, node.checkpoints.as_deref())?, repository: None, _spool: None });
        };
        let repository = Repository::open(&node.registries, &node.host, name, shelf.login.as_ref())?;
        let (name, spool) = (Path::new(SPOOL).join(id), Spool(node.host.path(SPOOL).join(id)));
        spool.make().map_err(|error| internal(&format!("{} cannot be made on this node", name.display()), error))?;
        Ok(Self { store: Store::spool(spool.0.clone(), name), repository: Some(repository), _spool: Some(spool) })
    }

    /// Whether it is in a registry.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.repository.is_some()
    }

    /// What names a checkpoint behind the store.
    #[must_use]
    pub fn path(&self, checkpoint: &Checkpoint) -> String {
        match &self.repository {
            None => Store::path(checkpoint),
            Some(_) => format!(":{}", repository::tag(checkpoint)),
        }
    }

    /// The index of a checkpoint, if it is there, with its digest. For a repository this proves that it can be written to, too.
    ///
    /// # Errors
    /// `CheckpointDamaged` when it cannot be read or understood, `CheckpointKeyMissing` or `CheckpointKeyWrong` when it is encrypted, `StoreUnreachable` or `StoreDenied`.
    pub async fn known(&self, checkpoint: &Checkpoint, vault: Option<&Vault>) -> Result<Option<(Index, String)>, Failure> {
        if let Some(repository) = &self.repository {
            repository.try_writing(checkpoint).await?;
            let folder = self.store.place(checkpoint);
            let there = repository.index(checkpoint, &folder).await?;
            let index = if there.is_some() { self.store.index(checkpoint, vault)? } else { None };
            store::remove(&folder).map_err(|error| internal("what came from the registry cannot be removed", error))?;
            return Ok(index);
        }
        self.store.index(checkpoint, vault)
    }

    /// What was finished in the store is kept when this returns.
    ///
    /// # Errors
    /// `StoreUnreachable` or `StoreDenied`; nothing that has a name is in the repository then.
    pub async fn keep(&self, checkpoint: &Checkpoint, index: &Index) -> Result<(), Failure> {
        match &self.repository {
            None => Ok(()),
            Some(repository) => repository.push(checkpoint, index, &self.store.place(checkpoint)).await,
        }
    }

    /// The index of a checkpoint whose digest is known; all that it names is in the store when this returns, and may not be what it was.
    ///
    /// # Errors
    /// As [`Store::proven`]; `StoreUnreachable`, `StoreDenied` or `StoreFull`.
    pub async fn fetch(&self, checkpoint: &Checkpoint, digest: &str, vault: Option<&Vault>) -> Result<Index, Failure> {
        let Some(repository) = &self.repository else { return self.store.proven(checkpoint, digest, vault) };
        let folder = self.store.place(checkpoint);
        let manifest = repository.index(checkpoint, &folder).await?.ok_or_else(|| repository.missing(checkpoint))?;
        let index = self.store.proven(checkpoint, digest, vault)?;
        self.store.room(index.bytes())?;
        repository.pull(checkpoint, &manifest, &index, &folder).await?;
        Ok(index)
    }

    /// Deletes what there is of a checkpoint. Says why something of it stays, if the registry wants it so.
    ///
    /// # Errors
    /// When it may be tried again.
    pub async fn remove(&self, checkpoint: &Checkpoint) -> Result<Option<String>, String> {
        match &self.repository {
            Some(repository) => repository.remove(checkpoint).await,
            None => {
                let (store, checkpoint) = (self.store.clone(), checkpoint.clone());
                let removed = tokio::task::spawn_blocking(move || store.remove(&checkpoint));
                removed.await.map_err(|error| error.to_string())?.map(|()| None).map_err(|error| error.to_string())
            }
        }
    }
}

/// Removes what an agent before this one was about to send or use.
///
/// # Errors
/// When it cannot be removed.
pub fn sweep(host: &Host) -> io::Result<()> {
    store::remove(&host.path(SPOOL))
}

/// A folder on this node's disk that goes with its owner.
struct Spool(PathBuf);

impl Spool {
    fn make(&self) -> io::Result<()> {
        store::remove(&self.0)?;
        let make = || fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        // Another one's end may take the folder of all away in between.
        make().or_else(|_| make())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = store::remove(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "what was on its way to or from a registry cannot be removed; the next start of the agent tries again");
        }
        // The folder of all, if this was the last one.
        let _ = self.0.parent().map(fs::remove_dir);
    }
}
