//! Pages that come only after the process runs again (post-copy): room for them in the page store, and what is known of each.
//!
//! ```text
//!   store/awaited/pages-7.img    room for the pages of process 7, in order of their addresses; a hole until they come
//!   store/awaited/states-7       a byte for each: to come ─▶ (wanted: the process stands still for it) ─▶ here | lost
//!                                and two more: whether there is something new that is wanted, and a count of what has come
//!
//!   pager ── wanted ──▶ states ◀── here, lost ── who fetches them ([`Awaited`]) from the frozen process
//! ```
//! Which pages they are is in the pager's table ([`crate::pager::TABLE`]): rows of the level [`LEVEL`]. So both sides find everything again after they were started anew.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::pager::{self, Row};
use crate::range::{PAGE, Range};
use crate::store::{invalid, pages_file};
use crate::sys::{Shared, punch};

/// Level of the rows of the pager's table whose pages come later.
pub const LEVEL: u64 = u64::MAX;
/// Bytes that are fetched for a process that stands still for a page: with it those behind it.
const CLUSTER: u64 = 64 << 10;

/// Nobody has it yet.
const TO_COME: u8 = 0;
/// Nobody has it yet, and a process stands still for it.
const WANTED: u8 = 1;
/// It is in the file.
const HERE: u8 = 2;
/// It will never come.
const LOST: u8 = 3;
/// Bytes behind the states: something is wanted since it was last looked; how often something has come or was lost, modulo 256.
const SIGNS: usize = 2;

fn directory(store: &Path) -> PathBuf {
    store.join("awaited")
}

fn states_file(process: i32) -> String {
    format!("states-{process}")
}

/// Whether a store has, or had, pages that come later.
#[must_use]
pub fn is_any(store: &Path) -> bool {
    directory(store).exists()
}

fn index(offset: u64) -> usize {
    usize::try_from(offset / PAGE).unwrap_or(usize::MAX)
}

/// Makes room for the pages of `wanted` (by process, in order) and gives the rows of the pager's table for them.
///
/// # Errors
/// When there is no room, or the list is not in order.
pub fn make(store: &Path, wanted: &BTreeMap<i32, Vec<Range>>) -> io::Result<Vec<Row>> {
    let directory = directory(store);
    DirBuilder::new().mode(0o700).recursive(true).create(&directory)?;
    let mut rows = Vec::new();
    for (process, ranges) in wanted {
        if ranges.windows(2).any(|pair| pair[0].end > pair[1].start) {
            return Err(invalid("the list of pages is not in order"));
        }
        let mut offset = 0;
        for range in ranges {
            rows.push(Row { process: *process, range: *range, level: LEVEL, offset });
            offset += range.len();
        }
        let file = |name: String| OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(directory.join(name));
        file(pages_file(*process))?.set_len(offset)?;
        // No hole: where a file system is full, touching one that is mapped kills.
        file(states_file(*process))?.write_all_at(&vec![TO_COME; index(offset) + SIGNS], 0)?;
    }
    Ok(rows)
}

/// The awaited pages of one process, as the pager sees them.
pub(crate) struct Arriving {
    pages: File,
    states: Shared,
}

/// What is known of pages that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// So many bytes from here on are there.
    Here(u64),
    /// So many bytes from here on are still to come.
    ToCome(u64),
    /// The first one will never come.
    Lost,
}

impl Arriving {
    pub(crate) fn open(store: &Path, process: i32) -> io::Result<Self> {
        let directory = directory(store);
        let open = |name: String| OpenOptions::new().read(true).write(true).open(directory.join(name));
        Ok(Self { pages: open(pages_file(process))?, states: Shared::of(&open(states_file(process))?)? })
    }

    /// Bytes that there is room for.
    pub(crate) fn room(&self) -> io::Result<u64> {
        let pages = u64::try_from(self.all().len()).unwrap_or(0);
        Ok(self.pages.metadata()?.len().min(pages * PAGE))
    }

    fn all(&self) -> &[AtomicU8] {
        self.states.bytes().len().checked_sub(SIGNS).and_then(|pages| self.states.bytes().get(..pages)).unwrap_or_default()
    }

