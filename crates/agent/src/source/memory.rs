//! The memory of a running pod: a tracker for each process, what of it the target's page store has, and the proof that in the end every page is in exactly one place.
//!
//! ```text
//!   attach ─▶ round … round (running) ─▶ [frozen] ─▶ last ─▶ late pages ‖ criu dump, veiled ─▶ settle: list of the pages that are in the store
//! ```
//! What cannot be tracked is CRIU's, process by process and mapping by mapping; if anything speaks against tracking at all, everything is.

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use godwit_criu::images::chain::{self, ByProcess};
use godwit_memory::{
    Error, Range, flags,
    index::Known,
    range::{bytes, subtract},
    read,
    tracker::{Last, Tracker, Tracking, start_time},
};
use godwit_node::cgroup::Cgroup;
use godwit_rpc::v1::{Failure, PageChunk};
use godwit_veil::{Hidden, encode, smaps_of};

use crate::{
    convert,
    failure::{failure, internal},
};

/// Where a piece goes: fails when nobody takes it any more.
pub type Out<'a> = &'a mut dyn FnMut(PageChunk) -> io::Result<()>;

/// See the module.
pub struct Memory {
    containers: Vec<Tracked>,
    /// Which pages change is told by digests in any case.
    digests: bool,
}

/// What a round found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Bytes that had changed.
    pub changed: u64,
    /// How long it took to find them.
    pub looked: Duration,
}

struct Tracked {
    name: String,
    cgroup: Cgroup,
    family: Family,
    processes: BTreeMap<i32, Process>,
    /// Processes that cannot be tracked, by number and start.
    foreign: BTreeMap<i32, u64>,
}

/// Whether processes of a container may share memory.
#[derive(Default)]
struct Family {
    /// As they were listed last.
    pids: Vec<i32>,
    shares: bool,
}

struct Process {
    /// Its number inside the container.
    inside: i32,
    tracker: Tracker,
    last: Option<Last>,
}

impl Memory {
    /// Begins to track all processes of the containers (name and cgroup). Where that is done by write protection, each stands still for a fraction of a millisecond.
    ///
    /// # Errors
    /// Why memory cannot travel while this pod runs.
    pub fn attach(containers: Vec<(String, Cgroup)>, digests: bool) -> Result<Self, Error> {
        let containers = containers.into_iter().map(|(name, cgroup)| Tracked::new(name, cgroup)).collect();
        if let Err(error) = flags::probe() {
            tracing::info!(%error, "CRIU reads smaps in the freeze, which takes tens of milliseconds for each GiB");
        }
        let mut memory = Self { containers, digests };
        for tracked in &mut memory.containers {
            tracked.look(digests)?;
        }
        if memory.containers.iter().all(|tracked| tracked.processes.is_empty()) {
            return Err(Error::Unsupported("no process of the pod can be tracked; see the agent's log".into()));
        }
        Ok(memory)
    }

    /// Sends what has changed since the last round (at first: everything).
    ///
    /// # Errors
    /// [`Error::Unsupported`]: the pod must not be tracked any longer. Others: a piece could not be sent.
    pub fn round(&mut self, out: Out<'_>) -> Result<Found, Error> {
        let mut found = Found::default();
        for tracked in &mut self.containers {
            tracked.look(self.digests)?;
            let mut ended = Vec::new();
            for (pid, process) in &mut tracked.processes {
                let start = Instant::now();
                let changed = process.tracker.round();
                found.looked += start.elapsed();
                match changed {
                    Ok(ranges) => {
                        found.changed += bytes(&ranges);
                        if !send(&tracked.name, process, &ranges, &mut || tracked.family.shares(&tracked.cgroup), out)? {
                            ended.push(*pid);
                        }
                    }
                    Err(Error::Gone(_)) => ended.push(*pid),
                    Err(error) => return Err(error),
                }
            }
            for pid in ended {
                tracked.processes.remove(&pid);
            }
        }
        Ok(found)
    }

    /// Looks at everything once more, when no task of the pod runs. Returns the bytes that still have to go.
    ///
    /// # Errors
    /// Why CRIU has to take everything.
    pub fn last(&mut self) -> Result<u64, Error> {
        let mut late = 0;
        for tracked in &mut self.containers {
            let mut ended = Vec::new();
            for (pid, process) in &mut tracked.processes {
                match process.tracker.last() {
                    Ok(last) => {
                        late += bytes(&last.changed);
                        process.last = Some(last);
                    }
                    Err(Error::Gone(_)) => ended.push(*pid),
                    Err(error) => return Err(error),
                }
            }
            for pid in ended {
                tracked.processes.remove(&pid);
            }
            // What forked processes share is each one's own when a pager has filled it.
            let all: u64 = tracked.processes.values().filter_map(|process| process.last.as_ref()).map(|last| bytes(&last.pages)).sum();
            if let Some(limit) = tracked.cgroup.memory_limit()
                && tracked.processes.len() > 1
                && all > usable(limit)
            {
                return Err(Error::Unsupported(format!("the processes of container {} would exceed its memory limit if they did not share", tracked.name)));
            }
        }
        Ok(late)
    }

