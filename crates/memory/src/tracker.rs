//! Which pages of one process have changed, told from outside.
//!
//! ```text
//!   attach ─▶ round ─▶ round ─▶ … ─▶ [frozen] ─▶ last            each round: maps, then what has changed in them
//! ```
//! By write protection where the kernel can do that from outside, else by comparing digests of all memory. The process needs to know of neither; dropped, the tracker is gone without a trace.

mod digests;
mod protection;

use std::fs::File;
use std::io;

use protection::Protection;

use crate::index::{Index, Known};
use crate::maps::{self, Mapping};
use crate::range::{PAGE, Range, bytes};
use crate::scan::Support;
use crate::{Error, hazard};

/// How it is told which pages have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// Asynchronous write protection: the time in which a process stands still does not grow with its memory.
    Protection,
    /// Digests of all memory compared, in each round, and once more when it stands still.
    Digests,
}

impl Tracking {
    /// The best that can be done for a process; with it the reason, if that is not protection.
    ///
    /// # Errors
    /// Why its memory cannot travel while it runs.
    pub fn of(pid: i32, mappings: &[Mapping]) -> Result<(Self, Option<String>), Error> {
        if crate::sys::page_size() != Some(PAGE) {
            return Err(Error::Unsupported(format!("memory travels in pages of {PAGE} bytes only yet")));
        }
        if let Some(why) = hazard::of(pid, mappings, Self::Digests) {
            return Err(Error::Unsupported(why));
        }
        let why = match Support::probe() {
            Err(error) => Some(error.to_string()),
            Ok(_) if cfg!(not(target_arch = "x86_64")) => Some("memory can be write-protected from outside on x86-64 only yet".into()),
            Ok(_) => hazard::of(pid, mappings, Self::Protection),
        };
        Ok((if why.is_some() { Self::Digests } else { Self::Protection }, why))
    }
}

/// One process whose memory is tracked.
#[derive(Debug)]
pub struct Tracker {
    /// Its number here.
    pub pid: i32,
    started: u64,
    /// What the other side has.
    pub index: Index,
    droppable: Vec<Range>,
    /// Mappings that were there, and could be droppable, when it was looked which of them are. In order.
    small: Vec<Range>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Protection(Protection),
    Digests,
}

/// What has changed when everything stands still.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Last {
    /// Mappings that CRIU need not look at, in order.
    pub hidden: Vec<Range>,
    /// Those of them without a guard page, as far as it is worth knowing: CRIU need not look for any. In order.
    pub unguarded: Vec<Range>,
    /// Their pages, in order.
    pub pages: Vec<Range>,
    /// Those of them that the other side does not have as they are.
    pub changed: Vec<Range>,
    /// Pages of private anonymous memory that CRIU has to take, in order.
    pub left: Vec<Range>,
}

impl Last {
    /// The hidden mappings, in order, and of each whether it is one of the unguarded.
    pub fn veiled(&self) -> impl Iterator<Item = (Range, bool)> {
        self.hidden.iter().map(|range| (*range, self.unguarded.binary_search(range).is_ok()))
    }
}

/// The time at which a process was started, in clock ticks since boot: with the number it names a process for ever.
///
/// # Errors
/// When it has ended.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = maps::text(&format!("/proc/{pid}/stat"))?;
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in stat"))
}

impl Tracker {
    /// Begins to track in the best way, or in one that is wished for. Only for write protection a thread of the process stands still for a fraction of a millisecond.
    ///
    /// # Errors
    /// When the kernel cannot do it, the process cannot be traced, or something in it writes past the tracking (named).
    pub fn attach(pid: i32, wish: Option<Tracking>) -> Result<Self, Error> {
        let started = start_time(pid).map_err(|_| Error::Gone(pid))?;
        let mappings = maps::of(pid).map_err(|_| Error::Gone(pid))?;
        let (best, _) = Tracking::of(pid, &mappings)?;
        let tracking = wish.unwrap_or(best);
        let index = if tracking == Tracking::Protection { Index::default() } else { Index::with_digests() };
        let mut tracker = Self { pid, started, index, droppable: Vec::new(), small: Vec::new(), way: Way::Digests };
        tracker.find_droppable(&mappings)?;
        if tracking == Tracking::Protection {
            tracker.way = Way::Protection(Protection::attach(pid, &mappings, &mut tracker.droppable)?);
        }
        Ok(tracker)
    }

