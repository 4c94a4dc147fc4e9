//! The pages that have arrived, before anybody knows which of them will be the last: files that CRIU reads as a chain of incremental images.
//!
//! ```text
//!   directory/0/pages-7.img   what the first stream brought of process 7, in order of addresses
//!   directory/1/pages-7.img   pages that came into being later …
//! ```
//! A page that comes again is written over its old self, so the store never holds more than one copy of a page. A page that is new goes into the level of the stream
//! that brings it (a round is one stream, or several beside each other): within a level the pages of a process lie in order of their addresses, which is what CRIU's `pagemap` can describe. What the levels hold is here, in memory; the
//! images' tables are written at the very end (`godwit_criu::images::chain`).
//!
//! Nothing is trusted that was not put here by this object: it cannot be loaded from a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::pager::Row;
use crate::range::{PAGE, Range};

/// Most levels: each that holds something costs CRIU one more table to look into.
pub const LEVELS: usize = 128;

/// See the module.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// By pid inside the container.
    processes: BTreeMap<i32, Process>,
    /// How many have begun.
    levels: usize,
}

#[derive(Debug, Default)]
struct Process {
    levels: BTreeMap<usize, Level>,
}

#[derive(Debug)]
struct Level {
    file: File,
    /// In order of addresses and of slots.
    runs: Vec<Run>,
    slots: u64,
}

/// Pages that lie one behind the other both in memory and in the file.
#[derive(Clone, Copy, Debug)]
struct Run {
    range: Range,
    /// Number of the first one in the file.
    slot: u64,
}

/// A part of a process's memory in one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where.
    pub range: Range,
    /// Here, or in a level below.
    pub here: bool,
}

/// One level as CRIU is to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its directory.
    pub directory: PathBuf,
    /// By process: its parts, in order. The file beside it is [`pages_file`].
    pub processes: BTreeMap<i32, Vec<Part>>,
}

/// Name of the file with the pages of a process.
#[must_use]
pub fn pages_file(process: i32) -> String {
    format!("pages-{process}.img")
}

impl Level {
    fn slot(&self, address: u64) -> Option<u64> {
        let after = self.runs.partition_point(|run| run.range.start <= address);
        let run = self.runs.get(after.checked_sub(1)?)?;
        (address < run.range.end).then(|| run.slot + (address - run.range.start) / PAGE)
    }
}

/// Where a page goes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    level: usize,
    slot: u64,
}

impl Store {
    /// An empty store in a directory of its own (mode 0700, made here; what was there goes).
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(directory: &Path) -> io::Result<Self> {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().mode(0o700).recursive(true).create(directory)?;
        Ok(Self { directory: directory.to_owned(), processes: BTreeMap::new(), levels: 0 })
    }

