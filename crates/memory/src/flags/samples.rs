//! Mappings of this process, each with something of its own, so that it can be seen what the kernel prints for that. What is in them is of no use to anybody.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::sys;

const LENGTH: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);
/// Of a huge page that is asked for by its size; where there is none of it, none is made.
const HUGE: NonZeroUsize = NonZeroUsize::MIN.saturating_add((2 << 20) - 1);
/// `MAP_HUGE_2MB`.
const TWO_MEBIBYTES: MapFlags = MapFlags::from_bits_retain(21 << 26);
/// `MAP_DROPPABLE` (Linux 6.11).
const DROPPABLE: MapFlags = MapFlags::from_bits_retain(0x08);
/// What can be advised (madvise(2)), the last one `MADV_GUARD_INSTALL` (Linux 6.13). What a kernel does not know it refuses.
const ADVICE: [libc::c_int; 9] = [
    libc::MADV_SEQUENTIAL,
    libc::MADV_RANDOM,
    libc::MADV_DONTFORK,
    libc::MADV_MERGEABLE,
    libc::MADV_HUGEPAGE,
    libc::MADV_NOHUGEPAGE,
    libc::MADV_DONTDUMP,
    libc::MADV_WIPEONFORK,
    102,
];

/// See the module; gone when dropped.
pub struct Samples {
    all: Vec<(NonNull<c_void>, NonZeroUsize)>,
    /// Registration ends with it.
    _uffd: Option<OwnedFd>,
}

impl Samples {
    /// Makes all that this kernel can.
    ///
    /// # Errors
    /// When there is no room.
    pub fn make() -> io::Result<Self> {
        let mut samples = Self { all: Vec::new(), _uffd: None };
        let private = MapFlags::MAP_PRIVATE;
        samples.map(MapFlags::MAP_SHARED, LENGTH)?;
        for advice in ADVICE {
            let place = samples.map(private, LENGTH)?;
            // SAFETY: the mapping is of this module's, and holds nothing.
            let _ = unsafe { libc::madvise(place.as_ptr(), LENGTH.get(), advice) };
        }
        let place = samples.map(private, LENGTH)?;
        // SAFETY: as above.
        let _ = unsafe { libc::mlock(place.as_ptr(), LENGTH.get()) };
        for (flags, length) in [
            (private | MapFlags::MAP_NORESERVE, LENGTH),
            (private | MapFlags::MAP_GROWSDOWN, LENGTH),
            (private | MapFlags::MAP_NORESERVE | MapFlags::MAP_HUGETLB | TWO_MEBIBYTES, HUGE),
            (DROPPABLE, LENGTH),
        ] {
            let _ = samples.map(flags, length);
        }
        let place = samples.map(private, LENGTH)?;
        // Tracked memory is registered so.
        let uffd = sys::userfaultfd().and_then(|uffd| {
            sys::uffd_api(uffd.as_fd())?;
            sys::uffd_register(uffd.as_fd(), place.as_ptr() as u64, LENGTH.get() as u64).map(|()| uffd)
        });
        samples._uffd = uffd.ok();
        Ok(samples)
    }

    fn map(&mut self, flags: MapFlags, length: NonZeroUsize) -> io::Result<NonNull<c_void>> {
        // SAFETY: a new anonymous mapping where the kernel likes it touches nothing that exists.
        let place = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
        self.all.push((place, length));
        Ok(place)
    }
}

impl Drop for Samples {
    fn drop(&mut self) {
        for (place, length) in &self.all {
            // SAFETY: mappings of this module's that nothing refers to.
            let _ = unsafe { munmap(*place, length.get()) };
        }
    }
}
