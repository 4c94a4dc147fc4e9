//! The window through which lines are read: numbered, bounded in bytes, emptied by its reader.

use std::collections::VecDeque;

use godwit_api::trace::TraceLine;

/// Most that it holds, in bytes: an object in etcd may have 1.5 MiB, and each version of it is kept for minutes.
const ROOM: usize = 96 << 10;
/// What a line takes besides its texts.
const HEAD: usize = 96;

/// See the module.
#[derive(Debug, Default)]
pub struct Window {
    first: u64,
    lines: VecDeque<TraceLine>,
    bytes: usize,
    changed: bool,
}

fn size(line: &TraceLine) -> usize {
    line.text.len() + line.node.len() + HEAD
}

impl Window {
    /// Whether another line may come.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.bytes < ROOM
    }

    /// Takes a line.
    pub fn put(&mut self, line: TraceLine) {
        self.bytes += size(&line);
        self.lines.push_back(line);
        self.changed = true;
    }

    /// Everything before this number was read. Says whether that was news.
    pub fn read(&mut self, number: u64) -> bool {
        let before = self.first;
        while self.first < number {
            let Some(line) = self.lines.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(size(&line));
            self.first += 1;
        }
        self.first != before
    }

    /// Whether all was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Number of the first line, and the lines, if there are new ones since the last time.
    pub fn news(&mut self) -> Option<(u64, Vec<TraceLine>)> {
        std::mem::take(&mut self.changed).then(|| self.all())
    }

    /// Number of the first line, and the lines.
    #[must_use]
    pub fn all(&self) -> (u64, Vec<TraceLine>) {
        (self.first, self.lines.iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> TraceLine {
        TraceLine { text: text.into(), ..TraceLine::default() }
    }

    #[test]
    fn what_was_read_goes_and_makes_room() {
        let mut window = Window::default();
        assert_eq!(window.news(), None);
        while window.has_room() {
            window.put(line(&"x".repeat(900)));
        }
        let count = window.all().1.len() as u64;
        assert!(count > 50 && count < 150, "{count}");
        assert_eq!(window.news().map(|(first, _)| first), Some(0));
        assert_eq!(window.news(), None);
        assert!(window.read(10) && window.has_room() && !window.read(10) && !window.read(3));
        window.put(line("new"));
        let (first, lines) = window.news().unwrap_or_default();
        assert_eq!((first, lines.len() as u64), (10, count - 9));
        // Nobody can have read what was not there.
        assert!(window.read(u64::MAX) && window.is_empty());
        assert_eq!(window.all().0, count + 1);
    }
}