    fn sign(&self, number: usize) -> Option<&AtomicU8> {
        self.states.bytes().get(self.all().len() + number)
    }

    /// Changes when something has come, or was lost.
    pub(crate) fn count(&self) -> u8 {
        self.sign(1).map_or(0, |count| count.load(Ordering::Acquire))
    }

    fn has_come(&self) {
        if let Some(count) = self.sign(1) {
            count.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn states(&self, offset: u64, length: u64) -> &[AtomicU8] {
        self.all().get(index(offset)..index(offset + length)).unwrap_or_default()
    }

    /// What is known of `length` bytes from `offset` on.
    pub(crate) fn known(&self, offset: u64, length: u64) -> Known {
        let states = self.states(offset, length);
        let run = |alike: fn(u8) -> bool| {
            let count = states.iter().take_while(|state| alike(state.load(Ordering::Acquire))).count();
            u64::try_from(count).unwrap_or(0) * PAGE
        };
        match states.first().map(|state| state.load(Ordering::Acquire)) {
            Some(HERE) => Known::Here(run(|state| state == HERE)),
            Some(LOST) | None => Known::Lost,
            Some(_) => Known::ToCome(run(|state| state < HERE)),
        }
    }

    /// A process stands still for these.
    pub(crate) fn want(&self, offset: u64, length: u64) {
        let mut is_new = false;
        for state in self.states(offset, length.min(CLUSTER)) {
            // One that has come meanwhile stays so.
            is_new |= state.compare_exchange(TO_COME, WANTED, Ordering::AcqRel, Ordering::Acquire).is_ok();
        }
        if let Some(sign) = self.sign(0).filter(|_| is_new) {
            sign.store(1, Ordering::Release);
        }
    }

    /// Pages that are here.
    pub(crate) fn read(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?];
        self.pages.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Gives the memory of pages back that nobody needs any more.
    pub(crate) fn give_back(&self, offset: u64, length: u64) -> io::Result<()> {
        punch(&self.pages, offset, length)
    }
}

/// One process of [`Awaited`].
struct Part {
    arriving: Arriving,
    /// In order of addresses and of offsets.
    rows: Vec<Row>,
    /// All pages before this one are here, or lost.
    done: usize,
    /// Pages that are wanted, as far as they have been seen.
    wanted: VecDeque<usize>,
}

/// The awaited pages of a container, for who fetches them.
pub struct Awaited {
    parts: BTreeMap<i32, Part>,
}

impl Awaited {
    /// Takes up what is left to be fetched. A store without awaited pages, or none at all, awaits nothing.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn open(store: &Path) -> io::Result<Self> {
        let mut parts: BTreeMap<i32, Part> = BTreeMap::new();
        if !is_any(store) {
            return Ok(Self { parts });
        }
        for row in pager::read_table(store)?.into_iter().filter(|row| row.level == LEVEL) {
            match parts.entry(row.process) {
                std::collections::btree_map::Entry::Occupied(part) => part.into_mut().rows.push(row),
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(Part { arriving: Arriving::open(store, row.process)?, rows: vec![row], done: 0, wanted: VecDeque::new() });
                }
            }
        }
        // Who fetched before may have seen what is wanted, and have ended.
        for sign in parts.values().filter_map(|part| part.arriving.sign(0)) {
            sign.store(1, Ordering::Release);
        }
        Ok(Self { parts })
    }

