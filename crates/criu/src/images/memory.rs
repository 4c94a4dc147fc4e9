//! Memory: `mm-N` says which mappings a process has, `pagemap-N` which pages of them are in `pages-M`, in order. Only the lengths of pages files are looked at.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::Set;
use super::schema::{Columns, View};
use super::tree::{Life, Process};
use crate::Problem;

/// Bytes of a page on every architecture that Godwit runs on.
pub const PAGE: u64 = 4096;
/// Flags of an entry (`criu/include/pagemap.h`).
const IN_PARENT: u64 = 1;
const LAZY: u64 = 2;
const PRESENT: u64 = 4;
/// Mappings of files: `VMA_FILE_PRIVATE` and `VMA_FILE_SHARED`, `VMA_ANON_SHARED`, `VMA_AREA_SYSVIPC`, `VMA_AREA_SOCKET`, `VMA_AREA_MEMFD`
/// (`criu/include/image.h`).
pub const FILE: u64 = 1 << 6 | 1 << 7;
/// Anonymous memory that several processes share.
pub const SHARED: u64 = 1 << 8;
const SYSV: u64 = 1 << 10;
const SOCKET: u64 = 1 << 11;
const MEMFD: u64 = 1 << 14;
/// `VMA_AREA_GUARD`: pages inside another mapping that must not be touched, listed behind all mappings (CRIU 4.2).
pub const GUARD: u64 = 1 << 16;

/// The kernel's own code and clocks: `VMA_AREA_VDSO`, `VMA_AREA_VSYSCALL`, `VMA_AREA_VVAR`.
pub(super) const KERNELS: u64 = 1 << 3 | 1 << 4 | 1 << 12;
/// What CRIU does not restore as it was dumped: those are the new kernel's, and a ring (`VMA_AREA_AIORING`) has a new head.
const REBUILT: u64 = KERNELS | 1 << 13;

static VMA: LazyLock<Columns<4>> = LazyLock::new(|| Columns::of("vma_entry", ["start", "end", "status", "shmid"]));

/// What the maps add up to.
#[derive(Debug, Default)]
pub struct Memory {
    /// Pages in the images.
    pub pages: u64,
    /// Pages that are still at the source.
    pub lazy: u64,
}

/// A run of pages of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its first address; in a map of shared memory its offset.
    pub start: u64,
    /// Number of pages.
    pub count: u64,
    /// Whether they are in the pages file.
    pub present: bool,
    /// Whether they are at the source still.
    pub lazy: bool,
}

impl Run {
    /// One entry of a map behind its head.
    ///
    /// # Errors
    /// What is wrong.
    pub fn of(entry: &View<'_>) -> Result<Self, &'static str> {
        static COLUMNS: LazyLock<Columns<5>> = LazyLock::new(|| Columns::of("pagemap_entry", ["vaddr", "compat_nr_pages", "nr_pages", "flags", "in_parent"]));
        let [start, compat, count, flags, in_parent] = COLUMNS.read(entry.bytes);
        // The first count has 32 bits; a newer CRIU writes both.
        let count = count.or(compat).ok_or("an entry without a count")?;
        // Without flags: an image of before CRIU 2, where all pages are present.
        let flags = flags.unwrap_or(if in_parent == Some(1) { IN_PARENT } else { PRESENT });
        if flags & IN_PARENT != 0 {
            return Err("it needs the images of an earlier dump");
        }
        let start = start.unwrap_or(0);
        let end = count.checked_mul(PAGE).and_then(|bytes| start.checked_add(bytes));
        if !start.is_multiple_of(PAGE) || count == 0 || end.is_none() {
            return Err("an entry is no run of pages");
        }
        let present = flags & PRESENT != 0;
        Ok(Self { start, count, present, lazy: flags & LAZY != 0 && !present })
    }

    /// The address behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.count * PAGE
    }
}