    /// A stream begins: what it brings anew goes into a level of its own, whose number is returned.
    ///
    /// # Errors
    /// When there are too many.
    pub fn begin(&mut self) -> io::Result<usize> {
        let level = self.levels;
        if level >= LEVELS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("more than {LEVELS} streams of pages")));
        }
        DirBuilder::new().mode(0o700).create(self.directory.join(level.to_string()))?;
        self.levels += 1;
        Ok(level)
    }

    /// Takes pages of a process by the stream of a level: `ranges` in order, and their contents one behind the other.
    ///
    /// # Errors
    /// `InvalidData` when the ranges are not page-aligned, not in order within the stream, or do not fit the data; or the error of the file system (it is full).
    pub fn put(&mut self, level: usize, process: i32, ranges: &[Range], data: &[u8]) -> io::Result<()> {
        if level >= self.levels {
            return Err(invalid("pages before their stream has begun"));
        }
        let sound = ranges.iter().all(|range| !range.is_empty() && range.start % PAGE == 0 && range.end % PAGE == 0);
        let total = ranges.iter().try_fold(0u64, |total, range| total.checked_add(range.len()));
        if !sound || total != u64::try_from(data.len()).ok() || process <= 0 {
            return Err(invalid("the pages do not fit their addresses"));
        }
        let known = self.processes.entry(process).or_default();
        let mut rest = data;
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let first = known.find(at);
                let mut end = at + PAGE;
                while end < range.end && known.follows(first, at, end) {
                    end += PAGE;
                }
                let (piece, behind) = rest.split_at(usize::try_from(end - at).unwrap_or(0));
                rest = behind;
                match first {
                    Some(place) => known.overwrite(place, piece)?,
                    None => known.append(&self.directory, process, level, Range { start: at, end }, piece)?,
                }
                at = end;
            }
        }
        Ok(())
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.processes.values().flat_map(|process| process.levels.values()).map(|level| level.slots * PAGE).sum()
    }

    /// Where all pages of `wanted` (by process, in order) lie, for the pager.
    ///
    /// # Errors
    /// `NotFound` with the first page that is not there.
    pub fn rows(&self, wanted: &BTreeMap<i32, Vec<Range>>) -> io::Result<Vec<Row>> {
        let mut rows: Vec<Row> = Vec::new();
        for (process, ranges) in wanted {
            if ranges.windows(2).any(|pair| pair[0].end > pair[1].start) {
                return Err(invalid("the list of pages is not in order"));
            }
            let nothing = Process::default();
            let runs = self.processes.get(process).unwrap_or(&nothing).runs();
            // Both in order of addresses: one walk along both.
            let mut rest = runs.iter().peekable();
            for range in ranges {
                let mut at = range.start;
                while at < range.end {
                    while rest.next_if(|(run, _)| run.range.end <= at).is_some() {}
                    let (run, level) = rest.peek().filter(|(run, _)| run.range.start <= at).ok_or_else(|| missing(*process, at))?;
                    let (end, level) = (run.range.end.min(range.end), u64::try_from(*level).unwrap_or(u64::MAX));
                    let offset = run.slot * PAGE + (at - run.range.start);
                    match rows.last_mut() {
                        Some(last) if last.process == *process && last.range.end == at && last.level == level && last.offset + last.range.len() == offset => {
                            last.range.end = end;
                        }
                        _ => rows.push(Row { process: *process, range: Range { start: at, end }, level, offset }),
                    }
                    at = end;
                }
            }
        }
        Ok(rows)
    }

    /// The levels as CRIU is to see them, the lowest first, so that all pages of `wanted` (by process, in order) are found. A level lists everything that its files
    /// hold, wanted or not, since CRIU counts the pages of a file.
    ///
    /// # Errors
    /// `NotFound` with the first page that is not there; `InvalidData` when a file has not the length that it must have.
    pub fn tables(&self, wanted: &BTreeMap<i32, Vec<Range>>) -> io::Result<Vec<Table>> {
        // Most streams of later rounds bring nothing new.
        let numbers: BTreeSet<usize> = self.processes.values().flat_map(|process| process.levels.keys().copied()).collect();
        let mut tables: Vec<(usize, Table)> =
            numbers.into_iter().map(|level| (level, Table { directory: self.directory.join(level.to_string()), processes: BTreeMap::new() })).collect();
        for (process, ranges) in wanted {
            let known = self.processes.get(process).ok_or_else(|| missing(*process, ranges.first().map_or(0, |range| range.start)))?;
            for level in known.levels.values() {
                if level.file.metadata()?.len() != level.slots * PAGE {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the store's file of process {process} has lost pages")));
                }
            }
            // In which level each wanted page is.
            let mut found: Vec<(Range, usize)> = Vec::new();
            for at in ranges.iter().flat_map(Range::pages) {
                let level = known.find(at).ok_or_else(|| missing(*process, at))?.level;
                match found.last_mut() {
                    Some((range, last)) if range.end == at && *last == level => range.end = at + PAGE,
                    Some((range, _)) if range.end > at => return Err(invalid("the list of pages is not in order")),
                    _ => found.push((Range { start: at, end: at + PAGE }, level)),
                }
            }
            for (number, table) in &mut tables {
                let own = known.levels.get(number).map(|level| level.runs.as_slice()).unwrap_or_default();
                let mut parts: Vec<Part> = own.iter().map(|run| Part { range: run.range, here: true }).collect();
                parts.extend(found.iter().filter(|(_, level)| level < number).map(|(range, _)| Part { range: *range, here: false }));
                parts.sort_unstable_by_key(|part| part.range);
                table.processes.insert(*process, parts);
            }
        }
        Ok(tables.into_iter().map(|(_, table)| table).collect())
    }
}

