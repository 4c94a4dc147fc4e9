//! Which pages of one process have changed: userfaultfd's asynchronous write protection, seen through PAGEMAP_SCAN. The process notices nothing.
//!
//! ```text
//!   attach: register ─▶ round ─▶ round ─▶ … ─▶ [frozen] ─▶ last            each round: maps, scan
//! ```
//! Rules, each from a corruption that was seen:
//! - Whole ranges are registered, never a single mapping ([`maps::between`]).
//! - They are registered once, before anything is known. A mapping that mremap moves to the side of another may take that one's registration away, and what was protected
//!   stays marked as such while it is written. Registered again, it would pass for unchanged. So what is not registered in the end is CRIU's: it is new, or it was moved.
//! - A scan that meets an unregistered mapping (EPERM) has protected what lies before it and lost its answer: what was to be scanned is taken again, written or not, as
//!   soon as it can be looked at.
//! - Only entries with a page (present or swapped) are matched and so protected.
//! - In the end all pages that are there are looked at: what was dropped since (MADV_DONTNEED) is known no more, what is there and not known counts as changed.
//! - Guard pages look swapped and cannot be read: they are left out.
//! - What pins pages and writes into them later (O_DIRECT, io_uring, RDMA) is not seen: [`crate::hazard`] is asked before and after each scan.
//! - Another program in the process (execve), or another process of that number: nothing of what was known holds.
//!
//! Dropping the tracker ends the tracking, and so does the end of the process that holds it. It costs the tracked process some 40 ms for each GiB.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::libc;

use crate::index::{Index, Known};
use crate::maps::{self, Mapping};
use crate::range::{Range, bytes, joined, push, subtract};
use crate::scan::{Mode, Pages, Support, register};
use crate::{Error, hazard};

/// How often a scan is repeated because mappings come and go meanwhile.
const AGAIN: usize = 2;

/// One process whose memory is tracked.
#[derive(Debug)]
pub struct Tracker {
    /// Its number here.
    pub pid: i32,
    started: u64,
    uffd: OwnedFd,
    support: Support,
    /// What the other side has.
    pub index: Index,
    /// Where the answer of a scan was lost: what is there counts as written until it was looked at as a whole. In order.
    lost: Vec<Range>,
    droppable: Vec<Range>,
    /// Mappings that were there, and could be droppable, when it was looked which of them are.
    small: Vec<Range>,
}

/// What has changed when everything stands still.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Last {
    /// Mappings that CRIU need not look at, in order.
    pub hidden: Vec<Range>,
    /// Their pages, in order.
    pub pages: Vec<Range>,
    /// Those of them that the other side does not have as they are.
    pub changed: Vec<Range>,
    /// Pages of private anonymous memory that CRIU has to take, in order.
    pub left: Vec<Range>,
}

/// The time at which a process was started, in clock ticks since boot: with the number it names a process for ever.
///
/// # Errors
/// When it has ended.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in stat"))
}

impl Tracker {
    /// Begins to track. A thread of the process stands still for a fraction of a millisecond.
    ///
    /// # Errors
    /// When the kernel cannot do it, the process cannot be traced, or something in it writes past the tracking (named).
    pub fn attach(pid: i32) -> Result<Self, Error> {
        let support = Support::probe()?;
        let started = start_time(pid).map_err(|_| Error::Gone(pid))?;
        let mappings = maps::of(pid).map_err(|_| Error::Gone(pid))?;
        if let Some(why) = hazard::of(pid, &mappings) {
            return Err(Error::Unsupported(why));
        }
        #[cfg(target_arch = "x86_64")]
        let uffd = crate::inject::userfaultfd_of(pid)?;
        #[cfg(not(target_arch = "x86_64"))]
        let uffd: OwnedFd = return Err(Error::Unsupported("memory can be tracked on x86-64 only yet".into()));
        crate::sys::uffd_api(uffd.as_fd()).map_err(Error::call("asynchronous write protection"))?;
        let mut tracker = Self { pid, started, uffd, support, index: Index::default(), lost: Vec::new(), droppable: Vec::new(), small: Vec::new() };
        tracker.find_droppable(&mappings)?;
        tracker.register(&mappings)?;
        Ok(tracker)
    }

    /// Whether it is still the same process.
    #[must_use]
    pub fn same_process(&self) -> bool {
        start_time(self.pid).is_ok_and(|now| now == self.started)
    }

