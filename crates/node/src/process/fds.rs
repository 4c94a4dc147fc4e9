//! Open file descriptors, by the links in `/proc/PID/fd` (proc_pid_fd(5)).

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::directory;

/// An open file descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fd {
    /// Its number.
    pub fd: i32,
    /// What it is.
    pub kind: FdKind,
}

/// What a file descriptor is. Paths are those that the process itself would see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FdKind {
    /// A regular file.
    File {
        /// Where.
        path: PathBuf,
    },
    /// A file or directory that was removed while open.
    Deleted {
        /// Where it was.
        path: PathBuf,
    },
    /// A directory.
    Directory {
        /// Where.
        path: PathBuf,
    },
    /// A character or block device, terminals included.
    Device {
        /// Where.
        path: PathBuf,
    },
    /// A named pipe.
    Fifo {
        /// Where.
        path: PathBuf,
    },
    /// A socket of any family.
    Socket {
        /// Its inode number, unique on the node.
        inode: u64,
    },
    /// An unnamed pipe.
    Pipe {
        /// Its inode number, unique on the node.
        inode: u64,
    },
    /// Memory with a descriptor, memfd_create(2).
    Memfd {
        /// The name that it was given.
        name: String,
    },
    /// Something of the kernel without a file, such as `[eventpoll]` or `[io_uring]`.
    Anon {
        /// The kernel's word for it, brackets included where it has them.
        name: String,
    },
    /// Anything else, such as a namespace.
    Other {
        /// The link as it is.
        target: String,
    },
}

impl FdKind {
    /// A short text that is the same for the same thing after a restore: numbers that a restore changes are left out.
    #[must_use]
    pub fn word(&self) -> String {
        match self {
            Self::File { path } => format!("file {}", path.display()),
            Self::Directory { path } => format!("directory {}", path.display()),
            Self::Fifo { path } => format!("fifo {}", path.display()),
            Self::Deleted { .. } => "deleted file".to_owned(),
            Self::Device { .. } => "device".to_owned(),
            Self::Socket { .. } => "socket".to_owned(),
            Self::Pipe { .. } => "pipe".to_owned(),
            Self::Memfd { name } => format!("memfd {name}"),
            Self::Anon { name } => name.clone(),
            Self::Other { target } => target.split(':').next().unwrap_or_default().to_owned(),
        }
    }
}

/// The descriptors of a process, sorted; those that are closed meanwhile are left out, and a process that has ended has none.
pub(super) fn of(pid: i32) -> Vec<Fd> {
    let Ok(entries) = fs::read_dir(directory(pid).join("fd")) else { return Vec::new() };
    let mut fds: Vec<Fd> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let fd = entry.file_name().to_str()?.parse().ok()?;
            Some(Fd { fd, kind: kind(&entry.path())? })
        })
        .collect();
    fds.sort_by_key(|fd| fd.fd);
    fds
}

fn kind(link: &Path) -> Option<FdKind> {
    let target = fs::read_link(link).ok()?.into_os_string().to_string_lossy().into_owned();
    let number = |rest: &str| rest.trim_matches(['[', ']']).parse().ok();
    if let Some(inode) = target.strip_prefix("socket:").and_then(number) {
        return Some(FdKind::Socket { inode });
    }
    if let Some(inode) = target.strip_prefix("pipe:").and_then(number) {
        return Some(FdKind::Pipe { inode });
    }
    if let Some(name) = target.strip_prefix("anon_inode:") {
        return Some(FdKind::Anon { name: name.to_owned() });
    }
    if !target.starts_with('/') {
        // Since Linux 6.9 a pidfd has a filesystem of its own: `pidfd:[123]`.
        let name = target.split(':').next().unwrap_or_default();
        return Some(if name == "pidfd" { FdKind::Anon { name: "[pidfd]".to_owned() } } else { FdKind::Other { target } });
    }
    if let Some(name) = target.strip_prefix("/memfd:") {
        return Some(FdKind::Memfd { name: name.strip_suffix(" (deleted)").unwrap_or(name).to_owned() });
    }
    let meta = fs::metadata(link).ok()?;
    let (path, file_type) = (PathBuf::from(&target), meta.file_type());
    Some(if file_type.is_char_device() || file_type.is_block_device() {
        FdKind::Device { path }
    } else if file_type.is_fifo() {
        FdKind::Fifo { path }
    } else if let Some(gone) = target.strip_suffix(" (deleted)") {
        FdKind::Deleted { path: gone.into() }
    } else if file_type.is_dir() {
        FdKind::Directory { path }
    } else {
        FdKind::File { path }
    })
}

/// What standard input, output and error of a process are, in the words of runc's `descriptors.json`: the links of `/proc/PID/fd/{0,1,2}`.
///
/// # Errors
/// The process has ended, or one of the three is closed.
pub fn descriptors(pid: i32) -> io::Result<[String; 3]> {
    let read = |fd: &str| fs::read_link(directory(pid).join("fd").join(fd)).map(|target| target.to_string_lossy().into_owned());
    Ok([read("0")?, read("1")?, read("2")?])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::fd::AsRawFd;

    use super::*;

    fn own(file: &impl AsRawFd) -> FdKind {
        let wanted = file.as_raw_fd();
        of(std::process::id().cast_signed()).into_iter().find(|fd| fd.fd == wanted).unwrap().kind
    }

    #[test]
    fn every_kind_is_told_apart() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(own(file.as_file()), FdKind::File { path: file.path().canonicalize().unwrap() });
        let path = file.path().to_owned();
        let open = file.into_file();
        assert_eq!(own(&open), FdKind::Deleted { path });
        assert!(matches!(own(&std::net::UdpSocket::bind("127.0.0.1:0").unwrap()), FdKind::Socket { .. }));
        let (reader, _writer) = std::io::pipe().unwrap();
        assert!(matches!(own(&reader), FdKind::Pipe { .. }));
        assert_eq!(own(&fs::File::open("/").unwrap()), FdKind::Directory { path: "/".into() });
        assert_eq!(own(&fs::File::open("/dev/zero").unwrap()), FdKind::Device { path: "/dev/zero".into() });
        let memory = rustix::fs::memfd_create("x y", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(own(&memory), FdKind::Memfd { name: "x y".into() });
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        assert_eq!(own(&event), FdKind::Anon { name: "[eventfd]".into() });
        let pidfd = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()).unwrap();
        assert_eq!(own(&pidfd), FdKind::Anon { name: "[pidfd]".into() });
        assert_eq!(own(&fs::File::open("/proc/self/ns/uts").unwrap()).word(), "uts");
    }
}