impl Process {
    /// All runs with their levels, in order of addresses: no page is in two.
    fn runs(&self) -> Vec<(Run, usize)> {
        let mut runs: Vec<(Run, usize)> = self.levels.iter().flat_map(|(level, held)| held.runs.iter().map(move |run| (*run, *level))).collect();
        runs.sort_unstable_by_key(|(run, _)| run.range.start);
        runs
    }

    /// Where a page is; `None` if it is new.
    fn find(&self, address: u64) -> Option<Place> {
        self.levels.iter().find_map(|(level, held)| held.slot(address).map(|slot| Place { level: *level, slot }))
    }

    /// Whether the page at `next` lies behind the one at `first` in the same way, counted from `start`.
    fn follows(&self, first: Option<Place>, start: u64, next: u64) -> bool {
        match (first, self.find(next)) {
            (None, None) => true,
            (Some(first), Some(place)) => place.level == first.level && place.slot == first.slot + (next - start) / PAGE,
            _ => false,
        }
    }

    fn overwrite(&mut self, place: Place, data: &[u8]) -> io::Result<()> {
        let level = self.levels.get(&place.level).ok_or(io::ErrorKind::NotFound)?;
        level.file.write_all_at(data, place.slot * PAGE)
    }

    fn append(&mut self, directory: &Path, process: i32, number: usize, range: Range, data: &[u8]) -> io::Result<()> {
        let level = match self.levels.entry(number) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let path = directory.join(number.to_string()).join(pages_file(process));
                let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
                entry.insert(Level { file, runs: Vec::new(), slots: 0 })
            }
        };
        if level.runs.last().is_some_and(|last| last.range.end > range.start) {
            return Err(invalid("new pages are not in order within their stream"));
        }
        level.file.write_all_at(data, level.slots * PAGE)?;
        match level.runs.last_mut() {
            Some(last) if last.range.end == range.start => last.range.end = range.end,
            _ => level.runs.push(Run { range, slot: level.slots }),
        }
        level.slots += range.len() / PAGE;
        Ok(())
    }
}