    /// What has changed since the last round, in order; it is protected again. The first round gives everything. Read it right away.
    ///
    /// # Errors
    /// When the process is gone or must not be tracked any longer.
    pub fn round(&mut self) -> Result<Vec<Range>, Error> {
        let mappings = self.check()?;
        self.find_droppable(&mappings)?;
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        // A mapping that was split or moved since `maps` was read is looked at once more.
        let mut failed: Option<Vec<Range>> = None;
        for _ in 0..AGAIN {
            let mappings = maps::of(self.pid).map_err(|_| Error::Gone(self.pid))?;
            let pagemap = self.pagemap()?;
            let mut again = Vec::new();
            for mapping in mappings.iter().filter(|mapping| mapping.travels()) {
                let range = mapping.range;
                if failed.as_ref().is_some_and(|failed| !failed.iter().any(|failed| failed.meets(&range))) {
                    continue;
                }
                let mode = if self.lost.iter().any(|lost| lost.meets(&range)) { Mode::Everything } else { Mode::Written };
                let scanned = self.support.scan(&pagemap, range, mode, |pages| if pages.own { changed.push(pages.range) } else { gone.push(pages.range) });
                match scanned {
                    // What lies in a mapping that does not travel just now (it is unreadable for a moment) stays lost until it does.
                    Ok(()) if mode == Mode::Everything => self.lost = subtract(&self.lost, &[range]),
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
        self.check()?;
        // The same pages may have been found by two scans.
        let changed = joined(changed);
        for range in gone.iter().chain(&changed) {
            self.index.forget(*range);
        }
        Ok(changed)
    }

    /// What is there and what has changed, when no thread of the process runs. Protects nothing.
    ///
    /// # Errors
    /// When the process is gone or must not be tracked any longer.
    pub fn last(&mut self) -> Result<Last, Error> {
        let mappings = self.check()?;
        let pagemap = self.pagemap()?;
        let mut last = Last::default();
        let droppable = &self.droppable;
        for mapping in mappings.iter().filter(|mapping| mapping.is_plain() && !droppable.iter().any(|range| range.meets(&mapping.range))) {
            let range = mapping.range;
            let mut found: Vec<Pages> = Vec::new();
            if mapping.travels() {
                match self.support.scan(&pagemap, range, Mode::Look, |pages| found.push(pages)) {
                    Ok(()) => {
                        last.hidden.push(range);
                        let lost = self.lost.iter().any(|lost| lost.meets(&range));
                        for pages in found.iter().filter(|pages| pages.own) {
                            push(&mut last.pages, pages.range);
                            if pages.written || lost {
                                self.index.forget(pages.range);
                            }
                        }
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
        if last.hidden.is_empty() && bytes(&last.left) == 0 {
            // A process without a page is none: the scan does not say the truth.
            return Err(Error::Unsupported(format!("PAGEMAP_SCAN finds no page in process {}", self.pid)));
        }
        last.changed = self.index.pick(&last.pages, Known::No);
        Ok(last)
    }

    /// Looks which mappings are droppable, if there are new ones that could be: it takes long, and there is no time for it when the process stands still.
    fn find_droppable(&mut self, mappings: &[Mapping]) -> Result<(), Error> {
        let small: Vec<Range> = mappings.iter().filter(|mapping| mapping.may_be_droppable()).map(|mapping| mapping.range).collect();
        if small.iter().any(|range| !self.small.contains(range)) {
            self.droppable = maps::droppable(self.pid).map_err(|_| Error::Gone(self.pid))?;
        }
        self.small = small;
        Ok(())
    }

    /// That it is still the same process and that nothing in it writes past the tracking; its mappings.
    fn check(&self) -> Result<Vec<Mapping>, Error> {
        let mappings = maps::of(self.pid).map_err(|_| Error::Gone(self.pid))?;
        if !self.same_process() {
            return Err(Error::Gone(self.pid));
        }
        hazard::of(self.pid, &mappings).map_or(Ok(mappings), |why| Err(Error::Unsupported(why)))
    }

    /// Opened anew each time: it belongs to the program that runs now.
    fn pagemap(&self) -> Result<File, Error> {
        File::open(format!("/proc/{}/pagemap", self.pid)).map_err(|_| Error::Gone(self.pid))
    }

    fn register(&mut self, mappings: &[Mapping]) -> Result<(), Error> {
        for range in maps::between(mappings, &self.droppable) {
            match self.try_register(range, mappings) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    // Something in there cannot be registered.
                    self.droppable = maps::droppable(self.pid).map_err(|_| Error::Gone(self.pid))?;
                    for range in maps::between(mappings, &self.droppable) {
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

/// EPERM: a mapping that is not registered. ENOMEM: one that is gone.
fn may_be_repeated(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOMEM))
}
