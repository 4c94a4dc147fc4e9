//! How often pages are sent before the freeze: decided from what the rounds so far have shown. Pure.
//!
//! ```text
//!   round 1   everything                 ─┐
//!   round 2   what changed meanwhile      │ each shorter than the one before, if the link is faster than the program
//!   round 3   …                          ─┘ until what is left fits, or it does not get less
//! ```

use std::time::Duration;

/// Longest chain of rounds. What is not in step by then will not be.
pub const MOST: usize = 12;
/// A rate is measured on no less than this.
const MEASURABLE: u64 = 1 << 20;
/// What the dump, the restore and the commit may take on a busy node.
const RESERVE: Duration = Duration::from_secs(10);
/// What is left counts as less than before only below this share of it.
const LESS: f64 = 0.9;

/// One round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Bytes of pages that had changed.
    pub changed: u64,
    /// Bytes of them that travelled (pages of zeros do not).
    pub sent: u64,
    /// Of the time that it took: until it was known what had changed.
    pub looked: Duration,
    /// From one scan to the next.
    pub took: Duration,
}

/// What is to be expected if the pod were frozen now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Bytes a second that travel.
    pub rate: u64,
    /// Bytes a second that the program changes; pages that it changes again and again count once in a round.
    pub dirty_rate: u64,
    /// Bytes that are left.
    pub remaining: u64,
    /// How long the memory that is left takes inside the freeze.
    pub transfer: Duration,
    /// And to find out, before, what it is.
    pub look: Duration,
}

