//! Contents on their way: GNU tar of the agent's image, at the source writing to a pipe, at the target reading from one.
//!
//! POSIX format (times to the nanosecond, any length of name), numeric owners, extended attributes with capabilities and access lists, holes, hard links, devices. Left out:
//! labels of SELinux (the target's own policy labels) and attributes of overlayfs (they would be lies in a merged filesystem).
//!
//! Every packed path is preceded by its parent directories, so that a directory of the source replaces a symbolic link of the target *before* anything is written below it: GNU
//! tar never writes through a link that the archive did not ask for.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{Changes, Directory, Error};

/// Some of what tar writes to standard error.
const MAX_TEXT: u64 = 4096;

/// A running tar. It is killed when this is dropped.
#[derive(Debug)]
pub struct Tar {
    /// Of [`pack`]: the archive. Take it and read it to its end, then [`finish`](Self::finish).
    pub stdout: Option<ChildStdout>,
    /// Of [`unpack`]: takes the archive. Take it, write, shut it down and drop it, then [`finish`](Self::finish).
    pub stdin: Option<ChildStdin>,
    child: Child,
    stderr: File,
    packing: bool,
}

impl Tar {
    fn start(mut command: Command, packing: bool) -> io::Result<Self> {
        // A file rather than a pipe: nobody needs to read it meanwhile.
        let stderr = File::from(memfd_create("tar-stderr", MemfdFlags::CLOEXEC)?);
        command.env("LC_ALL", "C").stderr(stderr.try_clone()?).kill_on_drop(true);
        let mut child = command.spawn()?;
        Ok(Self { stdout: child.stdout.take(), stdin: child.stdin.take(), child, stderr, packing })
    }

    /// Waits for its end. That a file changed while it was packed is no error: a later copy brings it again.
    ///
    /// # Errors
    /// It failed; the error carries what it said.
    pub async fn finish(mut self) -> Result<(), Error> {
        drop(self.stdin.take());
        drop(self.stdout.take());
        let status = self.child.wait().await.map_err(Error::Run)?;
        // 1: "some files differ", for --create "changed as we read it" and "removed before we read it".
        if status.success() || (self.packing && status.code() == Some(1)) {
            return Ok(());
        }
        let mut text = Vec::new();
        self.stderr.seek(SeekFrom::Start(0)).map_err(Error::Run)?;
        self.stderr.take(MAX_TEXT).read_to_end(&mut text).map_err(Error::Run)?;
        Err(Error::Tar { status: status.to_string(), text: String::from_utf8_lossy(&text).trim().to_owned() })
    }
}

/// Packs what has changed in a directory.
///
/// # Errors
/// tar cannot be started.
pub fn pack(directory: &Directory, changes: &Changes) -> io::Result<Tar> {
    let mut names = File::from(memfd_create("tar-names", MemfdFlags::CLOEXEC)?);
    names.write_all(&list(changes))?;
    names.seek(SeekFrom::Start(0))?;
    let mut command = tar("--create", &directory.data);
    command.args([
        "--format=posix",
        "--pax-option=delete=atime,delete=ctime",
        "--sparse",
        "--no-recursion",
        "--ignore-failed-read",
        "--warning=no-file-ignored",
        "--null",
        "--files-from=-",
    ]);
    command.stdin(names).stdout(Stdio::piped());
    Tar::start(command, true)
}

/// Unpacks into a directory.
///
/// # Errors
/// tar cannot be started.
pub fn unpack(directory: &Directory) -> io::Result<Tar> {
    let mut command = tar("--extract", &directory.data);
    command.args(["--same-owner", "--same-permissions"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    Tar::start(command, false)
}

fn tar(mode: &str, directory: &Path) -> Command {
    let mut command = Command::new("tar");
    command.args([
        mode,
        "--file=-",
        "--numeric-owner",
        "--acls",
        "--xattrs",
        "--xattrs-include=*",
        "--xattrs-exclude=security.selinux",
        "--xattrs-exclude=trusted.overlay.*",
        "--xattrs-exclude=user.overlay.*",
    ]);
    command.arg("--directory").arg(directory);
    command
}

/// The paths with their parents, parents first, each with a zero behind it.
fn list(changes: &Changes) -> Vec<u8> {
    let paths: BTreeSet<&Path> = changes.changed.iter().flat_map(|path| path.ancestors()).collect();
    let mut bytes = Vec::new();
    for path in paths {
        // `./` in front: a name may begin with a hyphen, and the directory itself is the empty path.
        bytes.extend_from_slice(b"./");
        bytes.extend_from_slice(OsStr::as_bytes(path.as_os_str()));
        bytes.push(0);
    }
    bytes
}
