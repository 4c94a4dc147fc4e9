//! Questions to the kernel that only a system call answers. Nothing of the node is changed.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::libc;

/// `UFFD_FEATURE_WP_ASYNC` (linux/userfaultfd.h, Linux 6.7).
pub const WP_ASYNC: u64 = 1 << 15;
/// `UFFD_USER_MODE_ONLY` (linux/userfaultfd.h).
const USER_MODE_ONLY: libc::c_int = 1;
/// `UFFD_API` (linux/userfaultfd.h).
const API: u64 = 0xAA;
/// `UFFDIO_API`: `_IOWR(0xAA, 0x3F, struct uffdio_api)`, three 64-bit numbers (linux/userfaultfd.h).
const UFFDIO_API: libc::c_ulong = 0xC018_AA3F;

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
