//! Questions to the kernel that only a system call answers. Nothing of the node is changed.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::libc;

/// `UFFD_FEATURE_WP_ASYNC` (linux/userfaultfd.h, Linux 6.7).
pub const WP_ASYNC: u64 = 1 << 15;
/// `UFFD_USER_MODE_ONLY` (linux/userfaultfd.h).
const USER_MODE_ONLY: libc::c_int = 1;
/// `UFFD_API` (linux/userfaultfd.h).
const API: u64 = 0xAA;
/// `UFFDIO_API`: `_IOWR(0xAA, 0x3F, struct uffdio_api)`, three 64-bit numbers (linux/userfaultfd.h).
const UFFDIO_API: libc::c_ulong = 0xC018_AA3F;
/// Bit 55 of an entry of /proc/PID/pagemap: the page was written since the bits were cleared (Documentation/admin-guide/mm/soft-dirty.rst).
const SOFT_DIRTY: u64 = 1 << 55;

/// `struct uffdio_api`.
#[repr(C)]
#[derive(Default)]
struct Handshake {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// What userfaultfd can do here; `None` where there is none.
#[must_use]
pub fn userfaultfd_features() -> Option<u64> {
    // SAFETY: userfaultfd(2) takes flags only and gives a new descriptor or -1.
    let number = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY) };
    let number = i32::try_from(number).ok().filter(|number| *number >= 0)?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let mut handshake = Handshake { api: API, ..Handshake::default() };
    // SAFETY: UFFDIO_API reads and writes one `struct uffdio_api`, which `handshake` is; it lives during the call.
    let answer = unsafe { libc::ioctl(descriptor.as_raw_fd(), UFFDIO_API as _, &raw mut handshake) };
    (answer == 0).then_some(handshake.features)
}

/// Whether the kernel notes which pages were written: a page that has just been written must have its bit.
#[must_use]
pub fn soft_dirty() -> bool {
    let written = std::hint::black_box(vec![1u8; 2 << 12]);
    let page = written.as_ptr() as u64 >> 12;
    let mut entry = [0u8; 8];
    let read = File::open("/proc/self/pagemap").and_then(|file| file.read_exact_at(&mut entry, (page + 1) * 8));
    read.is_ok() && u64::from_ne_bytes(entry) & SOFT_DIRTY != 0 && !written.is_empty()
}
