//! How fast something works, beat by beat, and how much slower it was meanwhile.

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
    let within = beats.iter().filter(|beat| beat.from >= from && beat.to <= to);
    let (done, busy) = within.fold((0.0, 0.0), |(done, busy), beat| (done + beat.done, busy + beat.busy));
    (busy > 0.0).then_some(done / busy)
}

/// By how many per cent it was slower in one span of time than in another before it; less than nothing if it was faster. `None` if one has no beat.
#[must_use]
pub fn slowdown(beats: &[Beat], before: (f64, f64), meanwhile: (f64, f64)) -> Option<f64> {
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
        let beats = [beat(0.0, 100.0), beat(1.0, 100.0), beat(2.0, 7.0), beat(3.0, 75.0)];
        assert_eq!(speed(&beats, (0.0, 2.5)), Some(200.0));
        assert_eq!(slowdown(&beats, (0.0, 2.0), (2.5, 4.0)), Some(25.0));
        assert_eq!(slowdown(&beats, (0.0, 2.0), (2.1, 2.9)), None);
    }
}