    /// Bytes that are awaited in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts.values().flat_map(|part| &part.rows).map(|row| row.range.len()).sum()
    }

    /// Bytes that are still to come.
    #[must_use]
    pub fn left(&self) -> u64 {
        let states = self.parts.values().flat_map(|part| part.arriving.all());
        u64::try_from(states.filter(|state| state.load(Ordering::Relaxed) != HERE).count()).unwrap_or(0) * PAGE
    }

    /// Whether some of it is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.parts.values().flat_map(|part| part.arriving.all()).any(|state| state.load(Ordering::Acquire) == LOST)
    }

    /// Whether a process stands still for something that [`Awaited::next`] has not given yet.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.parts.values().any(|part| !part.wanted.is_empty() || part.arriving.sign(0).is_some_and(|sign| sign.load(Ordering::Acquire) != 0))
    }

    /// What is to be fetched next, `most` bytes of one process at most: what a process stands still for, or else what is first. `None`: everything is here.
    pub fn next(&mut self, most: u64) -> Option<(i32, Vec<Range>)> {
        for (process, part) in &mut self.parts {
            part.look_for_wanted();
            while let Some(first) = part.wanted.pop_front() {
                let is_wanted = part.arriving.all().get(first).is_some_and(|state| state.load(Ordering::Acquire) == WANTED);
                let ranges = if is_wanted { part.to_come(first, CLUSTER.min(most)) } else { Vec::new() };
                if !ranges.is_empty() {
                    return Some((*process, ranges));
                }
            }
        }
        for (process, part) in &mut self.parts {
            let states = part.arriving.all();
            while states.get(part.done).is_some_and(|state| state.load(Ordering::Acquire) >= HERE) {
                part.done += 1;
            }
            if part.done < states.len() {
                return Some((*process, part.to_come(part.done, most))).filter(|(_, ranges)| !ranges.is_empty());
            }
        }
        None
    }

    /// Takes pages that have come: `ranges` as [`Awaited::next`] gave them, and their contents one behind the other.
    ///
    /// # Errors
    /// `InvalidData` when they do not fit what is awaited; or the error of the file system (it is full).
    pub fn put(&self, process: i32, ranges: &[Range], data: &[u8]) -> io::Result<()> {
        let part = self.parts.get(&process).ok_or_else(|| invalid("nothing is awaited of that process"))?;
        let total = ranges.iter().map(Range::len).sum::<u64>();
        if u64::try_from(data.len()).ok() != Some(total) {
            return Err(invalid("the pages do not fit their addresses"));
        }
        let mut rest = data;
        for range in ranges {
            let offset = part.offset(range).ok_or_else(|| invalid("pages that nobody awaits"))?;
            let (piece, behind) = rest.split_at(usize::try_from(range.len()).unwrap_or(rest.len()).min(rest.len()));
            rest = behind;
            part.arriving.pages.write_all_at(piece, offset)?;
            for state in part.arriving.states(offset, range.len()) {
                state.store(HERE, Ordering::Release);
            }
        }
        part.arriving.has_come();
        Ok(())
    }

    /// What has not come will never come.
    pub fn lose(&self) {
        for part in self.parts.values() {
            for state in part.arriving.all() {
                for before in [TO_COME, WANTED] {
                    let _ = state.compare_exchange(before, LOST, Ordering::AcqRel, Ordering::Acquire);
                }
            }
            part.arriving.has_come();
        }
    }
}

impl Part {
    /// Looks at all states, if something has been wanted since that was done last.
    fn look_for_wanted(&mut self) {
        if self.arriving.sign(0).is_none_or(|sign| sign.swap(0, Ordering::AcqRel) == 0) {
            return;
        }
        let states = self.arriving.all().iter().enumerate();
        self.wanted = states.filter(|(_, state)| state.load(Ordering::Acquire) == WANTED).map(|(number, _)| number).collect();
    }

    /// Pages that are still to come from the one with number `first` on, `most` bytes at most.
    fn to_come(&self, first: usize, most: u64) -> Vec<Range> {
        let from = u64::try_from(first).unwrap_or(0) * PAGE;
        let at = self.rows.partition_point(|row| row.offset + row.range.len() <= from);
        let (mut found, mut left) = (Vec::new(), most.max(PAGE));
        for row in self.rows.get(at..).unwrap_or_default() {
            let mut offset = from.max(row.offset);
            let end = row.offset + row.range.len();
            while offset < end && left > 0 {
                let address = row.range.start + (offset - row.offset);
                let length = match self.arriving.known(offset, (end - offset).min(left)) {
                    Known::Here(length) => length,
                    Known::ToCome(length) => {
                        found.push(Range { start: address, end: address + length });
                        left -= length;
                        length
                    }
                    Known::Lost => PAGE,
                };
                offset += length.max(PAGE);
            }
            if left == 0 {
                break;
            }
        }
        found
    }