    /// Sends what [`Memory::last`] found.
    ///
    /// # Errors
    /// When a piece could not be sent.
    pub fn send_late(&mut self, out: Out<'_>) -> Result<(), Error> {
        for tracked in &mut self.containers {
            // Nothing is forked any more.
            let shares = tracked.family.shares(&tracked.cgroup);
            for process in tracked.processes.values_mut() {
                let changed = process.last.as_ref().map(|last| last.changed.clone()).unwrap_or_default();
                send(&tracked.name, process, &changed, &mut || shares, out)?;
            }
        }
        Ok(())
    }

    /// Writes what CRIU is not to look at in a container, and what it reads in place of each process's smaps; after [`Memory::last`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn veil(&self, container: &str, path: &Path) -> io::Result<()> {
        let processes = || self.containers.iter().filter(|tracked| tracked.name == container).flat_map(|tracked| &tracked.processes);
        for pid in processes().map(|(pid, _)| pid) {
            // Only for the time that it saves.
            if let Err(error) = flags::smaps(*pid).and_then(|text| write(&smaps_of(path, *pid), text.as_bytes())) {
                tracing::info!(%error, pid, "CRIU reads this process's smaps itself");
            }
        }
        let hidden: Vec<Hidden> = processes()
            .filter_map(|(pid, process)| Some((u64::try_from(*pid).ok()?, process.last.as_ref()?)))
            .flat_map(|(pid, last)| {
                last.veiled().map(move |(range, unguarded)| Hidden { pid, start: range.start, end: range.end, unguarded: unguarded.into() })
            })
            .collect();
        write(path, &encode(&hidden))
    }

    /// After the dump and after the late pages: lists the pages of a container that are in the store, beside the images in `directory`. Proves that every page that
    /// was there when the pod stood still is in exactly one of: the images, the list, the pages that hold only zeros. Where late pages are `postponed`, they are in a list of their own.
    ///
    /// # Errors
    /// A page that would be lost.
    pub fn settle(&self, container: &str, directory: &Path, postponed: bool) -> Result<(), Failure> {
        let dumped = chain::present(directory).map_err(|problem| convert::criu_failure(&problem.failure(), container))?;
        let (mut list, mut awaited) = (ByProcess::new(), ByProcess::new());
        for process in self.containers.iter().filter(|tracked| tracked.name == container).flat_map(|tracked| tracked.processes.values()) {
            // What was started in the container from outside (kubectl exec) is not dumped.
            let (Some(last), Some(pages)) = (&process.last, dumped.get(&process.inside)) else { continue };
            let pages: Vec<Range> = pages.iter().map(|(start, end)| Range { start: *start, end: *end }).collect();
            let index = &process.tracker.index;
            let in_store = subtract(&index.pick(&last.pages, Known::Stored), &pages);
            let mut missing = subtract(&index.pick(&last.pages, Known::No), &pages);
            let mut late = Vec::new();
            if postponed {
                let others = subtract(&missing, &last.changed);
                late = subtract(&missing, &others);
                missing = others;
            }
            missing.extend(subtract(&last.left, &pages));
            if let Some(first) = missing.first() {
                return Err(failure(
                    "PagesMissing",
                    format!(
                        "container {container}, process {}: {} pages from {:#x} on are neither in CRIU's images nor at the target",
                        process.inside,
                        bytes(&missing) / godwit_memory::PAGE,
                        first.start
                    ),
                    "nothing was lost: the pod runs on; try again with memory: StopAndCopy and report this",
                ));
            }
            let hidden = bytes(&index.pick(&last.pages, Known::Stored)) + if postponed { bytes(&last.changed) } else { 0 };
            let twice = hidden.saturating_sub(bytes(&in_store) + bytes(&late));
            if twice > 0 {
                tracing::warn!(container, process = process.inside, bytes = twice, "CRIU has written pages that were hidden from it: is it linked statically?");
                if !in_store.is_empty() || !late.is_empty() {
                    // A mapping is either CRIU's or the store's.
                    return Err(failure(
                        "VeilTorn",
                        format!("container {container}, process {}: CRIU has written some of the pages that were hidden from it, but not all", process.inside),
                        "nothing was lost: the pod runs on; try again with memory: StopAndCopy and report this",
                    ));
                }
            }
            list.insert(process.inside, pairs(&in_store));
            awaited.insert(process.inside, pairs(&late));
        }
        for (name, mut list) in [(chain::LIST, list), (chain::AWAITED, awaited)] {
            list.retain(|_, pages| !pages.is_empty());
            if name == chain::LIST || !list.is_empty() {
                chain::write_list(directory, name, &list).map_err(|error| internal("cannot write the list of pages", error))?;
            }
        }
        Ok(())
    }
}

