//! What is in a directory, without the contents: enough to tell later what has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Directory, Kind};

/// What an entry is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum Type {
    /// Regular file.
    File,
    /// Directory.
    Directory {
        /// Of an overlay: it hides the directory of the lower layers (`trusted.overlay.opaque`).
        opaque: bool,
        /// Of an overlay: it was moved, its contents lie partly in the lower layers elsewhere (`trusted.overlay.redirect`).
        moved: bool,
    },
    /// Symbolic link.
    Link,
    /// Named pipe.
    Fifo,
    /// Socket in the filesystem; CRIU makes it anew, it does not travel.
    Socket,
    /// Character or block device.
    Device,
    /// Of an overlay: the name is gone (a character device 0:0).
    Whiteout,
}

/// One entry. Times are nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Type,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Bytes on disk.
    pub allocated: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u64,
    /// Last change of the contents.
    pub mtime_ns: i128,
    /// Last change of contents or attributes.
    pub ctime_ns: i128,
}

/// Everything in a directory, by its relative path; the directory itself is the empty path.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Index {
    pub(super) entries: BTreeMap<PathBuf, Entry>,
    /// When reading began, nanoseconds since the epoch.
    pub(super) started_ns: i128,
    /// Files that are mapped shared by a process: their times say nothing.
    pub(super) mapped: BTreeSet<PathBuf>,
    /// On a filesystem whose files change through mappings without a trace.
    pub(super) memory: bool,
    /// Of an overlay's upper directory.
    pub(super) overlay: bool,
}

impl Index {
    /// Of a directory in which nothing is.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads a directory. `mapped` are the files of it that processes have mapped shared ([`mapped`](super::mapped)). What vanishes meanwhile is left out.
    ///
    /// # Errors
    /// The directory, or one below, cannot be read.
    pub fn read(directory: &Directory, mapped: BTreeSet<PathBuf>) -> io::Result<Self> {
        let started_ns = SystemTime::now().duration_since(UNIX_EPOCH).map(|since| i128::try_from(since.as_nanos()).unwrap_or_default()).unwrap_or_default();
        let overlay = directory.kind == Kind::Rootfs && directory.index != directory.data;
        let mut index = Self { entries: BTreeMap::new(), started_ns, mapped, memory: directory.memory, overlay };
        index.walk(&directory.index, Path::new(""), overlay.then_some(directory.data.as_path()))?;
        Ok(index)
    }

    /// Bytes of the regular files, at most what is allocated for them (holes do not travel).
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.values().filter(|entry| entry.kind == Type::File).map(|entry| entry.size.min(entry.allocated)).sum()
    }

    /// Entries, the directory itself included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing, not even the directory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// `merged` is given while the entries are those of an overlay's upper directory.
    fn walk(&mut self, directory: &Path, relative: &Path, merged: Option<&Path>) -> io::Result<()> {
        let path = directory.join(relative);
        let Some(meta) = present(fs::symlink_metadata(&path))? else { return Ok(()) };
        let entry = Entry::of(&path, &meta, merged.is_some());
        self.entries.insert(relative.to_owned(), entry);
        let Type::Directory { moved, .. } = entry.kind else { return Ok(()) };
        // A moved directory's upper part is incomplete: the whole of it is seen only through the merged mount.
        let (directory, merged) = match merged {
            Some(merged) if moved => (merged, None),
            _ => (directory, merged),
        };
        let Some(names) = present(fs::read_dir(directory.join(relative)))? else { return Ok(()) };
        for name in names {
            let Some(name) = present(name)? else { continue };
            self.walk(directory, &relative.join(name.file_name()), merged)?;
        }
        Ok(())
    }
}

impl Entry {
    fn of(path: &Path, meta: &Metadata, overlay: bool) -> Self {
        let kind = meta.file_type();
        let time = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        let kind = if kind.is_dir() {
            let marks = |name: &str, value: fn(&[u8]) -> bool| overlay && mark(path, name).is_some_and(|bytes| value(&bytes));
            Type::Directory { opaque: marks("opaque", |bytes| bytes == b"y"), moved: marks("redirect", |_| true) }
        } else if kind.is_symlink() {
            Type::Link
        } else if kind.is_fifo() {
            Type::Fifo
        } else if kind.is_socket() {
            Type::Socket
        } else if kind.is_char_device() && meta.rdev() == 0 && overlay {
            Type::Whiteout
        } else if kind.is_char_device() || kind.is_block_device() {
            Type::Device
        } else {
            Type::File
        };
        Self {
            kind,
            ino: meta.ino(),
            size: meta.size(),
            allocated: meta.blocks().saturating_mul(512),
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            rdev: meta.rdev(),
            mtime_ns: time(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: time(meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// An extended attribute of overlayfs, of either of its two namespaces (Documentation/filesystems/overlayfs.rst).
fn mark(path: &Path, name: &str) -> Option<Vec<u8>> {
    ["trusted", "user"].iter().find_map(|namespace| {
        let mut value = [0; 256];
        let length = rustix::fs::lgetxattr(path, format!("{namespace}.overlay.{name}"), value.as_mut_slice()).ok()?;
        value.get(..length).map(<[u8]>::to_vec)
    })
}

/// What vanished while the directory was read is no error.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
