//! All memory is read and compared, by digests, with what the other side has. For kernels that cannot tell what was written, and for programs whose devices write past
//! every protection (O_DIRECT): it needs nothing but the memory itself, and in the end, when the process stands still, what was looked at is what is.
//!
//! ```text
//!   round   [soft-dirty marks away] ─▶ pagemap: what is there ─▶ read ─▶ digest other than the one noted when the page was sent: changed
//!   last    the same of a process that stands still, on all processors; where marks can be believed, only pages that are marked
//! ```
//! `/proc/PID/pagemap` (Documentation/admin-guide/mm/pagemap.rst) says which pages are there at all. Pages of zeros need not be anywhere.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::libc;

use super::soft_dirty::{self, MARK};
use super::{Last, Tracking};
use crate::index::{Index, Known};
use crate::maps::{self, Mapping};
use crate::range::{PAGE, Range, push};
use crate::sys::read_memory;
use crate::{Error, read};

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// A guard region (Linux 6.15). Earlier ones look like swapped pages that cannot be read.
const GUARD: u64 = 1 << 58;
/// The number of a page in memory, and whether it is the kernel's page of zeros by that (`/proc/kpageflags`, Documentation/admin-guide/mm/pagemap.rst).
const FRAME: u64 = (1 << 55) - 1;
const KPF_ZERO_PAGE: u64 = 1 << 24;
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

/// See the module.
#[derive(Debug)]
pub struct Digests {
    pid: i32,
    /// Soft-dirty bits are there and can be believed.
    soft_dirty: bool,
    /// They were taken away before a round.
    cleared: bool,
}

impl Digests {
    pub fn new(pid: i32, soft_dirty: bool) -> Self {
        Self { pid, soft_dirty, cleared: false }
    }

    pub fn tracking(&self) -> Tracking {
        if self.soft_dirty { Tracking::SoftDirty } else { Tracking::Digests }
    }

    /// Takes the marks away, before a round.
    pub fn begin(&mut self) -> Result<(), Error> {
        if self.soft_dirty {
            soft_dirty::clear(self.pid).map_err(|error| unreadable(self.pid, error))?;
            self.cleared = true;
        }
        Ok(())
    }

    /// Pages of a running process that the other side does not have as they are, in order.
    pub fn round(&self, index: &Index) -> Result<Vec<Range>, Error> {
        let pid = self.pid;
        let mappings = maps::of(pid).map_err(|_| Error::Gone(pid))?;
        let look = Look { pid, pagemap: super::pagemap(pid)?, index, marks: None };
        let mut changed = Vec::new();
        for mapping in mappings.iter().filter(|mapping| mapping.travels()) {
            look.at(mapping.range, |at, now| {
                if now == Now::Other || now == Now::Zero && index.get(at) != Known::Zero {
                    push(&mut changed, Range { start: at, end: at + PAGE });
                }
            })
            .map_err(|error| unreadable(pid, error))?;
        }
        Ok(changed)
    }

    /// What is there, in the mappings of a process that stands still, with what is something else now forgotten by the index.
    pub fn last(&self, mappings: &[&Mapping], index: &mut Index) -> Result<Last, Error> {
        let pid = self.pid;
        let marks = self.cleared.then(|| File::open("/proc/kpageflags")).transpose().map_err(Error::call("/proc/kpageflags"))?;
        let look = Look { pid, pagemap: super::pagemap(pid)?, index, marks };
        let mut last = Last { hidden: mappings.iter().filter(|mapping| mapping.travels()).map(|mapping| mapping.range).collect(), ..Last::default() };
        let shares: Vec<Range> = last.hidden.iter().flat_map(|range| shares(*range)).collect();
        let found = in_parallel(&look, &shares).map_err(|error| unreadable(pid, error))?;
        let memory = File::open(format!("/proc/{pid}/mem")).map_err(|_| Error::Gone(pid))?;
        for mapping in mappings.iter().filter(|mapping| !mapping.travels()) {
            let present = look.present(mapping.range).map_err(|error| unreadable(pid, error))?;
            present.into_iter().try_for_each(|(range, _)| left(&memory, range, &mut last.left)).map_err(|error| unreadable(pid, error))?;
        }
        for (pages, other) in found {
            pages.into_iter().for_each(|range| push(&mut last.pages, range));
            other.into_iter().for_each(|range| index.forget(range));
        }
        Ok(last)
    }
}

type Found = (Vec<Range>, Vec<Range>);

