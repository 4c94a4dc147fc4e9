//! All memory is read and compared, by digests, with what the other side has. For kernels that cannot tell what was written, and for programs whose devices write past
//! every protection (O_DIRECT): it needs nothing but the memory itself, and in the end, when the process stands still, what was looked at is what is.
//!
//! ```text
//!   round   pagemap: what is there ─▶ read ─▶ digest other than the one noted when the page was sent: changed
//!   last    the same of a process that stands still, on all processors
//! ```
//! `/proc/PID/pagemap` (Documentation/admin-guide/mm/pagemap.rst) says which pages are there at all. Pages of zeros need not be anywhere.
//!
//! Soft-dirty bits (Documentation/admin-guide/mm/soft-dirty.rst) would spare the reading in the end, but they cannot be believed. When mremap moves whole page tables
//! (2 MiB and more, aligned), the kernel marks nothing at the new place (`move_normal_pmd`; seen on Linux 6.12): there is other memory than before, and no bit says so.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::libc;

use super::Last;
use crate::index::{Index, Known};
use crate::maps::Mapping;
use crate::range::{PAGE, Range, push};
use crate::{Error, read};

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// A guard region (Linux 6.15). Earlier ones look like swapped pages that cannot be read.
const GUARD: u64 = 1 << 58;
/// Entries of the pagemap that are read at once.
const ENTRIES: u64 = 4096;
/// What one thread takes at a time.
const SHARE: u64 = 32 << 20;

/// What is in a page now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Now {
    /// What the other side has.
    Same,
    /// Only zeros.
    Zero,
    /// Something else.
    Other,
}

/// Pages of a running process that the other side does not have as they are, in order.
pub fn round(pid: i32, mappings: &[Mapping], index: &Index) -> Result<Vec<Range>, Error> {
    // The program goes on meanwhile: half of the processors are left to it and to others.
    let look = Look { pagemap: super::pagemap(pid)?, memory: memory(pid)?, index, stands_still: false };
    let shares: Vec<Range> = mappings.iter().filter(|mapping| mapping.travels()).flat_map(|mapping| shares(mapping.range)).collect();
    let found = look.all(&shares, processors().div_ceil(2)).map_err(|error| unreadable(pid, error))?;
    let mut changed = Vec::new();
    found.into_iter().flat_map(|(_, other)| other).for_each(|range| push(&mut changed, range));
    Ok(changed)
}

/// What is there, in the mappings of a process that stands still, with what is something else now forgotten by the index.
pub fn last(pid: i32, mappings: &[&Mapping], index: &mut Index) -> Result<Last, Error> {
    let look = Look { pagemap: super::pagemap(pid)?, memory: memory(pid)?, index, stands_still: true };
    let mut last = Last { hidden: mappings.iter().filter(|mapping| mapping.travels()).map(|mapping| mapping.range).collect(), ..Last::default() };
    let shares: Vec<Range> = last.hidden.iter().flat_map(|range| shares(*range)).collect();
    let found = look.all(&shares, processors()).map_err(|error| unreadable(pid, error))?;
    for mapping in mappings.iter().filter(|mapping| !mapping.travels()) {
        // Those that hold something are CRIU's.
        look.at(mapping.range, |at, now| {
            if now != Now::Zero {
                push(&mut last.left, Range { start: at, end: at + PAGE });
            }
        })
        .map_err(|error| unreadable(pid, error))?;
    }
    for (pages, other) in found {
        pages.into_iter().for_each(|range| push(&mut last.pages, range));
        other.into_iter().for_each(|range| index.forget(range));
    }
    Ok(last)
}

/// Pages that hold something, and pages that the other side does not have as they are.
type Found = (Vec<Range>, Vec<Range>);

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// `/proc/PID/mem`: it reads past the protection of mappings, and, other than process_vm_readv, does not pin pages, for which the kernel would give each of the processes
/// that share one a copy of its own.
fn memory(pid: i32) -> Result<File, Error> {
    File::open(format!("/proc/{pid}/mem")).map_err(|_| Error::Gone(pid))
}

fn shares(range: Range) -> impl Iterator<Item = Range> {
    let length = usize::try_from(SHARE).unwrap_or(usize::MAX);
    (range.start..range.end).step_by(length).map(move |start| Range { start, end: range.end.min(start + SHARE) })
}

