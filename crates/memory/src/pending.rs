//! Which pages of a restored process have not been filled yet, by the addresses that they have now, and where they were when the process stood still.
//!
//! ```text
//!   now     1000…3000 ─┐      the process moves memory (mremap), gives it back (munmap, madvise), and forks meanwhile
//!   frozen  a000…c000 ─┘
//! ```

use std::collections::BTreeMap;

use crate::Range;
use crate::changes::Change;

/// By first address: the end, and the first address in the frozen process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    parts: BTreeMap<u64, (u64, u64)>,
}

impl Pending {
    /// Everything is to be filled, where it was.
    #[must_use]
    pub fn of(ranges: impl IntoIterator<Item = Range>) -> Self {
        let mut pending = Self::default();
        for range in ranges.into_iter().filter(|range| !range.is_empty()) {
            pending.put(range.start, range.end, range.start);
        }
        pending
    }

    /// Whether everything is filled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|(start, (end, _))| end - start).sum()
    }

    /// The part from `address` on, if it is to be filled: its end now, and where it begins in the frozen process.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<(u64, u64)> {
        let (start, (end, origin)) = self.parts.range(..=address).next_back()?;
        (address < *end).then(|| (*end, origin + (address - start)))
    }

    /// All parts in order: where each is, its end, and where it begins in the frozen process.
    pub fn parts(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.parts.iter().map(|(start, (end, origin))| (*start, *end, *origin))
    }

    /// What the process has done.
    pub fn follow(&mut self, change: &Change) {
        match change {
            Change::Moved { from, to } => self.shift(from.start, *to, from.len()),
            Change::Unmapped(range) | Change::Emptied(range) => self.drop(range.start, range.end),
            Change::Forked(_) => {}
        }
    }

    /// These addresses need nothing any more.
    pub fn drop(&mut self, start: u64, end: u64) {
        self.take(start, end);
    }

    /// What was at `from` is now at `to`.
    pub fn shift(&mut self, from: u64, to: u64, length: u64) {
        let moved = self.take(from, from.saturating_add(length));
        // What was to be filled there has gone with the mapping that was there.
        self.take(to, to.saturating_add(length));
        for (start, end, origin) in moved {
            self.put(start - from + to, end - from + to, origin);
        }
    }

    fn put(&mut self, start: u64, end: u64, origin: u64) {
        if let Some((first, (last, before))) = self.parts.range_mut(..start).next_back()
            && *last == start
            && *before + (start - *first) == origin
        {
            *last = end;
            return;
        }
        self.parts.insert(start, (end, origin));
    }

    /// Cuts a range out and gives what was in it.
    fn take(&mut self, start: u64, end: u64) -> Vec<(u64, u64, u64)> {
        let mut taken = Vec::new();
        if start >= end {
            return taken;
        }
        let first = self.parts.range(..start).next_back().filter(|(_, (last, _))| *last > start).map_or(start, |(first, _)| *first);
        let touched: Vec<(u64, (u64, u64))> = self.parts.range(first..end).map(|(start, part)| (*start, *part)).collect();
        for (part_start, (part_end, origin)) in touched {
            self.parts.remove(&part_start);
            if part_start < start {
                self.parts.insert(part_start, (start, origin));
            }
            if part_end > end {
                self.parts.insert(end, (part_end, origin + (end - part_start)));
            }
            let (from, to) = (part_start.max(start), part_end.min(end));
            taken.push((from, to, origin + (from - part_start)));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn parts_move_and_go() {
        let mut pending = Pending::of([Range { start: 10, end: 20 }, Range { start: 30, end: 40 }]);
        assert_eq!((pending.at(9), pending.at(10), pending.at(19), pending.at(20)), (None, Some((20, 10)), Some((20, 19)), None));
        pending.shift(15, 100, 20); // 15…35
        assert_eq!(
            (pending.at(14), pending.at(15), pending.at(100), pending.at(104), pending.at(105)),
            (Some((15, 14)), None, Some((105, 15)), Some((105, 19)), None)
        );
        assert_eq!((pending.at(115), pending.at(119), pending.at(35)), (Some((120, 30)), Some((120, 34)), Some((40, 35))));
        pending.drop(0, 103);
        assert_eq!(pending.parts().next(), Some((103, 105, 18)));
        assert_eq!(pending.bytes(), 2 + 5);
        pending.drop(0, 1000);
        assert!(pending.is_empty());
    }

    /// Against a table of single addresses.
    #[test]
    fn random_histories_end_alike() {
        let mut seed = 88_172_645_463_325_252_u64;
        let mut next = |limit: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % limit
        };
        for _ in 0..300 {
            let mut pending = Pending::default();
            let mut table: HashMap<u64, u64> = HashMap::new();
            let mut at = 0;
            let mut ranges = Vec::new();
            for _ in 0..6 {
                let start = at + next(10);
                let end = start + 1 + next(15);
                ranges.push(Range { start, end });
                table.extend((start..end).map(|address| (address, address)));
                at = end;
            }
            pending.clone_from(&Pending::of(ranges));
            for _ in 0..30 {
                let (from, length) = (next(150), 1 + next(30));
                if next(2) == 0 {
                    pending.drop(from, from + length);
                    table.retain(|address, _| !(from..from + length).contains(address));
                } else {
                    // Never onto itself: mremap refuses that.
                    let to = from + length + next(100);
                    pending.shift(from, to, length);
                    let moved: Vec<(u64, u64)> = (from..from + length).filter_map(|address| Some((address - from + to, table.remove(&address)?))).collect();
                    table.retain(|address, _| !(to..to + length).contains(address));
                    table.extend(moved);
                }
                for address in 0..400 {
                    assert_eq!(pending.at(address).map(|(_, origin)| origin), table.get(&address).copied(), "{address}");
                }
                assert_eq!(pending.bytes(), table.len() as u64);
            }
        }
    }
}
