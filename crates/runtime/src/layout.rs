//! The directory of one container that a keeper holds or held.
//!
//! ```text
//!   /run/godwit/containers/<id>/
//!     record.json      who it is and how it was created                    written by create, before anything else
//!     keeper           {"pid", "start"} of the keeper                       written by the keeper, before the pid file
//!     started          empty: the OCI `start` has come                      written by start
//!     fate             open | passed <attempt> | ended, under flock         keeper, gate, kill, delete
//!     resuming         {"pid", "start"} of the real init: it may have run   written by the gate at post-restore, when it opens
//!     resumed          {"pid", "start"} of the real init: it runs           written by the gate at post-resume
//!     told             empty: the agent knows that it runs                  gate or keeper
//!     restored         {"pid", "start"} of the real init: runc has it       written by the keeper after `runc restore`
//!     exited           exit code                                            written by the keeper as its last act
//!     update-<n>.json  resources that `update` asked for before the switch  written by update, applied by the keeper after it
//!     attempt-<n>/     one restore: home/.criu/default.conf, bin/criu, work/restore.log, runc.log, standin.log, real.pid
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{arguments::is_name, process::Process, protocol::CONTAINERS};

/// Environment variable: the container's id, for the stand-in.
pub const ENV_CONTAINER: &str = "GODWIT_CONTAINER";
/// Environment variable: the number of the attempt, for the stand-in.
pub const ENV_ATTEMPT: &str = "GODWIT_ATTEMPT";

/// A container's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The container's id.
    pub id: String,
    /// The directory.
    pub path: PathBuf,
}

impl Layout {
    /// Of a container, whether there or not. `None` when the id cannot be one.
    #[must_use]
    pub fn of(id: &str) -> Option<Self> {
        is_name(id).then(|| Self { id: id.to_owned(), path: Path::new(CONTAINERS).join(id) })
    }

    /// Of a container that a keeper holds or held.
    #[must_use]
    pub fn existing(id: &str) -> Option<Self> {
        Self::of(id).filter(|layout| layout.path.is_dir())
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory of an attempt to restore.
    #[must_use]
    pub fn attempt(&self, number: u32) -> PathBuf {
        self.path.join(format!("attempt-{number}"))
    }

    /// Whether a marker is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.file(name).exists()
    }

    /// Makes a marker.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn mark(&self, name: &str) -> io::Result<()> {
        write_atomically(&self.file(name), b"")
    }

    /// Writes a value as JSON, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        write_atomically(&self.file(name), &serde_json::to_vec(value)?)
    }

    /// Reads a value.
    ///
    /// # Errors
    /// When the file is missing or no such value.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<T> {
        Ok(serde_json::from_slice(&fs::read(self.file(name))?)?)
    }

    /// Removes the directory; what the agent has mounted below it for a restore is unmounted first (the container has its own copies).
    ///
    /// # Errors
    /// When something is left.
    pub fn remove(&self) -> io::Result<()> {
        unmount_below(&self.path);
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The keeper.
    #[must_use]
    pub fn keeper(&self) -> Option<Process> {
        self.read("keeper").ok()
    }

    /// The real init, once `runc restore` has succeeded.
    #[must_use]
    pub fn restored(&self) -> Option<Process> {
        self.read("restored").ok()
    }
}

/// Writes a file whole or not at all (a temporary name beside it, then rename).
///
/// # Errors
/// When it cannot be written.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}~", std::process::id()));
    let temporary = path.with_file_name(name);
    fs::write(&temporary, content)?;
    fs::rename(&temporary, path).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// Unmounts whatever is mounted at or below a directory.
pub fn unmount_below(directory: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for mount in mounts_below(&table, directory) {
        let _ = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Mount points below a directory, the last mounted first (proc_pid_mountinfo(5); no name of ours needs its octal escapes).
fn mounts_below(table: &str, directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).filter(|mount| mount.starts_with(directory)).collect();
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_are_no_paths() {
        assert!(Layout::of("../x").is_none());
        assert!(Layout::of("..").is_none());
        assert_eq!(Layout::of("a.b_c-1").unwrap().path, Path::new("/run/godwit/containers/a.b_c-1"));
    }

    #[test]
    fn only_mounts_below() {
        let table = "1 0 0:1 / / rw - x x x\n2 1 0:1 / /d/a/s rw - x x x\n3 1 0:1 / /d/ab rw - x x x\n4 2 0:1 / /d/a/s/t rw - x x x\n";
        assert_eq!(mounts_below(table, Path::new("/d/a")), [PathBuf::from("/d/a/s/t"), PathBuf::from("/d/a/s")]);
    }
}
