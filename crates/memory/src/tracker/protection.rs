//! Asynchronous write protection of a userfaultfd, seen through PAGEMAP_SCAN. The process notices nothing but a fault for the first write to a page.
//!
//! Rules, each from a corruption that was seen:
//! - Whole ranges are registered, never a single mapping ([`maps::between`]).
//! - They are registered once, before anything is known. A mapping that mremap moves to the side of another may take that one's registration away, and what was protected
//!   stays marked as such while it is written. Registered again, it would pass for unchanged. So what is not registered in the end is CRIU's: it is new, or it was moved.
//!   The marks outlive the tracking: one that begins takes away what an earlier one of the same process has left.
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
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::libc;

use super::Last;
use crate::Error;
use crate::index::{Index, Known};
use crate::maps::{self, Mapping};
use crate::range::{Range, common, joined, push, subtract};
use crate::scan::{Answer, HUGE, Mode, NEAR, Pages, Support, neighbours, register, unregister};

/// How often a scan is repeated because mappings come and go meanwhile.
const AGAIN: usize = 2;

/// Bytes of a mapping that are worth a thread of their own: about a millisecond's work.
const LEAST: u64 = 128 << 20;
/// Threads that look at one mapping at most.
const MOST: usize = 4;

/// Processes that this program tracks. One that is not among them and has a userfaultfd registered has somebody else's.
static TRACKED: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// See the module. Dropped, it ends, and so it does when the process that holds it ends.
#[derive(Debug)]
pub struct Protection {
    pid: i32,
    uffd: OwnedFd,
    support: Support,
    /// Where the answer of a scan was lost: what is there counts as written until it was looked at as a whole. In order.
    lost: Vec<Range>,
    /// Behind the userfaultfd, which is closed before.
    _entry: Entry,
}

/// That a process is among the [`TRACKED`].
#[derive(Debug)]
struct Entry(i32);

impl Entry {
    fn all() -> MutexGuard<'static, Vec<i32>> {
        TRACKED.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(pid: i32) -> Self {
        Self::all().push(pid);
        Self(pid)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut all = Self::all();
        if let Some(at) = all.iter().position(|pid| *pid == self.0) {
            all.swap_remove(at);
        }
    }
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
        register_all(pid, &uffd, mappings, droppable)?;
        let protection = Self { pid, uffd, support, lost: Vec::new(), _entry: Entry::of(pid) };
        protection.clear(mappings, droppable)?;
        Ok(protection)
    }

    /// Takes away what an earlier tracking has left where a mapping had lost its registration: a page that is marked, and writable all the same, would be written without anybody noticing.
    /// With the registration of a range its marks end. Nothing has been protected yet that could be lost by that.
    fn clear(&self, mappings: &[Mapping], droppable: &mut Vec<Range>) -> Result<(), Error> {
        let marked = self.marked(mappings)?;
        if marked.is_empty() {
            return Ok(());
        }
        for range in maps::between(mappings, droppable) {
            if marked.iter().any(|pages| pages.meets(&range)) {
                unregister(self.uffd.as_fd(), range).map_err(Error::call(format!("UFFDIO_UNREGISTER in process {}", self.pid)))?;
            }
        }
        register_all(self.pid, &self.uffd, mappings, droppable)
    }

    /// Pages of the process's own that are marked as protected. Guards may be, too: the kernel never takes that mark away, and does not need to.
    fn marked(&self, mappings: &[Mapping]) -> Result<Vec<Range>, Error> {
        let pagemap = super::pagemap(self.pid)?;
        let (mut marked, mut own) = (Vec::new(), Vec::new());
        let looked = |looked: io::Result<()>| match looked {
            Err(error) if !may_be_repeated(&error) => Err(Error::call(format!("PAGEMAP_SCAN of process {}", self.pid))(error)),
            // What has gone meanwhile has no marks.
            _ => Ok(()),
        };
        // Those, too, that do not travel now, but might later: they are made readable, or they grow.
        for mapping in mappings.iter().filter(|mapping| mapping.is_plain()) {
            looked(self.support.scan(&pagemap, mapping.range, Mode::Marked, |pages| push(&mut marked, pages.range)))?;
        }
        looked(self.support.scan_all(&pagemap, &marked, Mode::Unregistered, |pages| {
            if pages.own && !pages.written {
                own.push(pages.range);
            }
        }))?;
        Ok(own)
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
}

/// Registers everything. `droppable` is renewed if the kernel does not want to register something.
fn register_all(pid: i32, uffd: &OwnedFd, mappings: &[Mapping], droppable: &mut Vec<Range>) -> Result<(), Error> {
    let registered = match try_register(uffd, mappings, droppable) {
        // Something in there cannot be registered.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            *droppable = maps::droppable(pid).map_err(|_| Error::Gone(pid))?;
            try_register(uffd, mappings, droppable)
        }
        other => other,
    };
    registered.map_err(|error| match error.raw_os_error() {
        Some(libc::ESRCH) => Error::Gone(pid),
        Some(libc::EBUSY) if Entry::all().contains(&pid) => Error::Busy(pid),
        Some(libc::EBUSY) => Error::call(format!("another program has a userfaultfd of process {pid}: UFFDIO_REGISTER"))(error),
        _ => Error::call(format!("UFFDIO_REGISTER in process {pid}"))(error),
    })
}

fn try_register(uffd: &OwnedFd, mappings: &[Mapping], droppable: &[Range]) -> io::Result<()> {
    for range in maps::between(mappings, droppable) {
        match register(uffd.as_fd(), range) {
            // Nothing is mapped there.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !mappings.iter().any(|mapping| mapping.range.meets(&range)) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {}
            other => other?,
        }
    }
    Ok(())
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get).min(MOST)
}

/// EPERM: a mapping that is not registered. ENOMEM: one that is gone.
fn may_be_repeated(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOMEM))
}