/// Checks all of it.
pub fn check(set: &Set, processes: &[(Process, Life)]) -> Result<Memory, Problem> {
    let mut memory = Memory::default();
    let mut used: BTreeMap<u64, u64> = BTreeMap::new();
    for (name, image) in set.images.iter().filter(|(name, _)| name.starts_with("pagemap-")) {
        let mappings = match name.strip_prefix("pagemap-").and_then(|rest| rest.strip_suffix(".img")) {
            Some(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => Some(mappings(set, number)?),
            _ => None,
        };
        let id = image.first().and_then(|head| head.number("pages_id")).ok_or_else(|| Problem::damaged(name, "its head names no pages"))?;
        let in_use = used.entry(id).or_default();
        let (mut last, mut at) = (0, 0);
        for entry in image.views().skip(1) {
            let run = Run::of(&entry).map_err(|what| Problem::damaged(name, what))?;
            if run.start < last {
                return Err(Problem::damaged(name, "its entries are not in order"));
            }
            last = run.end();
            if let Some(mappings) = &mappings {
                at = inside(mappings, at, &run).ok_or_else(|| Problem::damaged(name, format!("pages at {:#x} that the process has not mapped", run.start)))?;
            }
            if run.present {
                *in_use = in_use.saturating_add(run.count);
                memory.pages = memory.pages.saturating_add(run.count);
            } else if run.lazy {
                memory.lazy = memory.lazy.saturating_add(run.count);
            }
        }
    }
    for (id, pages) in &used {
        let name = format!("pages-{id}.img");
        match set.lengths.get(&name) {
            Some(length) if Some(*length) == pages.checked_mul(PAGE) => {}
            Some(length) => return Err(Problem::damaged(&name, format!("{length} bytes, but the maps speak of {pages} pages"))),
            None if *pages == 0 => {}
            None => return Err(Problem::MissingImage { file: name }),
        }
    }
    let id = |name: &str| name.strip_prefix("pages-")?.strip_suffix(".img")?.parse::<u64>().ok();
    if let Some(stranger) = set.lengths.keys().find(|name| id(name).is_some_and(|id| !used.contains_key(&id))) {
        return Err(Problem::damaged(stranger, "no map speaks of it"));
    }
    for (process, _) in processes.iter().filter(|(_, life)| life.alive) {
        shared(set, process.pid)?;
    }
    Ok(memory)
}

/// The mappings of a process, each with start and end, checked.
fn mappings(set: &Set, pid: &str) -> Result<Vec<(u64, u64)>, Problem> {
    let name = format!("mm-{pid}.img");
    let mut mappings: Vec<(u64, u64)> = Vec::new();
    for vma in set.first(&name)?.views("vmas") {
        let [start, end, status, _] = VMA.read(vma.bytes).map(|value| value.unwrap_or(0));
        if status & GUARD != 0 {
            continue;
        }
        if !start.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) || start >= end || mappings.last().is_some_and(|last| last.1 > start) {
            return Err(Problem::damaged(&name, format!("its mapping {start:#x}-{end:#x} cannot be")));
        }
        mappings.push((start, end));
    }
    Ok(mappings)
}

/// Start and end of the mappings of a process whose content a restore makes anew.
pub fn rebuilt(set: &Set, pid: i32) -> Result<Vec<(u64, u64)>, Problem> {
    let mm = set.first(&format!("mm-{pid}.img"))?;
    let all = mm.views("vmas").into_iter().map(|vma| VMA.read(vma.bytes).map(|value| value.unwrap_or(0)));
    Ok(all.filter(|[_, _, status, _]| status & REBUILT != 0).map(|[start, end, ..]| (start, end)).collect())
}

/// Whether a run lies in mappings without a gap, looking from a mapping on; gives where to look on.
fn inside(mappings: &[(u64, u64)], mut at: usize, run: &Run) -> Option<usize> {
    while mappings.get(at)?.1 <= run.start {
        at += 1;
    }
    let mut covered = run.start;
    let mut look = at;
    while covered < run.end() {
        let (start, end) = *mappings.get(look)?;
        if start > covered {
            return None;
        }
        covered = end;
        look += 1;
    }
    Some(at)
}

/// Mappings of files and of shared memory have what they map.
fn shared(set: &Set, pid: i32) -> Result<(), Problem> {
    let name = format!("mm-{pid}.img");
    let mm = set.first(&name)?;
    set.file(&name, mm.number("exe_file_id").unwrap_or(0))?;
    for vma in mm.views("vmas") {
        let [start, _, status, id] = VMA.read(vma.bytes).map(|value| value.unwrap_or(0));
        if status & (FILE | SOCKET | MEMFD) != 0 {
            if !set.files.contains_key(&id) {
                return Err(Problem::damaged(&name, format!("the mapping at {start:#x} is of file {id}, which is not in files.img")));
            }
        } else if status & SHARED != 0 && status & SYSV == 0 {
            set.image(&format!("pagemap-shmem-{id}.img"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_lie_in_mappings_without_gaps() {
        let mappings = [(0x1000, 0x3000), (0x3000, 0x4000), (0x6000, 0x7000)];
        let run = |start, count| Run { start, count, present: true, lazy: false };
        assert_eq!(inside(&mappings, 0, &run(0x1000, 3)), Some(0));
        assert_eq!(inside(&mappings, 0, &run(0x3000, 1)), Some(1));
        assert_eq!(inside(&mappings, 0, &run(0x3000, 2)), None);
        assert_eq!(inside(&mappings, 1, &run(0x6000, 1)), Some(2));
        assert_eq!(inside(&mappings, 0, &run(0x7000, 1)), None);
        assert_eq!(inside(&mappings, 0, &run(0, 2)), None);
    }
}
