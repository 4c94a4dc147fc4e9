//! What concerns open file descriptors, working directories and programs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use super::collect::{Collector, who};
use super::projected;
use crate::cri::Container;
use crate::mounts;
use crate::process::{Fd, FdKind, Process, directory};

/// Kernel objects without a file that CRIU can dump (`dump_one_file` in its files.c).
const DUMPABLE: [&str; 7] = ["[eventfd]", "[eventpoll]", "[signalfd]", "[timerfd]", "[pidfd]", "inotify", "[fanotify]"];
const MEMORY_DEVICES: u32 = 1;
const TERMINALS: [u32; 3] = [4, 5, 204];
const PSEUDO_TERMINALS: std::ops::RangeInclusive<u32> = 136..=143;

pub(super) fn inspect(container: &Container, process: &Process, projected: &[PathBuf], found: &mut Collector) {
    // A process that is ending has no mounts any more.
    let mounts: BTreeSet<u32> = mounts::of(&directory(process.pid)).unwrap_or_default().iter().map(|mount| mount.id).collect();
    for fd in &process.fds {
        let info = fs::read_to_string(directory(process.pid).join("fdinfo").join(fd.fd.to_string())).unwrap_or_default();
        let number = fd.fd;
        match &fd.kind {
            FdKind::Anon { name } => anonymous(container, process, number, name, &info, found),
            FdKind::Device { path } => device(container, process, fd, path.display().to_string().as_str(), found),
            FdKind::Pipe { .. } if flags(&info) & nix::libc::O_DIRECT != 0 => {
                found.block_process(
                    "PacketPipe",
                    container,
                    process,
                    format!("fd {number} is a pipe in packet mode (O_DIRECT)"),
                    "CRIU cannot dump pipes in packet mode. Use an ordinary pipe or a socket.",
                );
            }
            FdKind::Deleted { path } if path.starts_with("/secretmem") => secret(container, process, &format!("fd {number}"), found),
            FdKind::File { path } | FdKind::Directory { path } | FdKind::Deleted { path } => {
                if projected::is_in(projected, path) {
                    in_projected(container, process, &format!("fd {number} is {}", path.display()), found);
                } else if number > 2 && !mounts.is_empty() && mount_id(&info).is_some_and(|id| !mounts.contains(&id)) {
                    found.block_process(
                        "ForeignFile",
                        container,
                        process,
                        format!("fd {number} ({}) lies on a mount that the container does not have", path.display()),
                        "Close the file; it was opened outside the container's mounts, or its volume was unmounted since.",
                    );
                }
            }
            FdKind::Pipe { .. } | FdKind::Fifo { .. } | FdKind::Socket { .. } | FdKind::Memfd { .. } | FdKind::Other { .. } => {}
        }
    }
    for (link, what) in [("cwd", "its working directory"), ("exe", "its program")] {
        if let Ok(path) = fs::read_link(directory(process.pid).join(link))
            && projected::is_in(projected, &path)
        {
            in_projected(container, process, &format!("{what} is {}", path.display()), found);
        }
    }
}

fn anonymous(container: &Container, process: &Process, fd: i32, name: &str, info: &str, found: &mut Collector) {
    let watches = || {
        info.lines()
            .filter(|line| {
                line.starts_with("inotify wd:")
                    || line.starts_with("fanotify ino:")
                    || line.starts_with("fanotify mnt_id:")
                    || line.starts_with("fanotify sdev:")
            })
            .count()
    };
    match name.trim_matches(['[', ']']) {
        "io_uring" => found.block_process(
            "IoUring",
            container,
            process,
            format!("fd {fd} is an io_uring"),
            "CRIU cannot dump io_uring. Switch it off in the application, or start the pod with the seccomp profile RuntimeDefault, which refuses it from the start so that the application falls back to other calls.",
        ),
        "inotify" | "fanotify" if watches() > 0 => found.block_process(
            "FileWatch",
            container,
            process,
            format!("fd {fd} ({}) watches {} files or directories", name.trim_matches(['[', ']']), watches()),
            "Watches on a container's files cannot be restored elsewhere. Switch file watching off in the application (reloading of configuration, file tailing by inotify).",
        ),
        "bpf-map" => found.warn(format!("{}: fd {fd} is a BPF map; it can be moved only if the node's CRIU was built with libbpf", who(container, process))),
        _ if DUMPABLE.contains(&name) => {}
        other => found.block_process("UnsupportedDescriptor", container, process, format!("fd {fd} is {other}"), "CRIU cannot dump this kind of kernel object. Start the application without the feature that uses it."),
    }
}

fn device(container: &Container, process: &Process, fd: &Fd, path: &str, found: &mut Collector) {
    let Ok(meta) = fs::metadata(directory(process.pid).join("fd").join(fd.fd.to_string())) else { return };
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    if meta.file_type().is_char_device() {
        if major == MEMORY_DEVICES {
            return;
        }
        if TERMINALS.contains(&major) || PSEUDO_TERMINALS.contains(&major) {
            found.warn(format!("{} uses the terminal {path}; afterwards only the leader of its session has a controlling terminal", who(container, process)));
            return;
        }
    }
    found.block_process(
        "DeviceOpen",
        container,
        process,
        format!("fd {} is the device {path} ({major}:{minor})", fd.fd),
        "Devices stay with their node. Run the application without it (GPU, FUSE, TUN, KVM and the like).",
    );
}

pub(super) fn in_projected(container: &Container, process: &Process, what: &str, found: &mut Collector) {
    found.block_process(
        "OpenProjectedFile",
        container,
        process,
        what,
        "The target pod gets its ConfigMaps, Secrets and tokens anew, so a file of the old ones cannot stay open. Let the application close the file after reading it.",
    );
}

pub(super) fn secret(container: &Container, process: &Process, what: &str, found: &mut Collector) {
    found.block_process(
        "SecretMemory",
        container,
        process,
        format!("{what} is secret memory (memfd_secret)"),
        "Secret memory cannot be read from outside its process. Switch it off in the application.",
    );
}

/// `flags:` is octal.
fn flags(info: &str) -> i32 {
    field(info, "flags").and_then(|text| i32::from_str_radix(text, 8).ok()).unwrap_or_default()
}

fn mount_id(info: &str) -> Option<u32> {
    field(info, "mnt_id")?.parse().ok()
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}