    /// Where a range lies that is in one row.
    fn offset(&self, range: &Range) -> Option<u64> {
        let at = self.rows.partition_point(|row| row.range.end <= range.start);
        let row = self.rows.get(at).filter(|row| row.range.start <= range.start && range.end <= row.range.end && !range.is_empty())?;
        (range.start.is_multiple_of(PAGE) && range.end.is_multiple_of(PAGE)).then(|| row.offset + (range.start - row.range.start))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn range(start: u64, end: u64) -> Range {
        Range { start: start * PAGE, end: end * PAGE }
    }

    fn awaiting(store: &Path) -> Awaited {
        let wanted = BTreeMap::from([(1, vec![range(10, 14), range(20, 60)]), (7, vec![range(5, 6)])]);
        let rows = make(store, &wanted).unwrap();
        pager::write_table(store, &rows).unwrap();
        Awaited::open(store).unwrap()
    }

    #[test]
    fn what_is_stood_still_for_comes_first_and_everything_comes() {
        let store = tempfile::tempdir().unwrap();
        let mut awaited = awaiting(store.path());
        assert_eq!((awaited.total(), awaited.left()), (45 * PAGE, 45 * PAGE));
        assert_eq!(awaited.next(8 * PAGE), Some((1, vec![range(10, 14), range(20, 24)])));
        let pager = Arriving::open(store.path(), 1).unwrap();
        assert_eq!(pager.known(4 * PAGE, 40 * PAGE), Known::ToCome(40 * PAGE));
        pager.want(30 * PAGE, PAGE);
        assert!(awaited.is_wanted());
        assert_eq!(awaited.next(8 * PAGE), Some((1, vec![range(46, 54)])));
        let data: Vec<u8> = (46..54u8).flat_map(|number| [number; 4096]).collect();
        awaited.put(1, &[range(46, 54)], &data).unwrap();
        assert_eq!(pager.known(30 * PAGE, 14 * PAGE), Known::Here(8 * PAGE));
        assert_eq!(pager.read(31 * PAGE, PAGE).unwrap(), [47; 4096]);
        // Who was started anew goes on.
        let mut awaited = Awaited::open(store.path()).unwrap();
        assert_eq!(awaited.left(), 37 * PAGE);
        let mut came = 0;
        while let Some((process, ranges)) = awaited.next(3 * PAGE) {
            let bytes = ranges.iter().map(Range::len).sum::<u64>();
            assert!(bytes > 0 && bytes <= 3 * PAGE);
            came += bytes;
            awaited.put(process, &ranges, &vec![1; usize::try_from(bytes).unwrap()]).unwrap();
        }
        assert_eq!((came, awaited.left(), awaited.is_lost()), (37 * PAGE, 0, false));
    }

    #[test]
    fn what_nobody_awaits_is_refused_and_what_is_lost_stays_so() {
        let store = tempfile::tempdir().unwrap();
        let awaited = awaiting(store.path());
        for (process, ranges) in [(2, vec![range(10, 11)]), (1, vec![range(13, 21)]), (1, vec![range(9, 11)]), (1, vec![Range { start: 10, end: 4106 }])] {
            assert!(awaited.put(process, &ranges, &vec![0; usize::try_from(ranges[0].len()).unwrap()]).is_err(), "{ranges:?}");
        }
        assert!(awaited.put(1, &[range(10, 11)], &[0; 4095]).is_err());
        awaited.put(1, &[range(10, 11)], &[1; 4096]).unwrap();
        awaited.lose();
        let pager = Arriving::open(store.path(), 1).unwrap();
        assert_eq!((pager.known(0, 4 * PAGE), pager.known(PAGE, PAGE)), (Known::Here(PAGE), Known::Lost));
        pager.want(PAGE, PAGE);
        assert_eq!(pager.known(PAGE, PAGE), Known::Lost);
        let mut again = Awaited::open(store.path()).unwrap();
        assert!(again.is_lost() && again.next(PAGE).is_none(), "nothing is asked for any more");
        assert!(Awaited::open(&store.path().join("none")).unwrap().next(PAGE).is_none());
    }
}