impl Forecast {
    /// What memory adds to the freeze.
    #[must_use]
    pub fn freeze(&self) -> Duration {
        self.look.saturating_add(self.transfer)
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another round.
    Again,
    /// What is left fits.
    Converged,
    /// What is left does not get less: the freeze becomes longer than asked for.
    Stuck,
    /// It gets less, but no time is left for another round before the freeze.
    TooLate,
}

/// Decides. `budget` is what the memory that is left may cost inside the freeze, `time` what is left of all before the commit ([`Duration::MAX`]: no end).
#[must_use]
pub fn next(rounds: &[Round], budget: Duration, time: Duration) -> (Next, Forecast) {
    let forecast = forecast(rounds);
    // One round has found everything that there is, and says nothing of what changes.
    let next = if rounds.len() < 2 {
        Next::Again
    } else if forecast.transfer <= budget {
        Next::Converged
    } else if rounds.len() >= MOST || stuck(rounds) {
        Next::Stuck
    } else if too_late(&forecast, time) {
        Next::TooLate
    } else {
        Next::Again
    };
    (next, forecast)
}

/// Another round may find as much as it sends, which then has to travel inside the freeze, before the time is over.
fn too_late(forecast: &Forecast, time: Duration) -> bool {
    forecast.freeze().saturating_mul(2).saturating_add(RESERVE) > time
}

/// Two rounds on end that found no less than the round before them.
fn stuck(rounds: &[Round]) -> bool {
    // The first round found everything that there is: it is no measure.
    rounds.len() >= 4 && rounds[rounds.len() - 3..].windows(2).all(|pair| as_f64(pair[1].changed) >= LESS * as_f64(pair[0].changed))
}

fn forecast(rounds: &[Round]) -> Forecast {
    let Some(last) = rounds.last() else { return Forecast::default() };
    let measured = rounds.iter().rev().find(|round| round.sent >= MEASURABLE).unwrap_or(last);
    let rate = per_second(measured.sent, measured.took.saturating_sub(measured.looked));
    // What a round finds was changed during the one before it.
    let (dirty_rate, remaining) = match rounds {
        [.., before, last] => {
            let dirty_rate = per_second(last.changed, before.took);
            // No more than in the round before: a longer time finds the same pages again.
            let left = as_f64(dirty_rate) * last.took.as_secs_f64();
            (dirty_rate, from_f64(left).min(if last.took <= before.took { last.changed } else { u64::MAX }))
        }
        _ => (0, last.changed),
    };
    let transfer = if rate == 0 { Duration::ZERO } else { Duration::try_from_secs_f64(as_f64(remaining) / as_f64(rate)).unwrap_or(Duration::MAX) };
    Forecast { rate, dirty_rate, remaining, transfer, look: last.looked }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    from_f64(as_f64(bytes) / time.as_secs_f64().max(1e-4))
}

#[allow(clippy::cast_precision_loss)]
fn as_f64(value: u64) -> f64 {
    value as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn from_f64(value: f64) -> u64 {
    value as u64
}

/// How long to wait so that `bytes`, sent since `elapsed`, do not exceed `limit` bytes a second; 0 is no limit.
#[must_use]
pub fn pause(bytes: u64, elapsed: Duration, limit: u64) -> Duration {
    if limit == 0 {
        return Duration::ZERO;
    }
    Duration::from_secs_f64(as_f64(bytes) / as_f64(limit)).saturating_sub(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;
    const BUDGET: Duration = Duration::from_millis(50);

    /// Rounds of a program with `memory` bytes that changes `dirty` bytes a second over a link of `rate`.
    fn play(memory: u64, dirty: u64, rate: u64, mut time: Duration) -> (Next, Vec<Round>) {
        let mut rounds: Vec<Round> = Vec::new();
        loop {
            let changed = rounds.last().map_or(memory, |last| from_f64(as_f64(dirty) * last.took.as_secs_f64()).min(memory));
            let took = Duration::from_secs_f64(as_f64(changed) / as_f64(rate) + 0.002);
            rounds.push(Round { changed, sent: changed, looked: Duration::ZERO, took });
            time = time.saturating_sub(took);
            match next(&rounds, BUDGET, time).0 {
                Next::Again => assert!(rounds.len() < 40),
                end => return (end, rounds),
            }
        }
    }

    #[test]
    fn idle_programs_take_two_rounds() {
        let (end, rounds) = play(1000 * MB, 0, 500 * MB, Duration::MAX);
        assert_eq!((end, rounds.len()), (Next::Converged, 2));
    }

    #[test]
    fn slow_writers_converge() {
        let (end, rounds) = play(1000 * MB, 50 * MB, 500 * MB, Duration::MAX);
        assert_eq!(end, Next::Converged);
        assert!(rounds.len() <= 4, "{rounds:?}");
        let (_, forecast) = next(&rounds, BUDGET, Duration::MAX);
        assert!(forecast.transfer <= BUDGET && forecast.rate > 300 * MB, "{forecast:?}");
        assert!((40 * MB..60 * MB).contains(&forecast.dirty_rate), "{forecast:?}");
    }

    #[test]
    fn writers_faster_than_the_link_do_not_go_on_for_ever() {
        let (end, rounds) = play(1000 * MB, 2000 * MB, 500 * MB, Duration::MAX);
        assert_eq!(end, Next::Stuck);
        assert!(rounds.len() <= 5, "{}", rounds.len());
        assert!(next(&rounds, BUDGET, Duration::MAX).1.transfer > Duration::from_secs(1));
    }

    #[test]
    fn the_time_to_look_is_no_time_to_travel() {
        let round = |changed, looked, took| Round { changed, sent: changed, looked: Duration::from_millis(looked), took: Duration::from_millis(took) };
        let (end, forecast) = next(&[round(1000 * MB, 300, 2300), round(15 * MB, 300, 330)], BUDGET, Duration::MAX);
        assert_eq!((end, forecast.rate / MB, forecast.look.as_millis()), (Next::Converged, 500, 300), "{forecast:?}");
    }

    #[test]
    fn nothing_is_decided_from_nothing() {
        assert_eq!(next(&[], BUDGET, Duration::MAX), (Next::Again, Forecast::default()));
        assert_eq!(next(&[Round::default()], BUDGET, Duration::MAX).0, Next::Again);
        assert_eq!(next(&[Round::default(), Round::default()], BUDGET, Duration::MAX).0, Next::Converged);
    }

    #[test]
    fn rounds_end_while_there_is_time_for_the_freeze() {
        const MINUTES: Duration = Duration::from_secs(120);
        // Each round is a little shorter than the one before, and there would be many.
        for (memory, dirty, rate) in [(1000, 50, 60), (2000, 50, 70)] {
            let (end, rounds) = play(memory * MB, dirty * MB, rate * MB, MINUTES);
            let took: Duration = rounds.iter().map(|round| round.took).sum();
            let freeze = next(&rounds, BUDGET, MINUTES).1.freeze();
            assert!(matches!(end, Next::TooLate | Next::Stuck), "{rounds:?}");
            assert!(took + freeze < MINUTES, "{took:?} and {freeze:?} of {rounds:?}");
        }
        // Nothing is known after the first round, however long it took.
        let (end, rounds) = play(1000 * MB, 0, 9 * MB, MINUTES);
        assert_eq!((end, rounds.len()), (Next::Converged, 2));
        let (end, _) = play(1000 * MB, 50 * MB, 500 * MB, MINUTES);
        assert_eq!(end, Next::Converged);
    }

    #[test]
    fn a_limit_is_kept() {
        assert_eq!(pause(100, Duration::ZERO, 0), Duration::ZERO);
        assert_eq!(pause(100 * MB, Duration::from_millis(500), 100 * MB), Duration::from_millis(500));
        assert_eq!(pause(100 * MB, Duration::from_secs(2), 100 * MB), Duration::ZERO);
    }
}
