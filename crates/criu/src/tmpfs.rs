//! What is in a small tmpfs that the runtime made: `/dev`, and `/sys/fs/cgroup` on cgroup v1.
//!
//! CRIU would save such a file system with tar and gzip inside the freeze. It holds a dozen nodes and links, so it is listed here instead and built again
//! at the target before the freeze.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, Uid, mknodat};
use serde::{Deserialize, Serialize};

use crate::Problem;

/// More than this is content, not a device directory: CRIU saves such a tmpfs itself.
const MOST_ENTRIES: usize = 256;
const MOST_BYTES: u64 = 64 * 1024;

/// A whole tmpfs.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Snapshot {
    /// Options of the file system, as the mount table has them.
    pub options: String,
    /// What is in it, parents before children.
    pub entries: Vec<Entry>,
}

/// Something in a tmpfs.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Entry {
    /// Its path from the root of the file system, without a leading slash.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What it is.
    pub what: What,
}

/// Kinds of entries. Sockets are left out: CRIU makes those that are in use.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A directory.
    Directory,
    /// A regular file and its content.
    File(Vec<u8>),
    /// A symbolic link.
    Link(String),
    /// A character device and its number.
    Character(u64),
    /// A block device and its number.
    Block(u64),
    /// A named pipe.
    Fifo,
}

impl Snapshot {
    /// Lists the tmpfs at `mountpoint` of the container whose root is `root`; `points` are all mount points of the container, below which nothing is read.
    /// `None` if it holds more than a runtime puts there.
    pub(crate) fn take(root: &Path, mountpoint: &str, options: &str, points: &BTreeSet<&str>) -> Result<Option<Self>, Problem> {
        let top = root.join(&mountpoint[1..]);
        let mut taker = Taker { top: &top, mountpoint, points, entries: Vec::new(), bytes: 0 };
        if !taker.walk("").map_err(Problem::read(&top))? {
            return Ok(None);
        }
        Ok(Some(Self { options: options.to_owned(), entries: taker.entries }))
    }

    /// Options for a new one of the same size; nothing else of what the other node said.
    pub(crate) fn options(&self) -> String {
        let wanted = |option: &&str| ["size=", "mode=", "uid=", "gid=", "nr_inodes=", "nr_blocks="].iter().any(|name| option.starts_with(name));
        self.options.split(',').filter(wanted).collect::<Vec<_>>().join(",")
    }

    /// Makes the entries in an empty directory.
    pub(crate) fn fill(&self, directory: &Path) -> io::Result<()> {
        self.entries.iter().try_for_each(|entry| entry.make(directory))
    }
}

struct Taker<'a> {
    top: &'a Path,
    mountpoint: &'a str,
    points: &'a BTreeSet<&'a str>,
    entries: Vec<Entry>,
    bytes: u64,
}

impl Taker<'_> {
    fn walk(&mut self, below: &str) -> io::Result<bool> {
        let mut names: Vec<_> = fs::read_dir(self.top.join(below))?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            let Some(name) = name.to_str() else {
                return Ok(false);
            };
            let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
            if !self.one(path)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn one(&mut self, path: String) -> io::Result<bool> {
        let full = self.top.join(&path);
        let meta = fs::symlink_metadata(&full)?;
        let covered = self.points.contains(format!("{}/{path}", self.mountpoint).as_str());
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            What::Directory
        } else if covered {
            What::File(Vec::new())
        } else if kind.is_symlink() {
            What::Link(fs::read_link(&full)?.to_string_lossy().into_owned())
        } else if kind.is_char_device() {
            What::Character(meta.rdev())
        } else if kind.is_block_device() {
            What::Block(meta.rdev())
        } else if kind.is_fifo() {
            What::Fifo
        } else if kind.is_socket() {
            return Ok(true);
        } else {
            self.bytes += meta.len();
            if self.bytes > MOST_BYTES {
                return Ok(false);
            }
            What::File(fs::read(&full)?)
        };
        if self.entries.len() == MOST_ENTRIES {
            return Ok(false);
        }
        let descend = what == What::Directory && !covered;
        // What lies below a mount cannot be seen: a mount point as the runtimes make it.
        let (mode, uid, gid) = if covered { (0o755, 0, 0) } else { (meta.permissions().mode() & 0o7777, meta.uid(), meta.gid()) };
        self.entries.push(Entry { path: path.clone(), mode, uid, gid, what });
        if descend { self.walk(&path) } else { Ok(true) }
    }
}

