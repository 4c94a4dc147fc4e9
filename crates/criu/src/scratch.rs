//! The directory at the target from which CRIU binds the mounts with keys of our own.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount};
use serde::{Deserialize, Serialize};

use crate::tmpfs::Snapshot;

/// Everything that is mounted below one directory.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct Scratch {
    directory: PathBuf,
    mounts: Vec<Mount>,
}

/// One mount.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct Mount {
    pub stuff: Stuff,
    /// As in the source's mount table.
    pub flags: Vec<String>,
    /// The container's mount will be a slave of this one, so it must have a peer group.
    pub shared: bool,
}

/// What to mount.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) enum Stuff {
    /// A file or directory of the node.
    Bind(PathBuf),
    /// The cgroup `below` the first of these hierarchies that the node has; made if it is missing, since the runtime makes it only later. If the node has
    /// none of them: an empty directory.
    Cgroup { hierarchies: Vec<PathBuf>, below: PathBuf },
    /// A null device.
    Null,
    /// An empty directory that nobody can write to.
    Empty,
    /// A new tmpfs.
    Tmpfs(Snapshot),
}

impl Scratch {
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf(), mounts: Vec::new() }
    }

    /// Adds a mount and says where it will be.
    pub fn add(&mut self, mount: Mount) -> PathBuf {
        self.mounts.push(mount);
        self.place(self.mounts.len() - 1)
    }

    fn place(&self, index: usize) -> PathBuf {
        self.directory.join(index.to_string())
    }

    pub fn make(&self) -> io::Result<()> {
        self.unmake()?;
        let made = self.mount_all();
        if made.is_err() {
            // The first error is the one to tell.
            let _ = self.unmake();
        }
        made
    }

    fn mount_all(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        // A mount of its own, with devices allowed, which nobody else on the node receives.
        tmpfs(&self.directory, MountFlags::NOEXEC, "mode=700,size=1m")?;
        mount_change(&self.directory, MountPropagationFlags::PRIVATE)?;
        mknodat(CWD, self.null(), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3))?;
        rustix::fs::chmod(self.null(), Mode::from_raw_mode(0o666))?;
        fs::create_dir(self.empty())?;
        tmpfs(&self.empty(), MountFlags::RDONLY, "mode=755,size=4k,nr_inodes=1")?;
        self.mounts.iter().enumerate().try_for_each(|(index, mount)| self.mount_one(mount, &self.place(index)))
    }

    fn null(&self) -> PathBuf {
        self.directory.join("null")
    }

    fn empty(&self) -> PathBuf {
        self.directory.join("empty")
    }

    fn mount_one(&self, wanted: &Mount, place: &Path) -> io::Result<()> {
        let flags = flags(&wanted.flags);
        match &wanted.stuff {
            Stuff::Tmpfs(snapshot) => {
                fs::create_dir(place)?;
                tmpfs(place, flags - MountFlags::RDONLY, &snapshot.options())?;
                snapshot.fill(place)?;
            }
            Stuff::Bind(source) => bind(source, place)?,
            Stuff::Null => bind(&self.null(), place)?,
            Stuff::Empty => bind(&self.empty(), place)?,
            Stuff::Cgroup { hierarchies, below } => match hierarchies.iter().find(|hierarchy| hierarchy.join("cgroup.procs").exists()) {
                Some(hierarchy) => {
                    fs::create_dir_all(hierarchy.join(below))?;
                    bind(&hierarchy.join(below), place)?;
                }
                None => bind(&self.empty(), place)?,
            },
        }
        if !flags.is_empty() {
            mount_remount(place, MountFlags::BIND | flags, "")?;
        }
        mount_change(place, if wanted.shared { MountPropagationFlags::SHARED } else { MountPropagationFlags::PRIVATE })?;
        Ok(())
    }

    pub fn unmake(&self) -> io::Result<()> {
        // Everything below goes with it. Nothing mounted there: EINVAL; no directory: ENOENT.
        while unmount(&self.directory, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
        match fs::remove_dir(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn tmpfs(place: &Path, flags: MountFlags, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options)?;
    mount("tmpfs", place, "tmpfs", flags, Some(options.as_c_str()))?;
    Ok(())
}

fn bind(source: &Path, place: &Path) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", source.display()));
    if fs::metadata(source).map_err(named)?.is_dir() {
        fs::create_dir(place)?;
    } else {
        fs::File::create(place)?;
    }
    mount_bind(source, place).map_err(|error| named(error.into()))
}

fn flags(names: &[String]) -> MountFlags {
    names.iter().fold(MountFlags::empty(), |flags, name| {
        flags
            | match name.as_str() {
                "ro" => MountFlags::RDONLY,
                "nosuid" => MountFlags::NOSUID,
                "nodev" => MountFlags::NODEV,
                "noexec" => MountFlags::NOEXEC,
                "noatime" => MountFlags::NOATIME,
                "nodiratime" => MountFlags::NODIRATIME,
                _ => MountFlags::empty(),
            }
    })
}
