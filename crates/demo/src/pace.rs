//! How fast something works, beat by beat, and how much slower it was meanwhile.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the epoch.
#[must_use]
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Of fewer beats it is not said by how much something was slower.
const LEAST: usize = 5;

/// How much was done in a short time. Times in seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beat {
    /// Its begin.
    pub from: f64,
    /// Its end.
    pub to: f64,
    /// What was done, in a unit of its own.
    pub done: f64,
    /// Seconds that were spent on it, without rests.
    pub busy: f64,
}

/// What was done in each second of work from one time to another; `None` if no beat lies wholly between them.
#[must_use]
pub fn speed(beats: &[Beat], (from, to): (f64, f64)) -> Option<f64> {
    let (done, busy) = within(beats, (from, to)).fold((0.0, 0.0), |(done, busy), beat| (done + beat.done, busy + beat.busy));
    (busy > 0.0).then_some(done / busy)
}

fn within(beats: &[Beat], (from, to): (f64, f64)) -> impl Iterator<Item = &Beat> {
    beats.iter().filter(move |beat| beat.from >= from && beat.to <= to)
}

/// By how many per cent it was slower in one span of time than in another before it; less than nothing if it was faster. `None` if one has too few beats to say.
#[must_use]
pub fn slowdown(beats: &[Beat], before: (f64, f64), meanwhile: (f64, f64)) -> Option<f64> {
    if [before, meanwhile].into_iter().any(|span| within(beats, span).count() < LEAST) {
        return None;
    }
    let usual = speed(beats, before).filter(|usual| *usual > 0.0)?;
    Some((1.0 - speed(beats, meanwhile)? / usual) * 100.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_whole_beats_count() {
        let beat = |from: f64, done| Beat { from, to: from + 1.0, done, busy: 0.5 };
        let beats: Vec<Beat> = (0..12).map(|n| beat(f64::from(n), if n < 6 { 100.0 } else { 75.0 })).collect();
        assert_eq!(speed(&beats, (0.0, 2.5)), Some(200.0));
        assert_eq!(speed(&beats, (2.1, 2.9)), None);
        assert_eq!(slowdown(&beats, (0.0, 6.0), (5.5, 11.5)), Some(25.0));
        assert_eq!(slowdown(&beats, (0.0, 6.0), (7.5, 11.5)), None, "three beats");
    }
}
