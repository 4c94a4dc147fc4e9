//! What was seen of the way to the target lately: how much got across, and how much of the time was spent waiting for it. [`super::packer`] and [`super::width`] decide by that.

use std::time::{Duration, Instant};

/// Collects until enough has got across to be a measure.
#[derive(Debug)]
pub struct Window {
    size: u64,
    begin: Option<Instant>,
    bytes: u64,
    waited: Duration,
}

/// A window that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Bytes of memory.
    pub bytes: u64,
    /// From its first piece to its last.
    pub took: Duration,
    /// Of which a thread waited for the network, all threads together.
    pub waited: Duration,
}

impl Window {
    /// One that is full after so many bytes.
    #[must_use]
    pub fn of(size: u64) -> Self {
        Self { size, begin: None, bytes: 0, waited: Duration::ZERO }
    }

    /// Begins anew: what passed since the last piece counts for nothing.
    pub fn clear(&mut self) {
        *self = Self::of(self.size);
    }

    /// A piece got across, and so long was waited for that. Gives what was seen when the window is full, and begins the next.
    pub fn add(&mut self, bytes: u64, waited: Duration) -> Option<Seen> {
        // The first piece had its time before the window began.
        let Some(begin) = self.begin else {
            self.begin = Some(Instant::now());
            return None;
        };
        self.bytes += bytes;
        self.waited += waited;
        if self.bytes < self.size {
            return None;
        }
        let seen = Seen { bytes: self.bytes, took: begin.elapsed(), waited: self.waited };
        self.clear();
        self.begin = Some(Instant::now());
        Some(seen)
    }
}

impl Seen {
    /// Bytes of memory a second.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn rate(&self) -> f64 {
        self.bytes as f64 / self.took.as_secs_f64().max(1e-6)
    }

    /// Whether more than half of the time of so many threads was waiting.
    #[must_use]
    pub fn waits(&self, threads: usize) -> bool {
        self.waited > self.took / 2 * u32::try_from(threads).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_window_is_full_when_enough_got_across() {
        let mut window = Window::of(10);
        assert_eq!(window.add(100, MS), None, "the first only begins it");
        assert_eq!(window.add(4, MS), None);
        let seen = window.add(6, 2 * MS).unwrap();
        assert_eq!((seen.bytes, seen.waited), (10, 3 * MS));
        assert_eq!(window.add(4, MS), None);
        window.clear();
        assert_eq!(window.add(100, MS), None);
    }

    #[test]
    fn threads_wait_when_most_of_their_time_is_waiting() {
        let seen = Seen { bytes: 1, took: 10 * MS, waited: 11 * MS };
        assert!(seen.waits(1) && seen.waits(2) && !seen.waits(3));
    }
}
