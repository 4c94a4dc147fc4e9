//! What makes the kernel write into pages of a process without anybody noticing, so that its memory cannot be tracked.
//!
//! A read past the page cache (O_DIRECT) has ended when its task stands still, so what it wrote is seen by who compares contents then. What goes on without a task
//! (io_uring, asynchronous I/O, devices) may write later than that.

use std::fs;
use std::path::Path;

use crate::maps::Mapping;
use crate::tracker::Tracking;

/// `O_DIRECT` of open(2), as fdinfo shows it.
const O_DIRECT: i32 = nix::libc::O_DIRECT;

/// Why the memory of process `pid` must not be tracked in this way now, in words; `None` if nothing speaks against it.
#[must_use]
pub fn of(pid: i32, maps: &[Mapping], tracking: Tracking) -> Option<String> {
    if maps.iter().any(|mapping| mapping.name.starts_with("/[aio]")) {
        return Some(format!("process {pid} uses asynchronous I/O (io_setup)"));
    }
    let directory = format!("/proc/{pid}/fd");
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let number = entry.file_name().to_string_lossy().into_owned();
        let kind = target.to_string_lossy();
        if let Some(what) = kernel_writer(&kind) {
            return Some(format!("process {pid} has {what} (fd {number})"));
        }
        // Only files: the flag of a pipe means something else.
        if tracking == Tracking::Protection && target.is_absolute() && !target.starts_with("/dev") && is_direct(pid, &number) {
            return Some(format!("process {pid} has {kind} open past the page cache (O_DIRECT, fd {number})"));
        }
    }
    None
}

fn kernel_writer(target: &str) -> Option<&'static str> {
    if target == "anon_inode:[io_uring]" {
        Some("an io_uring")
    } else if target == "anon_inode:[userfaultfd]" {
        Some("a userfaultfd of its own")
    } else if Path::new(target).starts_with("/dev/infiniband") {
        Some("an RDMA device")
    } else if Path::new(target).starts_with("/dev/vfio") || target.starts_with("/dev/nvidia") || Path::new(target).starts_with("/dev/dri") {
        Some("a device that writes into memory")
    } else {
        None
    }
}

fn is_direct(pid: i32, number: &str) -> bool {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).and_then(|text| i32::from_str_radix(text.trim(), 8).ok());
    flags.is_some_and(|flags| flags & O_DIRECT != 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn files_past_the_page_cache_are_named() {
        let own = std::process::id().cast_signed();
        let path = std::env::current_exe().unwrap();
        assert_eq!(of(own, &[], Tracking::Protection), None);
        let file = match OpenOptions::new().read(true).custom_flags(O_DIRECT).open(&path) {
            Ok(file) => file,
            Err(error) => return eprintln!("skipped: no O_DIRECT on {}: {error}", path.display()),
        };
        assert!(of(own, &[], Tracking::Protection).unwrap().contains("O_DIRECT"));
        assert_eq!(of(own, &[], Tracking::Digests), None);
        drop(file);
    }

    #[test]
    fn kernel_writers_are_named() {
        assert!(kernel_writer("anon_inode:[io_uring]").is_some());
        assert!(kernel_writer("anon_inode:[userfaultfd]").is_some());
        assert!(kernel_writer("/dev/infiniband/uverbs0").is_some());
        assert!(kernel_writer("/dev/null").is_none());
        assert!(kernel_writer("anon_inode:[eventpoll]").is_none());
    }
}
