//! What each step is a part of: the steps of a timeline as a tree, for spans.
//!
//! ```text
//!   Switching ─┬─ dump ─┬─ criu-dump main          by name: `steps::Known::within`
//!              │        └─ receipt main            of several of that name: the one about the same thing that was under way
//!              └─ offer ─┬─ restore ─── criu-restore main
//!                        └─ journal                what the target does alone is a part of the offer
//! ```

use super::steps;

/// What everything is a part of that the target does alone.
const OFFER: &str = "offer";

/// A step, on one clock with all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken<'a> {
    /// Its name.
    pub name: &'a str,
    /// Who took it.
    pub who: &'a str,
    /// What it was about.
    pub detail: &'a str,
    /// Start in microseconds.
    pub start_us: i64,
    /// End in microseconds.
    pub end_us: i64,
}

/// The step (by its place in the list) that each one is a part of; `None` for parts of a phase.
#[must_use]
pub fn parents(taken: &[Taken]) -> Vec<Option<usize>> {
    taken.iter().enumerate().map(|(place, step)| parent(taken, place, step)).collect()
}

fn parent(taken: &[Taken], place: usize, step: &Taken) -> Option<usize> {
    let within = match steps::of(step.name).map(|known| known.within).unwrap_or_default() {
        "" if step.who == "target" && step.name != OFFER => OFFER,
        "" => return None,
        within => within,
    };
    let candidates = taken.iter().enumerate().filter(|(other, candidate)| *other != place && candidate.name == within);
    candidates.max_by_key(|(other, candidate)| (shared(step, candidate), candidate.detail == step.detail, std::cmp::Reverse(*other))).map(|(other, _)| other)
}

/// Microseconds during which both were under way; negative: how far they are from each other.
fn shared(one: &Taken, other: &Taken) -> i64 {
    one.end_us.min(other.end_us).saturating_sub(one.start_us.max(other.start_us))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn step(name: &'static str, who: &'static str, detail: &'static str, start_us: i64, end_us: i64) -> Taken<'static> {
        Taken { name, who, detail, start_us, end_us }
    }

    #[test]
    fn parts_hang_below_what_they_are_a_part_of() {
        let list = [
            step("dump", "source", "", 0, 40),
            step("criu-dump", "source", "main", 1, 30),
            step("offer", "source", "", 40, 100),
            step("restore", "target", "", 45, 80),
            step("criu-restore", "wrapper", "main", 50, 78),
            step("journal", "target", "", 80, 81),
            step("journal", "source", "", 38, 39),
            step("inspect", "controller", "", 0, 1),
        ];
        assert_eq!(parents(&list), [None, Some(0), None, Some(2), Some(3), Some(2), None, None]);
    }

    #[test]
    fn of_two_attempts_the_one_under_way_counts() {
        let list = [step("dump", "source", "", 0, 40), step("dump", "source", "", 100, 140), step("digest", "source", "main", 120, 130)];
        assert_eq!(parents(&list)[2], Some(1));
        assert_eq!(parents(&[step("digest", "source", "main", 120, 130)]), [None]);
        assert_eq!(parents(&[step("offer", "target", "", 0, 0), step("offer", "target", "", 0, 0)]), [None, None], "no circle");
    }

    proptest! {
        #[test]
        fn there_are_no_circles(list in proptest::collection::vec((0_usize..60, 0_usize..4, any::<i64>(), any::<i64>()), 0..20)) {
            let who = ["controller", "source", "target", "wrapper"];
            let list: Vec<_> = list.into_iter().map(|(name, by, start, end)| step(steps::KNOWN[name % steps::KNOWN.len()].name, who[by], "", start, end)).collect();
            let parents = parents(&list);
            for above in &parents {
                let (mut above, mut up) = (*above, 0);
                while let Some(parent) = above {
                    above = parents[parent];
                    up += 1;
                    prop_assert!(up <= 3);
                }
            }
        }
    }
}
