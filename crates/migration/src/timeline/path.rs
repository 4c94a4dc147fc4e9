//! The critical path: what the time between two instants was really spent on, and what of it no step explains.
//!
//! ```text
//!   level 0  ├──freeze──┤├───────────dump──────────┤      ├─seal─┤
//!                        ├────delta────┤
//!   level 1               ├───criu-dump───┤├receipt┤
//!   path     [  freeze  ][d][  criu-dump  ][receipt][  ?  ][ seal ]
//! ```
//!
//! Walked from the end to the start: what ended last is what was waited for. Each stretch is then looked at one level deeper, where there is more detail.
//! All times are by one clock: the caller corrects them first.

/// A step on the line of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Number by which the caller knows it.
    pub step: usize,
    /// 0 for what is led, 1 for a part of that, and so on.
    pub level: usize,
    /// Start in microseconds.
    pub start_us: i64,
    /// End in microseconds.
    pub end_us: i64,
}

/// One stretch of the path, in order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The step; `None` when no step was under way.
    pub step: Option<usize>,
    /// Start in microseconds.
    pub start_us: i64,
    /// End in microseconds.
    pub end_us: i64,
}

impl Stretch {
    /// Its length in microseconds.
    #[must_use]
    pub fn length_us(&self) -> i64 {
        self.end_us.saturating_sub(self.start_us)
    }
}

/// The path from `from` to `to`. Its stretches touch each other and cover all of it.
#[must_use]
pub fn critical(spans: &[Span], from: i64, to: i64) -> Vec<Stretch> {
    let deepest = spans.iter().map(|span| span.level).max().unwrap_or_default();
    let mut path = if from < to { vec![Stretch { step: None, start_us: from, end_us: to }] } else { Vec::new() };
    for level in 0..=deepest {
        let refined = path.iter().flat_map(|stretch| walk(spans, level, *stretch));
        path = joined(refined);
    }
    path
}

/// One stretch in more detail; what no step of the level covers stays what it was.
fn walk(spans: &[Span], level: usize, whole: Stretch) -> Vec<Stretch> {
    let inside = || spans.iter().filter(|span| span.level == level && span.start_us < whole.end_us && span.end_us > whole.start_us);
    let mut found = Vec::new();
    let mut at = whole.end_us;
    while at > whole.start_us {
        let covering = inside().filter(|span| span.start_us < at && span.end_us >= at).min_by_key(|span| (span.start_us, span.step));
        let start = match covering {
            Some(span) => span.start_us.max(whole.start_us),
            None => inside().map(|span| span.end_us).filter(|end| *end < at).max().unwrap_or(whole.start_us),
        };
        found.push(Stretch { step: covering.map(|span| span.step).or(whole.step), start_us: start, end_us: at });
        at = start;
    }
    found.reverse();
    found
}

/// Neighbours of one step become one stretch.
fn joined(stretches: impl Iterator<Item = Stretch>) -> Vec<Stretch> {
    let mut path: Vec<Stretch> = Vec::new();
    for stretch in stretches {
        match path.last_mut() {
            Some(last) if last.step == stretch.step => last.end_us = stretch.end_us,
            _ => path.push(stretch),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn spans(list: &[(usize, i64, i64)]) -> Vec<Span> {
        list.iter().enumerate().map(|(step, (level, start, end))| Span { step, level: *level, start_us: *start, end_us: *end }).collect()
    }

    fn named(path: &[Stretch]) -> Vec<(Option<usize>, i64)> {
        path.iter().map(|stretch| (stretch.step, stretch.length_us())).collect()
    }

    #[test]
    fn the_picture_above() {
        let list = [(0, 0, 10), (0, 10, 40), (0, 10, 25), (1, 11, 30), (1, 30, 40), (0, 45, 50)];
        assert_eq!(named(&critical(&spans(&list), 0, 50)), [(Some(0), 10), (Some(1), 1), (Some(3), 19), (Some(4), 10), (None, 5), (Some(5), 5)]);
    }

    #[test]
    fn side_by_side_the_longer_one_counts() {
        assert_eq!(named(&critical(&spans(&[(0, 0, 30), (0, 0, 10)]), 0, 30)), [(Some(0), 30)]);
        assert_eq!(named(&critical(&spans(&[(0, 0, 20), (0, 5, 30)]), 0, 30)), [(Some(0), 5), (Some(1), 25)]);
    }

    #[test]
    fn nothing_known_is_a_gap() {
        assert_eq!(named(&critical(&[], 5, 9)), [(None, 4)]);
        assert!(critical(&[], 9, 5).is_empty());
    }

    proptest! {
        #[test]
        fn a_path_covers_everything_once(
            list in proptest::collection::vec((0_usize..3, 0_i64..1000, 0_i64..300), 0..20), from in 0_i64..500, length in 0_i64..700,
        ) {
            let list: Vec<_> = list.into_iter().map(|(level, start, length)| (level, start, start + length)).collect();
            let path = critical(&spans(&list), from, from + length);
            prop_assert_eq!(path.iter().map(Stretch::length_us).sum::<i64>(), length);
            for pair in path.windows(2) {
                prop_assert_eq!(pair[0].end_us, pair[1].start_us);
                prop_assert!(pair[0].step != pair[1].step);
            }
            for stretch in path {
                if let Some(step) = stretch.step {
                    prop_assert!(list[step].1 <= stretch.start_us && stretch.end_us <= list[step].2);
                } else {
                    prop_assert!(list.iter().all(|(_, start, end)| start == end || *end <= stretch.start_us || *start >= stretch.end_us));
                }
            }
        }
    }
}
