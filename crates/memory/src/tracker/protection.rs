//! Asynchronous write protection of a userfaultfd, seen through PAGEMAP_SCAN. The process notices nothing but a fault for the first write to a page.
//!
//! Rules, each from a corruption that was seen:
//! - Whole ranges are registered, never a single mapping ([`maps::between`]).
//! - They are registered once, before anything is known. A mapping that mremap moves to the side of another may take that one's registration away, and what was protected
//!   stays marked as such while it is written. Registered again, it would pass for unchanged. So what is not registered in the end is CRIU's: it is new, or it was moved.
//! - A scan that meets an unregistered mapping (EPERM) has protected what lies before it and lost its answer: what was to be scanned is taken again, written or not, as
//!   soon as it can be looked at.
//! - Only entries with a page (present or swapped) are matched and so protected.
//! - In the end all pages that are there are looked at: what was dropped since (MADV_DONTNEED) is known no more, what is there and not known counts as changed. That a page is there and was
//!   not written is asked first: it takes the kernel a fifth of the time, and leaves little of which more must be known.
//! - Guard pages look swapped and cannot be read: they are left out.
//! - What pins pages and writes into them later (O_DIRECT, io_uring, RDMA) is not seen: [`crate::hazard`] is asked before and after each scan.
//! - Another program in the process (execve), or another process of that number: nothing of what was known holds.
//!
//! Of what was written it is asked afterwards whether it is the process's own: to know that, the kernel must look at each page's own record. A page that becomes another between the two
//! questions counts as written once more; one that goes is missed by nobody, since in the end only what is there counts.
//!
//! It costs the tracked process some 40 ms for each GiB.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::libc;

use super::Last;
use crate::Error;
use crate::index::{Index, Known};
use crate::maps::{self, Mapping};
use crate::range::{Range, common, joined, push, subtract};
use crate::scan::{Answer, HUGE, Mode, NEAR, Pages, Support, neighbours, register};

/// How often a scan is repeated because mappings come and go meanwhile.
const AGAIN: usize = 2;

/// Bytes of a mapping that are worth a thread of their own: about a millisecond's work.
const LEAST: u64 = 128 << 20;
/// Threads that look at one mapping at most.
const MOST: usize = 4;

/// See the module. Dropped, it ends, and so it does when the process that holds it ends.
#[derive(Debug)]
pub struct Protection {
    pid: i32,
    uffd: OwnedFd,
    support: Support,
    /// Where the answer of a scan was lost: what is there counts as written until it was looked at as a whole. In order.
    lost: Vec<Range>,
}

impl Protection {
    /// Begins. `droppable` is renewed if the kernel does not want to protect something.
    pub fn attach(pid: i32, mappings: &[Mapping], droppable: &mut Vec<Range>) -> Result<Self, Error> {
        let support = Support::probe()?;
        #[cfg(target_arch = "x86_64")]
        let uffd = crate::inject::userfaultfd_of(pid)?;
        #[cfg(not(target_arch = "x86_64"))]
        let uffd: OwnedFd = return Err(Error::Unsupported("memory can be write-protected from outside on x86-64 only yet".into()));
        crate::sys::uffd_api(uffd.as_fd()).map_err(Error::call("asynchronous write protection"))?;
        let protection = Self { pid, uffd, support, lost: Vec::new() };
        protection.register(mappings, droppable)?;
        Ok(protection)
    }

    /// Pages that were written since the last call, in order; they are protected again.
    pub fn round(&mut self, index: &mut Index) -> Result<Vec<Range>, Error> {
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        // A mapping that was split or moved since `maps` was read is looked at once more.
        let mut failed: Option<Vec<Range>> = None;
        for _ in 0..AGAIN {
            let mappings = maps::of(self.pid).map_err(|_| Error::Gone(self.pid))?;
            let pagemap = super::pagemap(self.pid)?;
            let mut again = Vec::new();
            for mapping in mappings.iter().filter(|mapping| mapping.travels()) {
                let range = mapping.range;
                if failed.as_ref().is_some_and(|failed| !failed.iter().any(|failed| failed.meets(&range))) {
                    continue;
                }
                let lost = self.lost.iter().any(|lost| lost.meets(&range));
                let scanned = if lost {
                    self.support.scan(&pagemap, range, Mode::Everything, |pages| if pages.own { &mut changed } else { &mut gone }.push(pages.range))
                } else {
                    self.written(&pagemap, range, &mut changed, &mut gone)
                };
                match scanned {
                    // What lies in a mapping that does not travel just now (it is unreadable for a moment) stays lost until it does.
                    Ok(()) if lost => self.lost = subtract(&self.lost, &[range]),
                    Ok(()) => {}
                    Err(error) if may_be_repeated(&error) => again.push(range),
                    Err(error) => return Err(Error::call(format!("PAGEMAP_SCAN of process {}", self.pid))(error)),
                }
            }
            if again.is_empty() {
                break;
            }
            self.lost = joined(self.lost.iter().copied().chain(again.iter().copied()));
            failed = Some(again);
        }
        // The same pages may have been found by two scans.
        let changed = joined(changed);
        for range in gone {
            index.forget(range);
        }
        Ok(changed)
    }

