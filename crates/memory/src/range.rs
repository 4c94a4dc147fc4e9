//! Ranges of addresses.

/// Bytes of a page on every architecture that Godwit runs on.
pub const PAGE: u64 = 4096;

/// Addresses from `start` up to but without `end`, both multiples of [`PAGE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Byte behind the last one.
    pub end: u64,
}

impl Range {
    /// Bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The same addresses in at most so many parts, none but the last of fewer than `least` bytes. Parts begin at multiples of `least`, counted from the start.
    #[must_use]
    pub fn parts(&self, most: usize, least: u64) -> Vec<Self> {
        let most = u64::try_from(most).unwrap_or(1).max(1);
        let length = self.len().div_ceil(most).next_multiple_of(least.max(PAGE));
        let mut parts = Vec::new();
        let mut at = self.start;
        while at < self.end {
            let end = at.saturating_add(length).min(self.end);
            parts.push(Self { start: at, end });
            at = end;
        }
        parts
    }

    /// Addresses of its pages.
    pub fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        (self.start..self.end).step_by(4096)
    }
}

/// Adds a page (or a range) behind the last one, joined with it where they touch.
pub fn push(ranges: &mut Vec<Range>, next: Range) {
    match ranges.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        _ if next.is_empty() => {}
        _ => ranges.push(next),
    }
}

/// The same addresses, in order, in as few ranges as there can be.
#[must_use]
pub fn joined(ranges: impl IntoIterator<Item = Range>) -> Vec<Range> {
    let mut sorted: Vec<Range> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
    sorted.sort_unstable();
    let mut all: Vec<Range> = Vec::new();
    for range in sorted {
        match all.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => all.push(range),
        }
    }
    all
}

/// What is in `from` and in none of `without`. Both sorted and disjoint.
#[must_use]
pub fn subtract(from: &[Range], without: &[Range]) -> Vec<Range> {
    let mut left = Vec::new();
    let mut rest = without.iter().peekable();
    for range in from {
        let mut at = range.start;
        while let Some(hole) = rest.peek() {
            if hole.end <= at {
                rest.next();
                continue;
            }
            if hole.start >= range.end {
                break;
            }
            if hole.start > at {
                left.push(Range { start: at, end: hole.start });
            }
            at = hole.end;
            if hole.end <= range.end {
                rest.next();
            } else {
                break;
            }
        }
        if at < range.end {
            left.push(Range { start: at, end: range.end });
        }
    }
    left
}

/// What is in both. Both sorted and disjoint.
#[must_use]
pub fn common(one: &[Range], other: &[Range]) -> Vec<Range> {
    subtract(one, &subtract(one, other))
}

/// Bytes of all of them.
#[must_use]
pub fn bytes(ranges: &[Range]) -> u64 {
    ranges.iter().map(Range::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Range {
        Range { start, end }
    }

    #[test]
    fn parts_are_the_whole() {
        let sizes = |pages: u64, most, least: u64| -> Vec<u64> {
            let whole = range(7 * PAGE, (7 + pages) * PAGE);
            let parts = whole.parts(most, least * PAGE);
            assert_eq!(joined(parts.iter().copied()), if pages == 0 { vec![] } else { vec![whole] });
            parts.iter().map(|part| part.len() / PAGE).collect()
        };
        assert_eq!(sizes(100, 4, 10), [30, 30, 30, 10]);
        assert_eq!(sizes(100, 1, 10), [100]);
        assert_eq!(sizes(5, 4, 10), [5]);
        assert_eq!(sizes(11, 4, 10), [10, 1]);
        assert_eq!(sizes(7, 0, 0), [7]);
        assert!(sizes(0, 4, 10).is_empty());
    }

    #[test]
    fn touching_ranges_become_one() {
        let mut all = Vec::new();
        for next in [range(0, 2), range(2, 3), range(3, 3), range(5, 6)] {
            push(&mut all, next);
        }
        assert_eq!(all, [range(0, 3), range(5, 6)]);
        assert_eq!(bytes(&all), 4);
        assert_eq!(joined([range(5, 6), range(1, 3), range(2, 2), range(3, 4), range(0, 2)]), [range(0, 4), range(5, 6)]);
    }

    #[test]
    fn what_both_have_is_cut_out() {
        let ranges = |words: &[(u64, u64)]| words.iter().map(|(start, end)| Range { start: *start, end: *end }).collect::<Vec<_>>();
        let (one, other) = (ranges(&[(0, 4), (6, 9), (12, 20)]), ranges(&[(2, 7), (9, 12), (13, 14), (15, 30)]));
        let both = ranges(&[(2, 4), (6, 7), (13, 14), (15, 20)]);
        assert_eq!((common(&one, &other), common(&other, &one)), (both.clone(), both));
        assert!(common(&one, &[]).is_empty() && common(&[], &one).is_empty());
    }

    #[test]
    fn holes_are_cut_out() {
        let from = [range(0, 10), range(20, 30), range(40, 50)];
        assert_eq!(subtract(&from, &[]), from);
        assert_eq!(subtract(&from, &[range(2, 4), range(8, 25)]), [range(0, 2), range(4, 8), range(25, 30), range(40, 50)]);
        assert_eq!(subtract(&from, &[range(0, 100)]), []);
        assert_eq!(subtract(&from, &[range(9, 21), range(29, 41), range(49, 60)]), [range(0, 9), range(21, 29), range(41, 49)]);
        // Against every page one by one.
        let (from, without) = ([range(1, 7), range(8, 9), range(12, 20)], [range(0, 2), range(3, 4), range(5, 13), range(19, 20)]);
        let has = |ranges: &[Range], at: u64| ranges.iter().any(|range| range.start <= at && at < range.end);
        let left = subtract(&from, &without);
        for at in 0..25 {
            assert_eq!(has(&left, at), has(&from, at) && !has(&without, at), "{at}");
        }
    }
}