impl Entry {
    fn make(&self, directory: &Path) -> io::Result<()> {
        let path = self.place(directory)?;
        let mode = Mode::from_raw_mode(self.mode);
        match &self.what {
            What::Directory => fs::create_dir(&path)?,
            What::File(content) => fs::write(&path, content)?,
            What::Link(target) => {
                std::os::unix::fs::symlink(target, &path)?;
                return std::os::unix::fs::lchown(&path, Some(self.uid), Some(self.gid));
            }
            What::Character(device) => mknodat(CWD, &path, FileType::CharacterDevice, mode, *device)?,
            What::Block(device) => mknodat(CWD, &path, FileType::BlockDevice, mode, *device)?,
            What::Fifo => mknodat(CWD, &path, FileType::Fifo, mode, 0)?,
        }
        rustix::fs::chown(&path, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(self.mode))
    }

    /// The list comes from another node: nothing in it may lead out of the directory. Parents were made by us, as plain directories.
    fn place(&self, directory: &Path) -> io::Result<PathBuf> {
        let plain = !self.path.is_empty() && self.path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        let path = directory.join(&self.path);
        let inside = path.ancestors().skip(1).take_while(|parent| *parent != directory).all(|parent| parent.symlink_metadata().is_ok_and(|meta| meta.is_dir()));
        if plain && inside { Ok(path) } else { Err(io::Error::new(io::ErrorKind::InvalidData, format!("unusable path {:?} in a tmpfs", self.path))) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(path: &str, what: What) -> Entry {
        Entry { path: path.into(), mode: 0o755, uid: 0, gid: 0, what }
    }

    #[test]
    fn what_was_taken_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let dev = root.path().join("dev");
        fs::create_dir_all(dev.join("pts/inside")).unwrap();
        fs::create_dir_all(dev.join("sub")).unwrap();
        fs::write(dev.join("sub/file"), "text").unwrap();
        fs::write(dev.join("termination-log"), "what the volume holds").unwrap();
        std::os::unix::fs::symlink("pts/ptmx", dev.join("ptmx")).unwrap();
        let points = BTreeSet::from(["/", "/dev", "/dev/pts", "/dev/termination-log"]);
        let taken = Snapshot::take(root.path(), "/dev", "rw,size=65536k,mode=755,inode64", &points).unwrap().unwrap();
        assert_eq!(taken.options(), "size=65536k,mode=755");
        let paths: Vec<_> = taken.entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["ptmx", "pts", "sub", "sub/file", "termination-log"]);
        let other = tempfile::tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            taken.fill(other.path()).unwrap();
            assert_eq!(fs::read_to_string(other.path().join("sub/file")).unwrap(), "text");
            assert_eq!(fs::read_to_string(other.path().join("termination-log")).unwrap(), "");
        }
    }

    #[test]
    fn a_full_tmpfs_is_left_to_criu() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dev")).unwrap();
        fs::write(root.path().join("dev/big"), vec![0; 70_000]).unwrap();
        assert_eq!(Snapshot::take(root.path(), "/dev", "rw", &BTreeSet::new()).unwrap(), None);
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/x", "a/../../x", "", "a//b", "."] {
            assert!(entry(path, What::Directory).make(directory.path()).is_err(), "{path}");
        }
        std::os::unix::fs::symlink("/tmp", directory.path().join("out")).unwrap();
        assert!(entry("out/x", What::File(Vec::new())).make(directory.path()).is_err());
    }
}