impl Family {
    /// As it is now.
    fn shares(&mut self, cgroup: &Cgroup) -> bool {
        match cgroup.pids() {
            Ok(pids) if pids == self.pids => {}
            Ok(pids) => (self.shares, self.pids) = (read::may_share(&pids), pids),
            Err(_) => self.shares = true,
        }
        self.shares
    }
}

impl Tracked {
    fn new(name: String, cgroup: Cgroup) -> Self {
        Self { name, cgroup, family: Family::default(), processes: BTreeMap::new(), foreign: BTreeMap::new() }
    }

    /// Takes in processes that have come and lets go of those that are others now.
    fn look(&mut self, digests: bool) -> Result<(), Error> {
        let pids = self.cgroup.pids().map_err(|error| Error::Unsupported(format!("cannot list the processes of container {}: {error}", self.name)))?;
        self.processes.retain(|pid, process| pids.contains(pid) && process.tracker.same_process());
        for pid in pids {
            let Ok(started) = start_time(pid) else { continue };
            if self.processes.contains_key(&pid) || self.foreign.get(&pid) == Some(&started) {
                continue;
            }
            let Some(number) = inside(pid) else { continue };
            match Tracker::attach(pid, digests.then_some(Tracking::Digests)) {
                Ok(tracker) => {
                    self.processes.insert(pid, Process { inside: number, tracker, last: None });
                }
                Err(error @ (Error::Unsupported(_) | Error::Busy(_))) => return Err(error),
                Err(Error::Gone(_)) if inside(pid).is_some() => {
                    tracing::warn!(container = self.name, pid, "this process cannot be looked at; until it can, its memory is left to CRIU");
                }
                Err(Error::Gone(_)) => {}
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(%error, cause, container = self.name, pid, "memory of this process is left to CRIU");
                    self.foreign.insert(pid, started);
                }
            }
        }
        Ok(())
    }
}

/// Sends pages, of which others may share some while it is said so; `false` when the process has gone meanwhile.
fn send(container: &str, process: &mut Process, ranges: &[Range], shares: &mut dyn FnMut() -> bool, out: Out<'_>) -> Result<bool, Error> {
    let (pid, inside) = (process.tracker.pid, process.inside);
    let mut unsent = None;
    let read = read::shared_pages(pid, ranges, &mut process.tracker.index, shares, |piece| {
        let ranges = convert::page_words(&piece.ranges);
        let chunk =
            PageChunk { migration: None, container: container.to_owned(), process: inside, ranges, data: piece.data.into(), fresh: false, packed: false };
        out(chunk).inspect_err(|error| unsent = Some(error.kind()))
    });
    match (read, unsent) {
        (Ok(()), _) => Ok(true),
        (Err(source), Some(_)) => Err(Error::Call { what: "cannot send pages".into(), source }),
        (Err(_), None) if !process.tracker.same_process() => Ok(false),
        (Err(source), None) => Err(Error::Call { what: format!("cannot read the memory of process {pid}"), source }),
    }
}

/// Renamed into place: CRIU has been started, may ask the library at any time, and must not read half of it.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    io::Write::write_all(&mut file, bytes)?;
    std::fs::rename(new, path)
}

fn pairs(ranges: &[Range]) -> Vec<chain::Pages> {
    ranges.iter().map(|range| (range.start, range.end)).collect()
}

/// The number of a process inside its container; `None` for what has no memory (it has ended).
pub(super) fn inside(pid: i32) -> Option<i32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    // The name of a process is whatever it likes.
    let status = String::from_utf8_lossy(&status);
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    field("VmSize:")?;
    field("NSpid:")?.split_whitespace().last()?.parse().ok()
}

/// What of a container's memory limit its processes may take: the rest is the kernel's and the runtime's.
#[must_use]
pub fn usable(limit: u64) -> u64 {
    limit - limit / 10
}

/// Where the veil's table of a container lies, as the node names it.
#[must_use]
pub fn veil_of(work: &Path) -> PathBuf {
    work.join("veil")
}
