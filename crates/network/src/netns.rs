//! Doing one thing inside another network namespace.
//!
//! A namespace belongs to a thread, so a short-lived thread joins it, makes what it needs there (a socket keeps its namespace for ever) and ends. The
//! caller's own thread, which may be a worker of an async runtime, is never moved.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{io, thread};

use nix::sched::{CloneFlags, setns};

use crate::Error;

/// The namespace of this thread.
#[must_use]
pub fn here() -> &'static Path {
    Path::new("/proc/thread-self/ns/net")
}

/// Runs `work` on a thread that has joined the network namespace named by the file `netns`.
pub fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let namespace = |source: io::Error| Error::Namespace { path: netns.to_owned(), source };
    let file = File::open(netns).map_err(namespace)?;
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| namespace(errno.into()))?;
            work()
        });
        worker.join().unwrap_or_else(|_| Err(namespace(io::Error::other("the thread inside it ended abnormally"))))
    })
}

/// Whether the file `netns` names the network namespace of process `pid`. Namespaces are told apart by device and inode of their files (namespaces(7)).
pub fn is_of(netns: &Path, pid: &str) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    identity(netns).is_some_and(|found| identity(Path::new(&format!("/proc/{pid}/ns/net"))) == Some(found))
}