pub(crate) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn missing(process: i32, address: u64) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("page {address:#x} of process {process} never arrived"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn range(start: u64, end: u64) -> Range {
        Range { start: start * PAGE, end: end * PAGE }
    }

    fn pages(values: &[u8]) -> Vec<u8> {
        values.iter().flat_map(|value| [*value; 4096]).collect()
    }

    /// Reads a page as CRIU does: through the tables, from the highest level down, counting pages of the files.
    fn read(tables: &[Table], process: i32, address: u64) -> Option<u8> {
        let table = tables.last()?;
        let mut slot = 0;
        for part in &table.processes[&process] {
            if part.range.start <= address && address < part.range.end {
                if !part.here {
                    return read(&tables[..tables.len() - 1], process, address);
                }
                let file = File::open(table.directory.join(pages_file(process))).unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, slot * PAGE + address - part.range.start + 17).unwrap();
                return Some(byte[0]);
            }
            slot += if part.here { part.range.len() / PAGE } else { 0 };
        }
        None
    }

    #[test]
    fn the_last_contents_of_every_page_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::new(&directory.path().join("store")).unwrap();
        // The first round has two streams, of which the one that began later brings what lies before.
        let (first, beside) = (store.begin().unwrap(), store.begin().unwrap());
        store.put(first, 1, &[range(11, 13), range(20, 21)], &pages(&[2, 3, 4])).unwrap();
        store.put(beside, 1, &[range(10, 11)], &pages(&[1])).unwrap();
        store.put(first, 7, &[range(10, 11)], &pages(&[70])).unwrap();
        // This one brings nothing.
        store.begin().unwrap();
        let second = store.begin().unwrap();
        // One is new and lies between, one is there, one lies behind.
        store.put(second, 1, &[range(12, 15), range(21, 22)], &pages(&[33, 5, 6, 7])).unwrap();
        let third = store.begin().unwrap();
        store.put(third, 1, &[range(9, 11), range(13, 14)], &pages(&[8, 11, 55])).unwrap();
        assert_eq!(store.bytes(), 9 * PAGE);
        let wanted = BTreeMap::from([(1, vec![range(9, 15), range(20, 22)]), (7, vec![range(10, 11)])]);
        let tables = store.tables(&wanted).unwrap();
        assert_eq!(tables.len(), 4);
        let found: Vec<u8> = wanted[&1].iter().flat_map(Range::pages).map(|at| read(&tables, 1, at).unwrap()).collect();
        assert_eq!(found, [8, 11, 2, 33, 55, 6, 4, 7]);
        assert_eq!(read(&tables, 7, 10 * PAGE), Some(70));
        // The pager's view of the same.
        for (process, range, level, offset) in store.rows(&wanted).unwrap().into_iter().map(|row| (row.process, row.range, row.level, row.offset)) {
            let file = File::open(directory.path().join(format!("store/{level}/{}", pages_file(process)))).unwrap();
            for at in range.pages() {
                let mut byte = [0];
                file.read_exact_at(&mut byte, offset + at - range.start + 5).unwrap();
                assert_eq!(Some(byte[0]), read(&tables, process, at));
            }
        }
        // What is not wanted any more stays in the files and in their tables.
        let fewer = BTreeMap::from([(1, vec![range(11, 12), range(21, 22)])]);
        let tables = store.tables(&fewer).unwrap();
        assert_eq!((read(&tables, 1, 11 * PAGE), read(&tables, 1, 21 * PAGE)), (Some(2), Some(7)));
    }

    #[test]
    fn what_never_arrived_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::new(&directory.path().join("store")).unwrap();
        assert!(store.put(0, 1, &[range(1, 2)], &pages(&[1])).is_err());
        let level = store.begin().unwrap();
        store.put(level, 1, &[range(1, 3)], &pages(&[1, 2])).unwrap();
        let error = store.tables(&BTreeMap::from([(1, vec![range(2, 4)])])).unwrap_err();
        assert!(error.to_string().contains("0x3000"), "{error}");
        assert!(store.tables(&BTreeMap::from([(2, vec![range(1, 2)])])).is_err());
        for (ranges, data) in [(vec![range(5, 6)], pages(&[1, 2])), (vec![range(6, 5)], pages(&[])), (vec![Range { start: 1, end: 4097 }], pages(&[1]))] {
            assert!(store.put(level, 1, &ranges, &data).is_err(), "{ranges:?}");
        }
        // Not in order within the stream.
        store.put(level, 1, &[range(9, 10)], &pages(&[1])).unwrap();
        assert!(store.put(level, 1, &[range(7, 8)], &pages(&[1])).is_err());
        let level = store.begin().unwrap();
        store.put(level, 1, &[range(7, 8)], &pages(&[1])).unwrap();
        std::fs::OpenOptions::new().write(true).open(directory.path().join("store/0/pages-1.img")).unwrap().set_len(4096).unwrap();
        assert!(store.tables(&BTreeMap::from([(1, vec![range(1, 2)])])).is_err());
    }
}
