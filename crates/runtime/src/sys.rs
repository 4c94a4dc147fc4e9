//! System calls for which no safe function exists.
#![allow(unsafe_code)]

use std::os::fd::RawFd;

use nix::{errno::Errno, libc};

/// Forks. `None` in the child. The program has one thread, so the child may go on with any code.
///
/// # Errors
/// What fork(2) says.
pub fn fork() -> Result<Option<i32>, Errno> {
    // SAFETY: every program of this binary is single-threaded, so no lock can be held by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child.as_raw())),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// Closes every descriptor from 3 on, but `keep`.
pub fn close_inherited(keep: Option<RawFd>) {
    match keep.and_then(|fd| u32::try_from(fd).ok()) {
        Some(fd) if fd >= 3 => {
            close(3, fd.saturating_sub(1));
            close(fd.saturating_add(1), u32::MAX);
        }
        _ => close(3, u32::MAX),
    }
}

/// Closes every descriptor from 3 on whose number is less than `limit`.
pub fn close_below(limit: RawFd) {
    close(3, u32::try_from(limit).unwrap_or_default().saturating_sub(1));
}

/// Closes these and all between.
fn close(first: u32, last: u32) {
    if first <= last {
        // SAFETY: close_range(2) takes plain numbers; the callers own no descriptor of these numbers that they use afterwards.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
    }
}

/// Moves `from` to the number `to`.
///
/// # Errors
/// What dup2(2) says.
pub fn move_descriptor(from: RawFd, to: RawFd) -> Result<(), Errno> {
    // SAFETY: dup2(2) takes plain numbers; `to` is not owned by any Rust object here (standard descriptors, the keeper's status pipe, CRIU's socket in
    // the child that becomes CRIU, and the numbers under which runc has its folders).
    Errno::result(unsafe { libc::dup2(from, to) }).map(drop)
}

/// Sends a signal by number, real-time signals included (which `nix` has no names for).
///
/// # Errors
/// What kill(2) says.
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: kill(2) takes plain numbers.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Takes ownership of a descriptor that was inherited, received or just made.
#[must_use]
pub fn own(fd: RawFd) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: called once for each descriptor, which nobody else in this process owns: the parent passed it, a message brought it, or fcntl(2) has just made it.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }
}

/// Smallest and largest real-time signal number of this C library.
#[must_use]
pub fn real_time_signals() -> (i32, i32) {
    (libc::SIGRTMIN(), libc::SIGRTMAX())
}

/// Gives SIGCHLD its default action: a caller that ignores it would make waitpid(2) lose every status.
pub fn reset_child_signal() {
    // SAFETY: the default action involves no handler of this program.
    let _ = unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGCHLD, nix::sys::signal::SigHandler::SigDfl) };
}

/// Parts of this program's file that lie in memory and are never written: its code, and its constants at the file's beginning. (What is relocated at the start
/// and then write-protected lies further on.)
#[must_use]
pub fn code() -> Vec<(usize, usize)> {
    let part = |line: &str| -> Option<(usize, usize)> {
        let mut fields = line.split_ascii_whitespace();
        let (range, permissions, offset) = (fields.next()?, fields.next()?, fields.next()?);
        let of_a_file = fields.nth(2)?.starts_with('/');
        let untouched = permissions == "r-xp" || (permissions == "r--p" && offset.bytes().all(|digit| digit == b'0'));
        let (from, to) = range.split_once('-')?;
        let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
        (of_a_file && untouched).then_some((from, to))
    };
    std::fs::read_to_string("/proc/self/maps").unwrap_or_default().lines().filter_map(part).collect()
}

/// Lets go of these parts; the kernel maps again what is used. A process that waits for hours then holds a hundred kilobytes, not a megabyte.
pub fn release(parts: &[(usize, usize)]) {
    for (from, to) in parts {
        // SAFETY: the ranges come from [`code`]: private mappings of a file, never written. After MADV_DONTNEED the next access reads the same bytes again.
        unsafe { libc::madvise(*from as *mut libc::c_void, to.saturating_sub(*from), libc::MADV_DONTNEED) };
    }
}
