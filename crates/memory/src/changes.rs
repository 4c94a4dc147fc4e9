//! What a process does with its memory while it is filled, in the order in which it did it.
//!
//! A thread that moves or unmaps memory tells of it when it has let go of the lock of its memory (`do_mremap` in mm/mremap.c, `userfaultfd_unmap_complete` in fs/userfaultfd.c).
//! If it is stopped right there another thread overtakes it, and may put something into the very place that was just left:
//!
//! ```text
//!   thread A   mremap R → P ──────────────────────────────▶ tells
//!   thread B             mremap Q → R ──▶ tells                      heard: Q → R, then R → P
//! ```
//! Believed in that order, what A has moved is gone, and what B has moved is at P. But nothing can be put anywhere before all that was done has been told and heard
//! (`mmap_changing`: EAGAIN). So changes are collected until then, and put in order by what is there now: where something is, whoever left has left before it came.

use std::io;
use std::os::fd::OwnedFd;

use crate::range::Range;
use crate::sys;

/// One change.
#[derive(Debug)]
pub enum Change {
    /// mremap(2): what was in a range is at `to` now.
    Moved { from: Range, to: u64 },
    /// munmap(2), or something else mapped over it.
    Unmapped(Range),
    /// madvise(2): the range is there and empty.
    Emptied(Range),
    /// fork(2): the userfaultfd of the child, which has what its parent has.
    Forked(OwnedFd),
}

impl Change {
    /// Of a `struct uffd_msg` (include/uapi/linux/userfaultfd.h): event at 0, arguments at 8. Not for page faults.
    ///
    /// # Errors
    /// An event that was not asked for.
    pub fn read(message: &[u8; 32]) -> io::Result<Self> {
        let word = |at: usize| message.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes);
        let (first, second, third) = (word(8), word(16), word(24));
        Ok(match message[0] {
            // UFFD_EVENT_FORK: ufd.
            0x13 => Self::Forked(sys::take_descriptor(i32::from_le_bytes([message[8], message[9], message[10], message[11]]))?),
            // UFFD_EVENT_REMAP: from, to, len.
            0x14 => Self::Moved { from: Range { start: first, end: first.saturating_add(third) }, to: second },
            // UFFD_EVENT_REMOVE, UFFD_EVENT_UNMAP: start, end.
            0x15 => Self::Emptied(Range { start: first, end: second }),
            0x16 => Self::Unmapped(Range { start: first, end: second }),
            other => return Err(io::Error::other(format!("an unknown event {other:#x} of userfaultfd"))),
        })
    }

    /// Where something came to.
    #[must_use]
    pub fn reached(&self) -> Option<Range> {
        match self {
            Self::Moved { from, to } => Some(Range { start: *to, end: to.saturating_add(from.len()) }),
            _ => None,
        }
    }

    /// What was left, and is not there any more.
    #[must_use]
    pub fn left(&self) -> Option<Range> {
        match self {
            Self::Moved { from: left, .. } | Self::Unmapped(left) => Some(*left),
            _ => None,
        }
    }
}

/// Puts changes, all that there were since the last time, in their order. `occupied` says whether something is at an address, or that the process is changing its memory:
/// then there is more to come, and `false` is returned.
///
/// # Errors
/// Those of `occupied`.
pub fn order(changes: &mut Vec<Change>, mut occupied: impl FnMut(u64) -> io::Result<Option<bool>>) -> io::Result<bool> {
    // Any address will do to learn whether all has been told.
    let some = changes.iter().find_map(Change::left).map_or(0x1000, |range| range.start);
    if occupied(some)?.is_none() {
        return Ok(false);
    }
    let (mut at, mut patience) = (0, changes.len() * changes.len());
    while at < changes.len() {
        if patience > 0
            && let Some((later, place)) = overtaken(changes, at)
        {
            match occupied(place)? {
                None => return Ok(false),
                Some(true) => {
                    let change = changes.remove(later);
                    changes.insert(at, change);
                    patience -= 1;
                    continue;
                }
                Some(false) => {}
            }
        }
        at += 1;
    }
    Ok(true)
}

/// A later change that leaves, for good, the place to which this one came, and an address there. Either it came here and left again, or somebody else had left before.
fn overtaken(changes: &[Change], at: usize) -> Option<(usize, u64)> {
    let reached = changes[at].reached()?;
    let (later, place) = changes.iter().enumerate().skip(at + 1).find_map(|(later, change)| {
        let left = change.left()?;
        let start = left.start.max(reached.start);
        (start < left.end.min(reached.end)).then_some((later, start))
    })?;
    let taken_again = changes[later + 1..].iter().filter_map(Change::reached).any(|range| range.start <= place && place < range.end);
    (!taken_again).then_some((later, place))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const R: u64 = 0x5000;

    fn moved(from: u64, to: u64) -> Change {
        Change::Moved { from: Range { start: from, end: from + 0x1000 }, to }
    }

    fn ordered(mut changes: Vec<Change>, occupied: &[u64]) -> Vec<String> {
        assert!(order(&mut changes, |address| Ok(Some(occupied.contains(&address)))).unwrap());
        let name = |change: &Change| match change {
            Change::Moved { from, to } => format!("{:x}→{to:x}", from.start),
            Change::Unmapped(range) => format!("{:x} gone", range.start),
            Change::Emptied(range) => format!("{:x} empty", range.start),
            Change::Forked(_) => "fork".into(),
        };
        changes.iter().map(name).collect()
    }

    #[test]
    fn whoever_left_a_place_where_something_is_was_overtaken() {
        assert_eq!(ordered(vec![moved(0x1000, R), moved(R, 0x9000)], &[R, 0x9000]), ["5000→9000", "1000→5000"]);
        let gone = || Change::Unmapped(Range { start: R, end: R + 0x2000 });
        assert_eq!(ordered(vec![moved(0x1000, R), gone()], &[R]), ["5000 gone", "1000→5000"]);
        // It came, and left again.
        assert_eq!(ordered(vec![moved(0x1000, R), moved(R, 0x9000)], &[0x9000]), ["1000→5000", "5000→9000"]);
        assert_eq!(ordered(vec![moved(0x1000, R), gone()], &[]), ["1000→5000", "5000 gone"]);
        // Three in a row, each in the other's place.
        assert_eq!(ordered(vec![moved(0x1000, R), moved(R, 0x9000), moved(0x9000, 0xa000)], &[R, 0x9000, 0xa000]), ["9000→a000", "5000→9000", "1000→5000"]);
        // What is emptied stays where it was.
        let emptied = Change::Emptied(Range { start: R, end: R + 0x1000 });
        assert_eq!(ordered(vec![moved(0x1000, R), emptied, moved(R, 0x9000)], &[R, 0x9000]), ["5000→9000", "1000→5000", "5000 empty"]);
    }

    #[test]
    fn while_something_changes_nothing_is_decided() {
        let mut changes = vec![moved(0x1000, R), moved(R, 0x9000)];
        assert!(!order(&mut changes, |_| Ok(None)).unwrap());
        assert_eq!(changes.len(), 2);
        let mut asked = 0;
        let decided = order(&mut changes, |_| {
            asked += 1;
            Ok((asked < 2).then_some(true))
        });
        assert!(!decided.unwrap());
    }
}