    /// How it is told what has changed.
    #[must_use]
    pub fn tracking(&self) -> Tracking {
        match &self.way {
            Way::Protection(_) => Tracking::Protection,
            Way::Digests => Tracking::Digests,
        }
    }

    /// Whether it is still the same process.
    #[must_use]
    pub fn same_process(&self) -> bool {
        start_time(self.pid).is_ok_and(|now| now == self.started)
    }

    /// What has changed since the last round, in order. The first round gives everything. Read it right away.
    ///
    /// # Errors
    /// When the process is gone or must not be tracked any longer.
    pub fn round(&mut self) -> Result<Vec<Range>, Error> {
        let mappings = self.check()?;
        self.find_droppable(&mappings)?;
        let changed = match &mut self.way {
            Way::Protection(protection) => protection.round(&mut self.index)?,
            Way::Digests => digests::round(self.pid, &mappings, &self.index)?,
        };
        self.check()?;
        for range in &changed {
            self.index.forget(*range);
        }
        Ok(changed)
    }

    /// What is there and what has changed, when no thread of the process runs.
    ///
    /// # Errors
    /// When the process is gone or must not be tracked any longer.
    pub fn last(&mut self) -> Result<Last, Error> {
        let mappings = self.check()?;
        // Made since the last round: for what takes long there is no time now.
        if self.has_new(&mappings)
            && let Ok(droppable) = maps::droppable_at_once(self.pid)
        {
            self.droppable = droppable;
        }
        let droppable = &self.droppable;
        let plain: Vec<&Mapping> = mappings.iter().filter(|mapping| mapping.is_plain() && !droppable.iter().any(|range| range.meets(&mapping.range))).collect();
        let mut last = match &self.way {
            Way::Protection(protection) => protection.last(&plain, &mut self.index)?,
            Way::Digests => digests::last(self.pid, &plain, &mut self.index)?,
        };
        if bytes(&last.pages) + bytes(&last.left) == 0 {
            // A process without a page is none: the kernel does not say the truth.
            return Err(Error::Unsupported(format!("no page is found in process {}", self.pid)));
        }
        last.changed = self.index.pick(&last.pages, Known::No);
        Ok(last)
    }

    /// Looks which mappings are droppable, if there are new ones that could be: it takes long, and there is no time for it when the process stands still.
    fn find_droppable(&mut self, mappings: &[Mapping]) -> Result<(), Error> {
        if self.has_new(mappings) {
            self.droppable = maps::droppable(self.pid).map_err(|_| Error::Gone(self.pid))?;
        }
        self.small = small(mappings).collect();
        Ok(())
    }

    /// Whether something could be droppable that was not there when it was looked what is.
    fn has_new(&self, mappings: &[Mapping]) -> bool {
        small(mappings).any(|range| self.small.binary_search(&range).is_err())
    }

    /// That it is still the same process and that nothing in it writes past the tracking; its mappings.
    fn check(&self) -> Result<Vec<Mapping>, Error> {
        let mappings = maps::of(self.pid).map_err(|_| Error::Gone(self.pid))?;
        if !self.same_process() {
            return Err(Error::Gone(self.pid));
        }
        hazard::of(self.pid, &mappings, self.tracking()).map_or(Ok(mappings), |why| Err(Error::Unsupported(why)))
    }
}

/// What could be droppable, in order.
fn small(mappings: &[Mapping]) -> impl Iterator<Item = Range> {
    mappings.iter().filter(|mapping| mapping.may_be_droppable()).map(|mapping| mapping.range)
}

/// Opened anew each time: it belongs to the program that runs now.
fn pagemap(pid: i32) -> Result<File, Error> {
    File::open(format!("/proc/{pid}/pagemap")).map_err(|_| Error::Gone(pid))
}
