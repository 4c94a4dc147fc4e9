//! `index.json`: what is in a checkpoint, with the length and blake3 of every file. Whoever has the blake3 of the index can tell whether anything was changed.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path, PathBuf},
};

use godwit_node::volumes::Removal;
use serde::{Deserialize, Serialize};

use super::passage::{Passage, Passed};

/// Name of the file.
pub const FILE: &str = "index.json";
/// Version of its format.
pub const FORMAT: u32 = 1;
/// Read and written at once, in bytes.
const PIECE: usize = 1 << 20;

/// See the module.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Index {
    /// [`FORMAT`].
    pub format: u32,
    /// UID of the PodCheckpoint.
    pub uid: String,
    /// Addresses of the pod.
    pub ips: Vec<String>,
    /// Host name of the pod.
    pub hostname: String,
    /// Its containers.
    pub containers: Vec<Container>,
    /// Its directories; number n is in `files/n.tar`, and what had changed in the freeze in `files/n.changes.tar`.
    pub directories: Vec<Directory>,
    /// Milliseconds for which the pod stood still.
    pub freeze_ms: u32,
    /// Every other file, by its path below the checkpoint.
    pub files: BTreeMap<String, Stored>,
}

/// A container.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// What fds 0, 1, 2 of its init process are.
    pub descriptors: Vec<String>,
    /// What the new container must provide: `godwit_criu::mounts::External`.
    pub externals: serde_json::Value,
    /// What it consisted of: `godwit_node::process::Shape`.
    pub shape: serde_json::Value,
    /// Its processes.
    pub processes: u32,
    /// Their resident memory in bytes.
    pub resident: u64,
    /// What the container runtime must know that is to make it by itself: `crate::import::archived::Archived`. Then the images name the network namespace as runtimes do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<serde_json::Value>,
}

/// A directory of the pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Directory {
    /// `rootfs`, `empty-dir/<name>` or `shm`.
    pub kind: String,
    /// The container, for a root filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What of the image is to be removed before the first archive is unpacked.
    pub removed: Vec<Removal>,
    /// What is to be removed before the second is.
    pub removed_later: Vec<Removal>,
}

/// A file as it is stored.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// Its length in bytes.
    pub length: u64,
    /// Its blake3, in hexadecimal.
    pub digest: String,
}

impl Index {
    /// Bytes of everything in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.length).sum()
    }

    /// Bytes below a folder, which ends with `/`.
    #[must_use]
    pub fn bytes_below(&self, folder: &str) -> u64 {
        self.files.iter().filter(|(path, _)| path.starts_with(folder)).map(|(_, file)| file.length).sum()
    }
}

/// The folder of a container's images, below a checkpoint.
#[must_use]
pub fn images_of(container: &str) -> String {
    format!("{container}/images/")
}

/// The first archive of a directory.
#[must_use]
pub fn archive(number: usize) -> String {
    format!("files/{number}.tar")
}

/// The second archive of a directory.
#[must_use]
pub fn changes(number: usize) -> String {
    format!("files/{number}.changes.tar")
}

/// A path of an index below a directory.
///
/// # Errors
/// When it would lead elsewhere.
pub fn below(directory: &Path, path: &str) -> io::Result<PathBuf> {
    let relative = Path::new(path);
    let plain = !path.is_empty() && relative.components().all(|component| matches!(component, Component::Normal(_)));
    plain.then(|| directory.join(relative)).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path:?} is no path below the checkpoint")))
}

/// Copies a file to a new one that nobody else can read, and takes its length and digest on the way. It is on disk when this returns.
///
/// # Errors
/// When one cannot be read or written, the new one is there already, or it is not what it was.
pub fn copy(source: &Path, target: &Path, mut passage: Passage) -> io::Result<Passed> {
    if let Some(directory) = target.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut source = OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(source)?;
    let mut target = private(target)?;
    let (mut buffer, mut out) = (vec![0u8; PIECE], Vec::new());
    loop {
        let read = source.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        target.write_all(passage.take(&buffer[..read], &mut out)?)?;
    }
    let passed = passage.end(&mut out)?;
    target.write_all(&out)?;
    target.sync_all()?;
    Ok(passed)
}

/// A new file that only root can read.
///
/// # Errors
/// When it is there already, or cannot be made.
pub fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::checkpoint::cipher::Vault;

    fn plain() -> Passage {
        Passage::out_of_store(None, "")
    }

    #[test]
    fn copies_are_private_fresh_and_measured() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("a"), folder.path().join("x/b"));
        fs::write(&source, b"memory").unwrap();
        let stored = copy(&source, &target, plain()).unwrap().came;
        assert_eq!((stored.length, stored.digest.as_str()), (6, blake3::hash(b"memory").to_hex().as_str()));
        assert_eq!(fs::read(&target).unwrap(), b"memory");
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(copy(&source, &target, plain()).is_err(), "never over a file that is there");
        std::os::unix::fs::symlink(&source, folder.path().join("link")).unwrap();
        assert!(copy(&folder.path().join("link"), &folder.path().join("c"), plain()).is_err(), "never through a link");
    }

    #[test]
    fn what_is_encrypted_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let (source, stored, back) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        let memory = b"memory of a process ".repeat(200_000);
        fs::write(&source, &memory).unwrap();
        let vault = Vault::new(godwit_rpc::Key::parse(&[3; 32]).unwrap(), "u");
        let went = copy(&source, &stored, Passage::into_store(Some(&vault), "files/0.tar").unwrap()).unwrap();
        assert_eq!(went.came, Stored { length: memory.len() as u64, digest: blake3::hash(&memory).to_hex().to_string() });
        assert_eq!(went.went.length, fs::metadata(&stored).unwrap().len());
        let came = copy(&stored, &back, Passage::out_of_store(Some(&vault), "files/0.tar")).unwrap();
        assert!((came.came, came.went) == (went.went, went.came) && fs::read(&back).unwrap() == memory);
        let error = copy(&stored, &folder.path().join("d"), Passage::out_of_store(Some(&vault), "files/1.tar")).unwrap_err();
        assert!(error.to_string().contains("belongs elsewhere"), "{error}");
    }

    #[test]
    fn paths_stay_below() {
        let folder = Path::new("/store/c");
        assert_eq!(below(folder, "web/images/core-1.img").unwrap(), folder.join("web/images/core-1.img"));
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "."] {
            assert!(below(folder, bad).is_err(), "{bad}");
        }
    }
}