    /// What is there, in the mappings of a process that stands still, with what was written forgotten by the index. Protects nothing.
    pub fn last(&self, mappings: &[&Mapping], index: &mut Index) -> Result<Last, Error> {
        let pagemap = super::pagemap(self.pid)?;
        let mut last = Last::default();
        for mapping in mappings {
            let range = mapping.range;
            let mut found: Vec<Pages> = Vec::new();
            if mapping.travels() {
                let lost = self.lost.iter().any(|lost| lost.meets(&range));
                // What was protected when an answer was lost is not as the index knows it.
                let known = if lost { Ok(Vec::new()) } else { self.known(&pagemap, range, index) };
                match known.and_then(|known| self.look(&pagemap, range, known, &mut found)) {
                    Ok(kept) => {
                        last.hidden.push(range);
                        // What is known is no guard. One more question takes CRIU about as long as looking at a huge page's worth of small ones.
                        if range.len() >= HUGE && self.support.tells_guards() && !found.iter().any(|pages| pages.guard) {
                            last.unguarded.push(range);
                        }
                        for pages in found.iter().filter(|pages| pages.own && (pages.written || lost)) {
                            index.forget(pages.range);
                        }
                        let own = found.iter().filter(|pages| pages.own).map(|pages| pages.range);
                        last.pages.extend(joined(own.chain(kept)));
                        continue;
                    }
                    // Mapped or moved since the beginning: CRIU takes it.
                    Err(error) if error.raw_os_error() == Some(libc::EPERM) => found.clear(),
                    Err(error) => return Err(Error::call(format!("PAGEMAP_SCAN of process {}", self.pid))(error)),
                }
            }
            self.support
                .scan(&pagemap, range, Mode::Unregistered, |pages| found.push(pages))
                .map_err(Error::call(format!("PAGEMAP_SCAN of process {}", self.pid)))?;
            for pages in found.iter().filter(|pages| pages.own) {
                push(&mut last.left, pages.range);
            }
        }
        Ok(last)
    }

    /// What of a range was written since it was protected, which it is again: the process's own pages, and what is none of these.
    fn written(&self, pagemap: &File, range: Range, changed: &mut Vec<Range>, gone: &mut Vec<Range>) -> io::Result<()> {
        let (mut rest, mut answer) = (range, Answer::of(&[range]));
        while !rest.is_empty() {
            let (mut written, mut own, mut others) = (Vec::new(), Vec::new(), Vec::new());
            rest.start = self.support.step(pagemap, rest, Mode::Written, &mut answer, |pages| push(&mut written, pages.range))?;
            let near = neighbours(written.iter().copied(), NEAR);
            self.support.scan_all(pagemap, &near, Mode::Look, |pages| push(if pages.own { &mut own } else { &mut others }, pages.range))?;
            changed.extend(common(&own, &written));
            gone.extend(common(&others, &written));
        }
        Ok(())
    }

    /// What is there as it was protected, and is known to the index.
    fn known(&self, pagemap: &File, range: Range, index: &Index) -> io::Result<Vec<Range>> {
        let kept = self.kept(pagemap, range)?;
        // The index knows only pages of the process's own: what it does not know may be the zero page, or a guard.
        Ok(subtract(&kept, &index.pick(&kept, Known::No)))
    }

    /// What is there as it was protected. The process stands still and waits for this: the parts of much memory are looked at side by side.
    fn kept(&self, pagemap: &File, range: Range) -> io::Result<Vec<Range>> {
        let look = |part: Range| {
            let mut kept = Vec::new();
            self.support.scan(pagemap, part, Mode::Kept, |pages| push(&mut kept, pages.range)).map(|()| kept)
        };
        let parts = range.parts(threads(), LEAST);
        let looked: Vec<io::Result<Vec<Range>>> = std::thread::scope(|scope| {
            // Where no thread can be had, this one does it.
            let begin = |part: &Range| {
                let part = *part;
                std::thread::Builder::new().spawn_scoped(scope, move || look(part)).map_err(|_| part)
            };
            let others: Vec<_> = parts.iter().skip(1).map(begin).collect();
            let first = parts.first().map(|part| look(*part));
            let ended = |_| Err(io::Error::other("a look at the page tables ended early"));
            let others = others.into_iter().map(|other| other.map_or_else(look, |thread| thread.join().unwrap_or_else(ended)));
            first.into_iter().chain(others).collect()
        });
        let mut kept = Vec::new();
        for part in looked {
            part?.into_iter().for_each(|range| push(&mut kept, range));
        }
        Ok(kept)
    }

    /// Tells the state of all that is there but not known; returns what of the known was not told.
    fn look(&self, pagemap: &File, range: Range, known: Vec<Range>, found: &mut Vec<Pages>) -> io::Result<Vec<Range>> {
        let rest = neighbours(subtract(&[range], &known), NEAR);
        self.support.scan_all(pagemap, &rest, Mode::Look, |pages| found.push(pages))?;
        Ok(subtract(&known, &rest))
    }

    fn register(&self, mappings: &[Mapping], droppable: &mut Vec<Range>) -> Result<(), Error> {
        for range in maps::between(mappings, droppable) {
            match self.try_register(range, mappings) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    // Something in there cannot be registered.
                    *droppable = maps::droppable(self.pid).map_err(|_| Error::Gone(self.pid))?;
                    for range in maps::between(mappings, droppable) {
                        self.try_register(range, mappings).map_err(Error::call(format!("UFFDIO_REGISTER in process {}", self.pid)))?;
                    }
                    return Ok(());
                }
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(Error::Gone(self.pid)),
                other => other.map_err(Error::call(format!("UFFDIO_REGISTER in process {}", self.pid)))?,
            }
        }
        Ok(())
    }

    fn try_register(&self, range: Range, mappings: &[Mapping]) -> io::Result<()> {
        match register(self.uffd.as_fd(), range) {
            // Nothing is mapped there.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOMEM)) && !mappings.iter().any(|mapping| mapping.range.meets(&range)) => {
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => Ok(()),
            other => other,
        }
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get).min(MOST)
}

/// EPERM: a mapping that is not registered. ENOMEM: one that is gone.
fn may_be_repeated(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOMEM))
}
