//! When a container has written to its log: the file that its runtime keeps, in the CRI's format, a line each: `TIME STREAM TAG TEXT`, the time as RFC 3339 in
//! nanoseconds. Source: the kubelet's `ReadLogs` (k8s.io/cri-client/pkg/logs) and its design proposal, kubelet-cri-logging.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

/// How far back is looked. What did not write all that time is not known to write at all.
const WINDOW: Duration = Duration::from_secs(20);
/// How much of the file's end is read, in bytes.
const TAIL: u64 = 64 << 10;

/// The longest time in which a container has written nothing, of the last 20 s before `now`, in which its log must have begun already. None when that cannot be
/// told: it is younger, was rotated just now, or cannot be read.
#[must_use]
pub fn silence(log: &Path, now: Timestamp) -> Option<Duration> {
    let (cut, times) = times(log).ok()?;
    let begin = now.checked_sub(WINDOW).ok()?;
    let seen_from = *times.first()?;
    if seen_from > begin && !cut {
        return None;
    }
    let within = times.into_iter().filter(|time| *time > begin && *time < now).chain([now]);
    let (_, longest) = within.fold((begin.max(seen_from), Duration::ZERO), |(before, longest), time| (time, longest.max(between(before, time))));
    Some(longest)
}

/// When the last line was written; none if there is no line.
///
/// # Errors
/// When the log cannot be read.
pub fn last_line(log: &Path) -> io::Result<Option<Timestamp>> {
    Ok(times(log)?.1.last().copied())
}

fn between(before: Timestamp, after: Timestamp) -> Duration {
    Duration::try_from(after.duration_since(before)).unwrap_or_default()
}

/// The times of the last lines, and whether there were more before them.
fn times(log: &Path) -> io::Result<(bool, Vec<Timestamp>)> {
    let mut file = File::open(log)?;
    let skipped = file.metadata()?.len().saturating_sub(TAIL);
    file.seek(SeekFrom::Start(skipped))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let text = String::from_utf8_lossy(&tail);
    // The first of them may be half a line: no time begins it then.
    Ok((skipped > 0, text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_790_000_000_000 + ms).unwrap()
    }

    fn told(lines: &[(i64, usize)], now: i64) -> (Option<Duration>, Option<Timestamp>) {
        let log = tempfile::NamedTempFile::new().unwrap();
        let text: String = lines.iter().map(|(ms, length)| format!("{} stdout F {}\n", at(*ms), "x".repeat(*length))).collect();
        std::fs::write(log.path(), text).unwrap();
        (silence(log.path(), at(now)), last_line(log.path()).unwrap())
    }

    #[test]
    fn the_longest_silence_counts() {
        let steady: Vec<_> = (0..60).map(|n| (n * 500, 10)).collect();
        assert_eq!(told(&steady, 29_700), (Some(Duration::from_millis(500)), Some(at(29_500))));
        // It has stood still since.
        assert_eq!(told(&steady, 36_000).0, Some(Duration::from_millis(6_500)));
        // And for longer than is looked back.
        assert_eq!(told(&steady, 90_000).0, Some(WINDOW));
        assert_eq!(told(&[(0, 10), (22_000, 10), (23_000, 10)], 24_000).0, Some(Duration::from_secs(18)));
    }

    #[test]
    fn a_young_log_tells_nothing() {
        assert_eq!(told(&[(0, 10), (500, 10)], 1_000).0, None);
        assert_eq!(told(&[], 1_000), (None, None));
        assert_eq!(silence(Path::new("/nowhere"), at(0)), None);
    }

    #[test]
    fn the_end_of_a_long_log_is_enough() {
        // One line is half of what is read: the first that is seen is less than 20 s old.
        let long = [(0, 40_000), (10_000, 40_000), (11_000, 10), (12_000, 40_000)];
        assert_eq!(told(&long, 12_500).0, Some(Duration::from_secs(1)));
    }
}