/// A look at the memory of a process.
struct Look<'a> {
    pagemap: File,
    memory: File,
    index: &'a Index,
    /// Nothing can go meanwhile: what cannot be read is there all the same.
    stands_still: bool,
}

impl Look<'_> {
    /// What is found in each share, by several threads.
    fn all(&self, shares: &[Range], threads: usize) -> io::Result<Vec<Found>> {
        let one = |share: &Range| -> io::Result<Found> {
            let (mut pages, mut other) = (Vec::new(), Vec::new());
            self.at(*share, |at, now| {
                let page = Range { start: at, end: at + PAGE };
                if now != Now::Zero {
                    push(&mut pages, page);
                }
                if now == Now::Other || now == Now::Zero && self.index.get(at) != Known::Zero {
                    push(&mut other, page);
                }
            })?;
            Ok((pages, other))
        };
        let next = AtomicUsize::new(0);
        let mut found: Vec<(usize, io::Result<Found>)> = std::thread::scope(|scope| {
            let work = || {
                let taken = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
                taken.map_while(|at| Some((at, one(shares.get(at)?)))).collect::<Vec<_>>()
            };
            // A thread for less than a share is not worth it.
            let bytes: u64 = shares.iter().map(Range::len).sum();
            let worth = usize::try_from(bytes.div_ceil(SHARE)).unwrap_or(usize::MAX);
            let others: Vec<_> = (1..threads.min(worth)).map(|_| scope.spawn(work)).collect();
            let mut all = work();
            all.extend(others.into_iter().flat_map(|other| other.join().unwrap_or_default()));
            all
        });
        if found.len() != shares.len() {
            return Err(io::Error::other("a thread ended early"));
        }
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(_, found)| found).collect()
    }

    /// Calls `found` for every page that is there, in order.
    fn at(&self, range: Range, mut found: impl FnMut(u64, Now)) -> io::Result<()> {
        let mut buffer = Vec::new();
        for present in self.present(range)? {
            let mut at = present.start;
            while at < present.end {
                let wanted = usize::try_from(present.end - at).unwrap_or(read::PIECE).min(read::PIECE);
                buffer.resize(wanted.max(buffer.len()), 0);
                let done = match self.memory.read_at(&mut buffer[..wanted], at) {
                    Ok(done) => done - done % 4096,
                    // Unmapped since, a guard of a kernel that does not tell, or memory that cannot be brought back.
                    Err(error) if error.raw_os_error() == Some(libc::EIO) => 0,
                    Err(error) => return Err(error),
                };
                for page in buffer[..done].chunks_exact(4096) {
                    let now = if read::is_zero(page) {
                        Now::Zero
                    } else if self.index.has(at, page) {
                        Now::Same
                    } else {
                        Now::Other
                    };
                    found(at, now);
                    at += PAGE;
                }
                if done == 0 {
                    if self.stands_still {
                        // Nobody may take it for zeros: it is sent, or missed in the end.
                        found(at, Now::Other);
                    }
                    at += PAGE;
                }
            }
        }
        Ok(())
    }

    /// Pages that are present or swapped.
    fn present(&self, range: Range) -> io::Result<Vec<Range>> {
        let mut present = Vec::new();
        let mut entries = vec![0u8; usize::try_from(ENTRIES * 8).unwrap_or(0)];
        let mut at = range.start;
        while at < range.end {
            let wanted = usize::try_from(ENTRIES.min((range.end - at) / PAGE) * 8).unwrap_or(0);
            let done = self.pagemap.read_at(&mut entries[..wanted], at / PAGE * 8)?;
            if done < 8 {
                // The process has ended.
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            for entry in entries[..done].chunks_exact(8) {
                let entry = entry.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
                if entry & (PRESENT | SWAPPED) != 0 && entry & GUARD == 0 {
                    push(&mut present, Range { start: at, end: at + PAGE });
                }
                at += PAGE;
            }
        }
        Ok(present)
    }
}

fn unreadable(pid: i32, error: io::Error) -> Error {
    if error.raw_os_error() == Some(libc::ESRCH) { Error::Gone(pid) } else { Error::call(format!("cannot read the memory of process {pid}"))(error) }
}
