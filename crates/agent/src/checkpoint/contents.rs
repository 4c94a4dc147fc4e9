//! What a checkpoint holds, on its way out of the store: images to where CRIU reads them, files into the directories of the new containers; each against its digest.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use godwit_criu::images;
use godwit_node::volumes::{self, Directory};
use godwit_rpc::v1::{Checkpoint, Failure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    cipher::Vault,
    index::{self, Index, Stored},
    passage::Passage,
    store::damaged,
};
use crate::{
    convert,
    failure::{failure, internal},
};

/// Read from the store at once, in bytes.
const PIECE: usize = 1 << 20;

/// See the module.
pub struct Contents {
    /// Of what.
    pub checkpoint: Checkpoint,
    /// What it says of itself; whoever made this has compared its digest.
    pub index: Index,
    /// What it is encrypted with.
    pub vault: Option<Vault>,
    /// Its folder in the store.
    pub place: PathBuf,
}

/// Which images. A CRIU that the runtime has started waits for a pipe in the place of its inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Images {
    /// Of each container the inventory.
    Inventory,
    /// All others.
    Most,
}

impl Contents {
    /// Copies images to where CRIU reads them, each against its digest. What the index does not name is left.
    ///
    /// # Errors
    /// `CheckpointDamaged`, `NoRoomForImages`.
    pub async fn bring_images(self: &Arc<Self>, to: &Path, which: Images) -> Result<(), Failure> {
        let (own, to) = (self.clone(), to.to_path_buf());
        tokio::task::spawn_blocking(move || own.copy_images(&to, which)).await.map_err(|error| internal("the images", error))?
    }

    fn copy_images(&self, to: &Path, which: Images) -> Result<(), Failure> {
        let Self { checkpoint, index, vault, place } = self;
        if which == Images::Most {
            self.room(to.parent().unwrap_or(to))?;
        }
        for container in &index.containers {
            let folder = index::images_of(&container.name);
            for (path, stored) in index.files.iter().filter(|(path, _)| path.starts_with(&folder)) {
                let name = &path[folder.len()..];
                if (name == images::INVENTORY) != (which == Images::Inventory) {
                    continue;
                }
                let source = index::below(place, path).map_err(|error| damaged(checkpoint, error))?;
                let target = index::below(&to.join(&container.name), name).map_err(|error| damaged(checkpoint, error))?;
                let passage = Passage::out_of_store(vault.as_ref(), path);
                let found = index::copy(&source, &target, passage).map_err(|error| damaged(checkpoint, format!("{path} cannot be read: {error}")))?;
                if found.came != *stored {
                    return Err(damaged(checkpoint, format!("{path} was changed after it was made")));
                }
            }
        }
        Ok(())
    }

    /// Room for all images, which are in memory.
    fn room(&self, folder: &Path) -> Result<(), Failure> {
        let need = self.index.containers.iter().map(|container| self.index.bytes_below(&index::images_of(&container.name))).sum::<u64>();
        let stat = rustix::fs::statvfs(folder).map_err(|error| internal("cannot look at /run", error))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= need {
            return Ok(());
        }
        Err(failure(
            "NoRoomForImages",
            format!("the images need {} MiB on this node's /run, which has {} MiB free", need >> 20, free >> 20),
            "choose a node with more memory, or enlarge the tmpfs at /run",
        ))
    }

    /// Has a directory be as the one with this number in the index was: what had been removed of its image goes, and what is archived comes.
    ///
    /// # Errors
    /// `CheckpointDamaged`, or what cannot be done in the directory. There may be some of it then.
    pub async fn bring_files(&self, number: usize, directory: &Directory) -> Result<(), Failure> {
        let described = &self.index.directories[number];
        for (removed, name) in [(&described.removed, index::archive(number)), (&described.removed_later, index::changes(number))] {
            let (removing, removed) = (directory.clone(), removed.clone());
            tokio::task::spawn_blocking(move || volumes::apply_removals(&removing, &removed))
                .await
                .map_err(|error| internal("cannot remove files", error))?
                .map_err(|error| convert::finding(error.finding()))?;
            if let Some(stored) = self.index.files.get(&name) {
                self.unpack(directory, &name, stored).await?;
            }
        }
        Ok(())
    }

