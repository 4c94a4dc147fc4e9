//! Descriptors that this program was started with.
#![allow(unsafe_code)]

use nix::libc;

/// Keeps all but standard input, output and error from the programs that this one starts. A machine lives on after the command that began it: what that
/// command's caller held open, a lock for example, must not be held by the machine.
pub fn keep_from_children() {
    let first: libc::c_uint = 3;
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC closes nothing and touches no memory; it only sets a flag of descriptors, which every descriptor that the
    // standard library opens has anyway. On a kernel before 5.11 it fails and nothing changes.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::fd::AsRawFd as _;
    use std::process::{Command, Stdio};

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    #[test]
    fn a_lock_of_the_caller_stays_with_the_caller() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let child_has_it = || Command::new("test").args(["-e", &path]).stdin(Stdio::null()).status().unwrap().success();
        assert!(child_has_it());
        super::keep_from_children();
        assert!(!child_has_it());
    }
}
