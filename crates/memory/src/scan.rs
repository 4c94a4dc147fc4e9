//! PAGEMAP_SCAN (Documentation/admin-guide/mm/pagemap.rst): which pages of a range are there, and which were written since they were last protected.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use nix::libc;
use nix::sys::mman::{MRemapFlags, MapFlags, ProtFlags};

use crate::maps::Mapping;
use crate::sys::{self, Region, ScanArgument};
use crate::{Error, PAGE, Range};

const WRITTEN: u64 = 1 << 1;
const FILE: u64 = 1 << 2;
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;
const PFNZERO: u64 = 1 << 5;
const GUARD: u64 = 1 << 8;
const WP_MATCHING: u64 = 1;
const CHECK_WPASYNC: u64 = 1 << 1;
/// Regions in one answer.
const REGIONS: usize = 4096;
/// Ranges that are no further from each other are looked at as one, in bytes: about as many pages as can be looked at while the kernel is asked once more.
pub const NEAR: u64 = 32 * PAGE;
/// What one huge page covers.
pub const HUGE: u64 = 512 * PAGE;

/// What a scan does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Pages that are there and were written since they were protected; they are protected (again). Nothing else is told of them: several times faster, since the kernel need not
    /// look at each page's own record to know what kind it is of.
    Written,
    /// All pages that are there; they are protected.
    Everything,
    /// All pages that are there, with their state; nothing is protected.
    Look,
    /// As `Look`, also of mappings that are not registered.
    Unregistered,
    /// As fast as `Written`: pages that are there and were not written since they were protected.
    Kept,
    /// As `Kept`, also of mappings that are not registered.
    Marked,
}

/// Pages of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    /// Where.
    pub range: Range,
    /// Whether they hold something of their own: not the zero page, not a guard, not a page of the file behind the mapping.
    pub own: bool,
    /// Whether they were written since they were protected, or never were.
    pub written: bool,
    /// Whether they are guards, as far as this kernel tells.
    pub guard: bool,
}

/// What this kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    /// Knows guard pages (Linux 6.15). A kernel that does not refuses every scan that asks for them.
    guard: bool,
}

impl Support {
    /// Finds out by trying, once, on memory of this process.
    ///
    /// # Errors
    /// What the kernel lacks, in words.
    pub fn probe() -> Result<Self, Error> {
        static PROBED: OnceLock<Result<Support, String>> = OnceLock::new();
        PROBED.get_or_init(|| probe().map_err(|error| format!("this kernel cannot track memory: {error}"))).clone().map_err(Error::Unsupported)
    }

    /// Whether [`Pages::guard`] is told.
    #[must_use]
    pub fn tells_guards(self) -> bool {
        self.guard
    }

    /// Calls `found` for the pages of a mapping, in order.
    ///
    /// # Errors
    /// `PermissionDenied` (EPERM) when a part of the range is not registered; what was protected before that is lost to the caller.
    pub fn scan(self, pagemap: &File, range: Range, mode: Mode, found: impl FnMut(Pages)) -> io::Result<()> {
        self.scan_all(pagemap, &[range], mode, found)
    }

    /// The same of several ranges.
    ///
    /// # Errors
    /// As [`Support::scan`].
    pub fn scan_all(self, pagemap: &File, ranges: &[Range], mode: Mode, mut found: impl FnMut(Pages)) -> io::Result<()> {
        let mut answer = Answer::of(ranges);
        for range in ranges {
            let mut rest = *range;
            while !rest.is_empty() {
                rest.start = self.step(pagemap, rest, mode, &mut answer, &mut found)?;
            }
        }
        Ok(())
    }

    /// The beginning of a range, as far as one answer goes; returns where that ends.
    ///
    /// # Errors
    /// As [`Support::scan`].
    pub fn step(self, pagemap: &File, range: Range, mode: Mode, answer: &mut Answer, mut found: impl FnMut(Pages)) -> io::Result<u64> {
        let mut argument = ScanArgument {
            flags: match mode {
                Mode::Written | Mode::Everything => WP_MATCHING | CHECK_WPASYNC,
                Mode::Look | Mode::Kept => CHECK_WPASYNC,
                Mode::Unregistered | Mode::Marked => 0,
            },
            start: range.start,
            end: range.end,
            category_mask: if matches!(mode, Mode::Written | Mode::Kept | Mode::Marked) { WRITTEN } else { 0 },
            category_inverted: if matches!(mode, Mode::Kept | Mode::Marked) { WRITTEN } else { 0 },
            // Without this mask the scan leaves markers in entries where no page is. SWAPPED includes pages that are just being moved.
            category_anyof_mask: PRESENT | SWAPPED,
            return_mask: match mode {
                Mode::Written | Mode::Kept | Mode::Marked => WRITTEN,
                _ => WRITTEN | FILE | PRESENT | SWAPPED | PFNZERO | if self.guard { GUARD } else { 0 },
            },
            ..ScanArgument::default()
        };
        let count = sys::pagemap_scan(pagemap.as_fd(), &mut argument, &mut answer.0)?;
        let regions = &answer.0[..count];
        for region in regions {
            let is = |bits: u64| region.categories & bits != 0;
            let foreign = is(PFNZERO | GUARD) || (is(FILE) && !is(SWAPPED));
            let range = Range { start: region.start, end: region.end };
            found(Pages { range, own: is(PRESENT | SWAPPED) && !foreign, written: is(WRITTEN), guard: is(GUARD) });
        }
        // An answer that fills the array exactly ends, by the kernel's count, before the last region that it holds: what was told is not asked again.
        let next = argument.walk_end.max(regions.last().map_or(0, |region| region.end));
        if next <= range.start { Err(io::Error::other("PAGEMAP_SCAN does not get on")) } else { Ok(next) }
    }
}

