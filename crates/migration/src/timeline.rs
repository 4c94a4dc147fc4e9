//! The timeline: what the freeze was spent on.
//!
//! ```text
//!   freeze ──┐                                                              ┌── first process runs again (at the target, or thawed)
//!            ├──────────────────────── total ───────────────────────────────┤
//!            │ gate │ dump ────────────│ seal │           │ verify │ commit  confirm │ open
//!            │      │    restore ───────────────────── │
//! ```
//!
//! Steps of one name may overlap (containers are dumped side by side), so a part is the union of its steps, not their sum. Steps of different agents are
//! never compared with each other: their clocks differ. The total is therefore measured by who froze, and only handed through here.

pub mod path;
pub mod steps;
pub mod tree;

use serde::{Deserialize, Serialize};

/// Most steps that a record keeps.
pub const LIMIT: usize = 300;

/// Which steps of a record are kept, by their durations: all, or of too many the longest.
#[must_use]
pub fn worth_keeping(durations: &[i64]) -> Vec<bool> {
    let mut keep = vec![true; durations.len()];
    let mut order: Vec<usize> = (0..durations.len()).collect();
    order.sort_by_key(|index| durations.get(*index).copied().unwrap_or_default());
    for index in order.into_iter().take(durations.len().saturating_sub(LIMIT)) {
        keep[index] = false;
    }
    keep
}

/// One step that was taken.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Step {
    /// Its name, e.g. `dump`.
    pub name: String,
    /// Who took it: `source` or `target`. Times of one taker can be compared.
    pub who: String,
    /// Start in microseconds since the epoch, by the clock of who took it.
    pub start_us: i64,
    /// Duration in microseconds.
    pub duration_us: i64,
}

/// For how long nothing of the pod ran, and what that time was spent on, in milliseconds, rounded. The parts may overlap each other.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Freeze {
    /// From the order to freeze to the first process that runs again.
    pub total_ms: u32,
    /// CRIU writes the images.
    pub dump_ms: u32,
    /// What was still on the way when the dump had ended.
    pub delta_ms: u32,
    /// CRIU restores up to the gate.
    pub restore_ms: u32,
    /// The restored pod is compared with the images.
    pub verify_ms: u32,
    /// The commit and the source's confirmation.
    pub commit_ms: u32,
}

/// Sorts the steps into the parts of the freeze. `total_us` is what the source's agent measured.
#[must_use]
pub fn freeze(total_us: i64, steps: &[Step]) -> Freeze {
    Freeze {
        total_ms: ms(total_us),
        dump_ms: part(steps, &["dump"]),
        // Files travel beside the dump: only what it did not cover counts.
        delta_ms: part(steps, &["dump", "delta", "seal"]).saturating_sub(part(steps, &["dump"])),
        restore_ms: part(steps, &["restore"]),
        verify_ms: part(steps, &["verify"]),
        commit_ms: part(steps, &["commit", "confirm"]),
    }
}

/// The time covered by at least one step of these names, by each taker's own clock.
fn part(steps: &[Step], names: &[&str]) -> u32 {
    let mut spans: Vec<(&str, i64, i64)> = steps
        .iter()
        .filter(|step| names.contains(&step.name.as_str()))
        .map(|step| (step.who.as_str(), step.start_us, step.start_us.saturating_add(step.duration_us.max(0))))
        .collect();
    spans.sort_unstable();
    let mut covered = 0_i64;
    let mut until: Option<(&str, i64)> = None;
    for (who, start, end) in spans {
        let from = match until {
            Some((before, latest)) if before == who => start.max(latest),
            _ => start,
        };
        covered = covered.saturating_add((end - from).max(0));
        until = Some((who, end.max(from)));
    }
    ms(covered)
}

fn ms(us: i64) -> u32 {
    u32::try_from(us.max(0).saturating_add(500) / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn step(name: &str, who: &str, start_us: i64, duration_us: i64) -> Step {
        Step { name: name.into(), who: who.into(), start_us, duration_us }
    }

    #[test]
    fn of_too_many_the_longest_stay() {
        assert_eq!(worth_keeping(&[3, 1, 2]), [true; 3]);
        let many: Vec<i64> = (0..400).rev().collect();
        let keep = worth_keeping(&many);
        assert_eq!(keep.iter().filter(|keep| **keep).count(), LIMIT);
        assert!(keep[0] && !keep[399]);
    }

    #[test]
    fn containers_side_by_side_count_once() {
        let steps = [step("dump", "source", 0, 30_000), step("dump", "source", 10_000, 35_000), step("dump", "source", 60_000, 5_000)];
        assert_eq!(freeze(90_000, &steps), Freeze { total_ms: 90, dump_ms: 50, ..Freeze::default() });
    }

    #[test]
    fn clocks_of_two_nodes_are_not_mixed() {
        let steps = [step("commit", "target", 1_000_000, 8_000), step("confirm", "target", 1_008_000, 3_000), step("commit", "source", 0, 2_000)];
        assert_eq!(freeze(0, &steps).commit_ms, 13);
    }

    proptest! {
        #[test]
        fn a_part_is_at_most_the_sum_and_at_least_the_longest(spans in proptest::collection::vec((0_i64..1_000_000, 0_i64..1_000_000), 1..8)) {
            let steps: Vec<_> = spans.iter().map(|(start, duration)| step("restore", "target", *start, *duration)).collect();
            let part = freeze(0, &steps).restore_ms;
            prop_assert!(part <= ms(spans.iter().map(|span| span.1).sum()));
            prop_assert!(part >= ms(spans.iter().map(|span| span.1).max().unwrap()));
        }

        #[test]
        fn nothing_panics(total in any::<i64>(), spans in proptest::collection::vec((any::<i64>(), any::<i64>()), 0..5)) {
            let steps: Vec<_> = spans.iter().map(|(start, duration)| step("dump", "source", *start, *duration)).collect();
            let _ = freeze(total, &steps);
        }
    }
}