    /// Unpacks an archive into a directory and compares what was read with its digest. Nothing has run when it was another one.
    async fn unpack(&self, directory: &Directory, name: &str, stored: &Stored) -> Result<(), Failure> {
        let unreadable = |error: std::io::Error| damaged(&self.checkpoint, format!("{name} cannot be read: {error}"));
        let mut file = tokio::fs::File::open(self.place.join(name)).await.map_err(unreadable)?;
        let mut tar = volumes::unpack(directory).map_err(|error| internal("cannot start tar", error))?;
        let mut stdin = tar.stdin.take().ok_or_else(|| internal("tar", "no input"))?;
        let mut passage = Passage::out_of_store(self.vault.as_ref(), name);
        let (mut buffer, mut out) = (vec![0u8; PIECE], Vec::new());
        let mut takes = true;
        loop {
            let read = file.read(&mut buffer).await.map_err(unreadable)?;
            if read == 0 {
                break;
            }
            let piece = passage.take(&buffer[..read], &mut out).map_err(unreadable)?;
            if takes && let Err(error) = stdin.write_all(piece).await {
                tracing::debug!(%error, "tar takes no more");
                takes = false;
            }
        }
        let found = passage.end(&mut out).map_err(unreadable)?.came;
        if takes && let Err(error) = stdin.write_all(&out).await {
            tracing::debug!(%error, "tar takes no more");
        }
        drop(stdin);
        if found != *stored {
            return Err(damaged(&self.checkpoint, format!("{name} was changed after it was made")));
        }
        tar.finish().await.map_err(|error| convert::finding(error.finding()))
    }
}

/// Removes what an earlier attempt has left where images come.
///
/// # Errors
/// When it stays.
pub fn clear(images: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(images) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(internal("old images cannot be removed", error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn index(files: &[(&str, &[u8])]) -> Index {
        let stored = |content: &[u8]| Stored { length: content.len() as u64, digest: blake3::hash(content).to_hex().to_string() };
        Index {
            containers: vec![index::Container { name: "web".into(), ..index::Container::default() }],
            files: files.iter().map(|(path, content)| ((*path).to_owned(), stored(content))).collect(),
            ..Index::default()
        }
    }

    /// As a restore begins.
    fn bring(index: &Index, vault: Option<&Vault>, from: &Path, to: &Path) -> Result<(), Failure> {
        let checkpoint = Checkpoint { uid: "u".into(), namespace: "n".into(), name: "c".into() };
        let contents = Contents { checkpoint, index: index.clone(), vault: vault.cloned(), place: from.to_path_buf() };
        clear(to)?;
        contents.copy_images(to, Images::Most)?;
        contents.copy_images(to, Images::Inventory)
    }

    #[test]
    fn only_images_with_their_digest_come() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("store"), folder.path().join("run/u"));
        std::fs::create_dir_all(from.join("web/images")).unwrap();
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(from.join("web/images/core-1.img"), b"core").unwrap();
        std::fs::write(from.join("web/images/stranger.img"), b"x").unwrap();
        let index = index(&[("web/images/core-1.img", b"core"), ("files/0.tar", b"tar")]);
        bring(&index, None, &from, &to).unwrap();
        assert_eq!(std::fs::read(to.join("web/core-1.img")).unwrap(), b"core");
        assert!(!to.join("web/stranger.img").exists());
        std::fs::write(from.join("web/images/core-1.img"), b"cord").unwrap();
        assert_eq!(bring(&index, None, &from, &to).unwrap_err().reason, "CheckpointDamaged");
        std::fs::remove_file(from.join("web/images/core-1.img")).unwrap();
        assert_eq!(bring(&index, None, &from, &to).unwrap_err().reason, "CheckpointDamaged");
    }

    #[test]
    fn encrypted_images_come_only_with_their_key_and_to_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("store"), folder.path().join("run/u"));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let vault = |key: u8| Vault::new(godwit_rpc::Key::parse(&[key; 32]).unwrap(), "u");
        let (own, plain) = (vault(1), folder.path().join("plain"));
        std::fs::write(&plain, b"core").unwrap();
        let put = |path: &str| index::copy(&plain, &from.join(path), Passage::into_store(Some(&own), path).unwrap()).unwrap().went;
        let mut index = index(&[]);
        for path in ["web/images/core-1.img", "web/images/core-2.img"] {
            index.files.insert(path.into(), put(path));
        }
        bring(&index, Some(&own), &from, &to).unwrap();
        assert_eq!(std::fs::read(to.join("web/core-1.img")).unwrap(), b"core");
        assert_eq!(bring(&index, Some(&vault(2)), &from, &to).unwrap_err().reason, "CheckpointDamaged");
        // Two files change places, and somebody who can make digests has the index say so.
        let (one, two) = (from.join("web/images/core-1.img"), from.join("web/images/core-2.img"));
        let (first, second) = (std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        std::fs::write(&one, second).unwrap();
        std::fs::write(&two, first).unwrap();
        let swapped = [&index.files["web/images/core-2.img"], &index.files["web/images/core-1.img"]].map(Clone::clone);
        index.files = ["web/images/core-1.img", "web/images/core-2.img"].map(String::from).into_iter().zip(swapped).collect();
        assert_eq!(bring(&index, Some(&own), &from, &to).unwrap_err().reason, "CheckpointDamaged");
    }
}