/// Where the kernel's answers lie.
#[derive(Debug)]
pub struct Answer(Vec<Region>);

impl Answer {
    /// For questions about ranges no longer than these: no answer has more regions than there are pages.
    #[must_use]
    pub fn of(ranges: &[Range]) -> Self {
        let most = ranges.iter().map(|range| usize::try_from(range.len() / PAGE).unwrap_or(REGIONS)).max().unwrap_or(0);
        Self(vec![Region::default(); most.clamp(1, REGIONS)])
    }
}

/// Ranges no further than `near` from each other made one, with what lies between.
#[must_use]
pub fn neighbours(ranges: impl IntoIterator<Item = Range>, near: u64) -> Vec<Range> {
    let mut all: Vec<Range> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if range.start <= last.end + near => last.end = last.end.max(range.end),
            _ => all.push(range),
        }
    }
    all
}

impl Support {
    /// Whether a process has guard regions, as far as this kernel can tell (Linux 6.15; CRIU sees them there, too).
    ///
    /// # Errors
    /// Its page tables cannot be read.
    pub fn has_guards(self, pid: i32, maps: &[Mapping]) -> io::Result<bool> {
        if !self.guard {
            return Ok(false);
        }
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        let mut first = [Region::default()];
        for mapping in maps {
            let mut argument = ScanArgument {
                start: mapping.range.start,
                end: mapping.range.end,
                category_mask: GUARD,
                return_mask: GUARD,
                max_pages: 1,
                ..ScanArgument::default()
            };
            // Not every mapping can be scanned; those of the kernel's own hold nothing.
            if sys::pagemap_scan(pagemap.as_fd(), &mut argument, &mut first).is_ok_and(|count| count > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Memory of this process, gone when dropped.
struct Patch {
    range: Range,
}

impl Patch {
    const PAGES: usize = 4;

    fn map() -> io::Result<Self> {
        let length = std::num::NonZeroUsize::new(Self::PAGES * 4096).ok_or(io::ErrorKind::InvalidInput)?;
        let start = patch::map(length)?;
        Ok(Self { range: Range { start, end: start + length.get() as u64 } })
    }
}

impl Drop for Patch {
    fn drop(&mut self) {
        patch::unmap(self.range);
    }
}

fn probe() -> io::Result<Support> {
    let naming = |what: &'static str| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let uffd = sys::userfaultfd().map_err(naming("userfaultfd"))?;
    sys::uffd_api(uffd.as_fd()).map_err(naming("asynchronous write protection (Linux 6.7)"))?;
    let pagemap = File::open("/proc/self/pagemap")?;
    let patch = Patch::map()?;
    patch::write(patch.range);
    register(uffd.as_fd(), patch.range).map_err(naming("registering"))?;
    let with = |guard| {
        let support = Support { guard };
        let mut pages = 0;
        support.scan(&pagemap, patch.range, Mode::Look, |found| pages += found.range.len() / PAGE).map(|()| (support, pages))
    };
    let (support, pages) = match with(true) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => with(false),
        other => other,
    }
    .map_err(naming("PAGEMAP_SCAN"))?;
    if pages != Patch::PAGES as u64 {
        return Err(io::Error::other(format!("PAGEMAP_SCAN found {pages} pages of {}", Patch::PAGES)));
    }
    // Protected, moved, and looked at in the new place: the protection must not have come along, or old contents would pass for new ones.
    support.scan(&pagemap, patch.range, Mode::Everything, |_| {})?;
    let moved = patch::shift(patch)?;
    register(uffd.as_fd(), moved.range)?;
    let (mut there, mut clean) = (0, 0);
    support.scan(&pagemap, moved.range, Mode::Look, |found| {
        there += found.range.len();
        clean += if found.written { 0 } else { found.range.len() };
    })?;
    if there == 0 || clean > 0 {
        return Err(io::Error::other("mremap keeps the write protection (fixed in Linux 6.13 and stable kernels)"));
    }
    Ok(support)
}

/// Registers a range for write protection.
pub fn register(uffd: BorrowedFd<'_>, range: Range) -> io::Result<()> {
    sys::uffd_register(uffd, range.start, range.len())
}

/// Takes that back, and the marks of what was protected with it.
pub fn unregister(uffd: BorrowedFd<'_>, range: Range) -> io::Result<()> {
    sys::uffd_unregister(uffd, range.start, range.len())
}

/// The memory that is probed.
#[allow(unsafe_code)]
mod patch {
    use std::ffi::c_void;
    use std::io;
    use std::num::NonZeroUsize;
    use std::ptr::NonNull;

    use super::{MRemapFlags, MapFlags, Patch, ProtFlags, Range};

    fn pointer(address: u64) -> io::Result<NonNull<c_void>> {
        NonNull::new(address as *mut c_void).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    pub fn map(length: NonZeroUsize) -> io::Result<u64> {
        // SAFETY: a new anonymous mapping where the kernel likes it touches nothing that exists.
        let start = unsafe { nix::sys::mman::mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE) }?;
        Ok(start.as_ptr() as u64)
    }

    pub fn write(range: Range) {
        for page in range.pages() {
            // SAFETY: the range is a writable mapping of this module's that nothing else refers to.
            unsafe { (page as *mut u8).write_volatile(1) };
        }
    }

    /// Moves the pages to a new place.
    pub fn shift(patch: Patch) -> io::Result<Patch> {
        let length = usize::try_from(patch.range.len()).unwrap_or(0);
        let place = Patch::map()?;
        let (from, to) = (pointer(patch.range.start)?, pointer(place.range.start)?);
        // SAFETY: both are mappings of this module's of that length that nothing refers to; the new one takes the other's place.
        unsafe { nix::sys::mman::mremap(from, length, length, MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED, Some(to)) }?;
        // Its place is no longer ours: whoever maps something next may get it.
        std::mem::forget(patch);
        Ok(place)
    }

    pub fn unmap(range: Range) {
        if let Ok(start) = pointer(range.start) {
            // SAFETY: a mapping of this module's that nothing refers to any more.
            let _ = unsafe { nix::sys::mman::munmap(start, usize::try_from(range.len()).unwrap_or(0)) };
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn long_answers_are_told_in_order_and_once() {
        let support = match Support::probe() {
            Ok(support) => support,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let uffd = sys::userfaultfd().unwrap();
        sys::uffd_api(uffd.as_fd()).unwrap();
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let pages = REGIONS as u64 * 5;
        let length = std::num::NonZeroUsize::new(usize::try_from(pages * PAGE).unwrap()).unwrap();
        let start = patch::map(length).unwrap();
        let patch = Patch { range: Range { start, end: start + pages * PAGE } };
        patch::write(patch.range);
        register(uffd.as_fd(), patch.range).unwrap();
        support.scan(&pagemap, patch.range, Mode::Everything, |_| {}).unwrap();
        for page in (0..pages).filter(|page| page % 2 == 1) {
            let at = patch.range.start + page * PAGE;
            patch::write(Range { start: at, end: at + PAGE });
        }
        for mode in [Mode::Look, Mode::Unregistered, Mode::Kept, Mode::Marked, Mode::Written] {
            let (mut at, mut there, mut written) = (patch.range.start, 0, 0);
            support
                .scan(&pagemap, patch.range, mode, |found| {
                    assert!(found.range.start >= at, "{mode:?}: {:#x} after {at:#x}", found.range.start);
                    at = found.range.end;
                    there += found.range.len() / PAGE;
                    written += if found.written { found.range.len() / PAGE } else { 0 };
                })
                .unwrap();
            let expected = match mode {
                Mode::Written => (pages / 2, pages / 2),
                Mode::Kept | Mode::Marked => (pages / 2, 0),
                _ => (pages, pages / 2),
            };
            assert_eq!((there, written), expected, "{mode:?}");
        }
    }

    /// A program that has a guard region in its first argument's place, or not.
    const GUARDED: &str = "import ctypes, mmap, sys\n\
        memory = mmap.mmap(-1, 1 << 20)\n\
        place = ctypes.addressof(ctypes.c_char.from_buffer(memory))\n\
        done = ctypes.CDLL(None).madvise(ctypes.c_void_p(place), 4096, 102) if sys.argv[1] == 'guard' else 0\n\
        print('ready' if done == 0 else 'unknown', flush=True)\n\
        sys.stdin.read()\n";

    #[test]
    fn guard_regions_are_seen() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};
        let support = match Support::probe() {
            Ok(support) if support.guard => support,
            Ok(_) => return eprintln!("skipped: this kernel does not tell guard regions (Linux 6.15)"),
            Err(error) => return eprintln!("skipped: {error}"),
        };
        for (word, expected) in [("guard", true), ("none", false)] {
            let mut child = Command::new("python3").args(["-c", GUARDED, word]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut said = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
            assert_eq!(said.trim(), "ready");
            let pid = child.id().cast_signed();
            assert_eq!(support.has_guards(pid, &crate::maps::of(pid).unwrap()).unwrap(), expected, "{word}");
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }
}
