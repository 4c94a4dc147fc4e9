//! How many connections carry memory beside each other: one, and more where one is not enough.
//!
//! ```text
//!   a window to get going ─▶ a window that counts: more than half of its time was waiting ─▶ twice as many
//!       ▲                                          a quarter more got across than before ─▶ kept, and so on;  if not ─▶ as before, for a while
//!       └─────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! One connection is not enough where a network gives each only a part of what it has (limits for each flow, one queue or one processor for each, long ways with small windows).

use super::window::Seen;

/// Most connections that are taken without being told.
pub const USUAL: usize = 4;
/// Most that may be asked for.
pub const MOST: usize = 8;
/// So many windows after more were found to be no better, they are tried again; after each further time twice as many, since each time takes levels of the target's page store.
const PATIENCE: u32 = 8;
/// More are better if so much more gets across.
const BETTER: f64 = 1.25;

/// See the module. Pure.
#[derive(Debug)]
pub struct Width {
    now: usize,
    most: usize,
    state: State,
    /// Windows until more are tried again.
    patience: u32,
}

/// What got across before there were twice as many, in bytes a second.
type Before = Option<f64>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// The next window only fills what lies between: buffers of a connection hold some MiB.
    Warm(Before),
    /// The next window counts.
    Ready(Before),
    /// More are no better; windows since then.
    Settled(u32),
}

impl Width {
    /// From one connection to `most`; `fixed`: that many from the start.
    #[must_use]
    pub fn new(most: usize, fixed: bool) -> Self {
        let most = most.max(1);
        Self { now: if fixed { most } else { 1 }, most, state: State::Warm(None), patience: PATIENCE }
    }

    /// How many are to be used.
    #[must_use]
    pub fn now(&self) -> usize {
        self.now
    }

    /// Whether nothing is being tried.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !matches!(self.state, State::Warm(Some(_)) | State::Ready(Some(_)))
    }

    /// No more than one can be had.
    pub fn narrow(&mut self) {
        *self = Self::new(1, true);
    }

    /// Another round begins, in which there may be other things to do: what is being tried is given up.
    pub fn pause(&mut self) {
        match self.state {
            State::Warm(Some(_)) | State::Ready(Some(_)) => {
                self.now = self.now.div_ceil(2);
                self.state = State::Warm(None);
            }
            State::Ready(None) => self.state = State::Warm(None),
            State::Warm(None) | State::Settled(_) => {}
        }
    }

    /// A window is over.
    pub fn learn(&mut self, seen: &Seen) {
        self.state = match self.state {
            State::Warm(before) => State::Ready(before),
            State::Ready(Some(before)) if seen.rate() < before * BETTER => {
                self.now = self.now.div_ceil(2);
                State::Settled(0)
            }
            State::Ready(_) if self.now < self.most && seen.waits(self.now) => {
                self.now = (self.now * 2).min(self.most);
                State::Warm(Some(seen.rate()))
            }
            State::Ready(_) => State::Ready(None),
            State::Settled(age) if age >= self.patience => {
                self.patience = self.patience.saturating_mul(2);
                State::Ready(None)
            }
            State::Settled(age) => State::Settled(age + 1),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What a window shows with so many connections, each of which brings at most `each` of the `all` bytes a millisecond that the rest can do.
    fn seen(width: usize, each: u64, all: u64) -> Seen {
        let rate = (each * width as u64).min(all);
        let took = Duration::from_millis((64 << 20) / rate);
        // The threads wait unless the network takes whatever they have.
        Seen { bytes: 64 << 20, took, waited: if rate < all { took * u32::try_from(width).unwrap_or(1) * 9 / 10 } else { took / 10 } }
    }

    fn play(each: u64, all: u64, windows: usize) -> Vec<usize> {
        let mut width = Width::new(USUAL, false);
        std::iter::repeat_with(|| {
            width.learn(&seen(width.now(), each, all));
            width.now()
        })
        .take(windows)
        .collect()
    }

    #[test]
    fn one_is_enough_where_nobody_waits() {
        assert!(play(1000, 1000, 40).iter().all(|width| *width == 1));
    }

    #[test]
    fn where_each_brings_a_part_more_are_taken_until_all_is_used() {
        assert_eq!(play(100, 1000, 7), [1, 2, 2, 4, 4, 4, 4]);
        assert_eq!(play(600, 1000, 6), [1, 2, 2, 2, 2, 2], "two do: nobody waits any more");
    }

    #[test]
    fn where_more_are_no_better_it_goes_back_and_tries_again_later() {
        let mut width = Width::new(USUAL, false);
        let slow = Seen { bytes: 64 << 20, took: Duration::from_secs(1), waited: Duration::from_secs(9) };
        let mut used = Vec::new();
        for _ in 0..4 + PATIENCE + 1 {
            width.learn(&slow);
            used.push(width.now());
        }
        assert_eq!(used[..4], [1, 2, 2, 1]);
        assert!(used[4..].iter().all(|width| *width == 1) && width.is_settled());
        width.learn(&slow);
        assert_eq!(width.now(), 2);
    }

    #[test]
    fn where_more_are_never_better_a_tebibyte_has_few_trials() {
        let mut width = Width::new(USUAL, false);
        let slow = Seen { bytes: 32 << 20, took: Duration::from_secs(1), waited: Duration::from_secs(9) };
        let (mut trials, mut before) = (0, 1);
        for _ in 0..(1 << 40) / slow.bytes {
            width.learn(&slow);
            trials += usize::from(width.now() > before);
            before = width.now();
        }
        assert!((2..=12).contains(&trials), "{trials}");
    }

    #[test]
    fn what_is_asked_for_is_used() {
        let mut width = Width::new(3, true);
        for _ in 0..4 {
            width.learn(&seen(3, 1, 1000));
            assert_eq!(width.now(), 3);
        }
        width.narrow();
        for _ in 0..4 {
            width.learn(&seen(1, 1, 1000));
            assert_eq!(width.now(), 1);
        }
    }
}
