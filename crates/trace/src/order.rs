//! Lines of several nodes in the order in which things happened.
//!
//! Each line is put onto one clock, then waits for a moment, because another node may still tell of something earlier. A line that comes too late all the same
//! is told at once: nothing is lost, and its time says where it belongs.

use std::collections::VecDeque;

/// Puts lines in order.
#[derive(Clone, Debug)]
pub struct Order<T> {
    /// By time; of equal times the one that came first is first.
    waiting: VecDeque<(i64, T)>,
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new() }
    }
}

impl<T> Order<T> {
    /// Takes a line with its time, which is that of the common clock.
    pub fn put(&mut self, at_us: i64, line: T) {
        let place = self.waiting.partition_point(|(other, _)| *other <= at_us);
        self.waiting.insert(place, (at_us, line));
    }

    /// All lines of up to `until_us`, in order.
    pub fn take_until(&mut self, until_us: i64) -> impl Iterator<Item = (i64, T)> {
        let count = self.waiting.partition_point(|(at, _)| *at <= until_us);
        self.waiting.drain(..count)
    }

    /// All lines, in order.
    pub fn take(&mut self) -> impl Iterator<Item = (i64, T)> {
        self.waiting.drain(..)
    }
}

/// A node's time on the controller's clock. Of an offset that is smaller than its own uncertainty nothing is known.
#[must_use]
pub fn corrected(at_us: i64, offset_us: i64, uncertainty_us: i64) -> i64 {
    if offset_us.saturating_abs() > uncertainty_us { at_us.saturating_sub(offset_us) } else { at_us }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_for_each_other() {
        let mut order = Order::default();
        for (at, text) in [(30, "c"), (10, "a"), (20, "b"), (20, "b2")] {
            order.put(at, text);
        }
        assert_eq!(order.take_until(20).map(|(_, text)| text).collect::<Vec<_>>(), ["a", "b", "b2"]);
        order.put(15, "late");
        assert_eq!(order.take().map(|(_, text)| text).collect::<Vec<_>>(), ["late", "c"]);
    }

    #[test]
    fn clocks_are_corrected_by_what_is_known() {
        assert_eq!([corrected(1000, 400, 50), corrected(1000, -400, 50), corrected(1000, 40, 50)], [600, 1400, 1000]);
    }
}