/// Pages that hold something, and those of them that are something else, of each share.
fn in_parallel(look: &Look<'_>, shares: &[Range]) -> io::Result<Vec<Found>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(shares.len().max(1));
    let one = |share: &Range| -> io::Result<Found> {
        let (mut pages, mut other) = (Vec::new(), Vec::new());
        look.at(*share, |at, now| {
            let page = Range { start: at, end: at + PAGE };
            if now != Now::Zero {
                push(&mut pages, page);
            }
            if now == Now::Other {
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
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
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

fn shares(range: Range) -> impl Iterator<Item = Range> {
    let length = usize::try_from(SHARE).unwrap_or(usize::MAX);
    (range.start..range.end).step_by(length).map(move |start| Range { start, end: range.end.min(start + SHARE) })
}

/// A look at the memory of a process.
struct Look<'a> {
    pid: i32,
    pagemap: File,
    index: &'a Index,
    /// `/proc/kpageflags`, if pages that are not marked as soft-dirty are those that were looked at last.
    marks: Option<File>,
}

impl Look<'_> {
    /// Calls `found` for every page of a readable mapping that is there, in order.
    fn at(&self, range: Range, mut found: impl FnMut(u64, Now)) -> io::Result<()> {
        let mut buffer = vec![0u8; read::PIECE];
        for (present, unmarked) in self.present(range)? {
            let mut at = present.start;
            while at < present.end {
                if unmarked && self.index.get(at) != Known::No {
                    found(at, if self.index.get(at) == Known::Zero { Now::Zero } else { Now::Same });
                    at += PAGE;
                    continue;
                }
                let wanted = if unmarked { 4096 } else { usize::try_from(present.end - at).unwrap_or(read::PIECE).min(read::PIECE) };
                let done = match read_memory(self.pid, at, &mut buffer[..wanted]) {
                    Ok(done) => done - done % 4096,
                    // Unmapped since, or a guard.
                    Err(error) if error.raw_os_error() == Some(libc::EFAULT) => 0,
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
                    at += PAGE;
                }
            }
        }
        Ok(())
    }

    /// Runs of pages that are present or swapped, and whether all of a run is as it was when the marks were taken away. A page that was given back and only read since is
    /// not marked, but it is the page of zeros: that one is never called unmarked.
    fn present(&self, range: Range) -> io::Result<Vec<(Range, bool)>> {
        let mut runs: Vec<(Range, bool)> = Vec::new();
        let mut entries = vec![0u8; usize::try_from(ENTRIES * 8).unwrap_or(0)];
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + ENTRIES * PAGE);
            let wanted = usize::try_from((end - at) / PAGE * 8).unwrap_or(0);
            let done = self.pagemap.read_at(&mut entries[..wanted], at / PAGE * 8)?;
            if done < 8 {
                // The process has ended, or its memory goes no further.
                break;
            }
            let entries: Vec<u64> = entries[..done].chunks_exact(8).map(number).collect();
            let zeros = self.zeros(&entries)?;
            for (entry, zero) in entries.iter().zip(zeros) {
                if entry & (PRESENT | SWAPPED) != 0 && entry & GUARD == 0 {
                    let unmarked = self.marks.is_some() && entry & MARK == 0 && !zero;
                    match runs.last_mut() {
                        Some((last, same)) if last.end == at && *same == unmarked => last.end += PAGE,
                        _ => runs.push((Range { start: at, end: at + PAGE }, unmarked)),
                    }
                }
                at += PAGE;
            }
        }
        Ok(runs)
    }

    /// Which of these entries are the kernel's page of zeros, small or huge. Looked up for unmarked pages only, at once for those whose frames follow each other.
    fn zeros(&self, entries: &[u64]) -> io::Result<Vec<bool>> {
        let mut zeros = vec![false; entries.len()];
        let Some(flags) = &self.marks else { return Ok(zeros) };
        let asked = |entry: u64| entry & PRESENT != 0 && entry & MARK == 0;
        let mut at = 0;
        while at < entries.len() {
            let run = entries[at..].iter().zip(entries[at] & FRAME..).take_while(|(entry, frame)| asked(**entry) && **entry & FRAME == *frame).count();
            let mut words = vec![0u8; run * 8];
            flags.read_exact_at(&mut words, (entries[at] & FRAME) * 8)?;
            for (zero, word) in zeros[at..].iter_mut().zip(words.chunks_exact(8)) {
                *zero = number(word) & KPF_ZERO_PAGE != 0;
            }
            at += run.max(1);
        }
        Ok(zeros)
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

/// Pages of a mapping that CRIU has to take: those that hold something. Read past their protection (`/proc/PID/mem`).
fn left(memory: &File, present: Range, left: &mut Vec<Range>) -> io::Result<()> {
    let mut page = [0u8; 4096];
    for at in present.pages() {
        match memory.read_exact_at(&mut page, at) {
            Ok(()) if read::is_zero(&page) => {}
            Ok(()) => push(left, Range { start: at, end: at + PAGE }),
            // A guard.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn unreadable(pid: i32, error: io::Error) -> Error {
    if error.raw_os_error() == Some(libc::ESRCH) { Error::Gone(pid) } else { Error::call(format!("cannot read the memory of process {pid}"))(error) }
}
