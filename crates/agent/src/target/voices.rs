//! What a container that has come writes to its log: one that wrote all the time before, and nothing any more, has come to a stop that no probe may show.

use std::path::PathBuf;
use std::time::Duration;

use godwit_node::log;
use godwit_rpc::v1::Silence;
use jiff::Timestamp;

/// A container is called silent when it was for so many times its longest silence before, and for [`LEAST`].
const TIMES: u32 = 3;
/// What logs that seldom cannot be told in the time in which it is looked.
const LEAST: Duration = Duration::from_secs(5);

/// A container whose log was written to before it left, steadily.
#[derive(Clone, Debug)]
pub struct Voice {
    /// Its name.
    pub container: String,
    /// Where its log is now, as the agent opens it.
    pub log: PathBuf,
    /// Its longest silence before.
    pub before: Duration,
}

impl Voice {
    /// The silence until now of what has run here since `since`, if it is one to speak of.
    #[must_use]
    pub fn silence(&self, since: Timestamp, now: Timestamp) -> Option<Silence> {
        // A log that cannot be read tells nothing.
        let last = log::last_line(&self.log).ok()?.unwrap_or(since).max(since);
        let silent = Duration::try_from(now.duration_since(last)).ok().filter(|silent| *silent > (self.before * TIMES).max(LEAST))?;
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Some(Silence { container: self.container.clone(), silent_ms: ms(silent), before_ms: ms(self.before) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + seconds).unwrap()
    }

    fn told(before: Duration, lines: &[i64], now: i64) -> Option<u64> {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        std::fs::write(&log, lines.iter().map(|second| format!("{} stdout F tick\n", at(*second))).collect::<String>()).unwrap();
        Voice { container: "main".into(), log, before }.silence(at(0), at(now)).map(|silence| silence.silent_ms)
    }

    #[test]
    fn only_a_silence_out_of_the_ordinary_is_told() {
        let often = Duration::from_millis(200);
        assert_eq!(told(often, &[], 10), Some(10_000));
        assert_eq!(told(often, &[-1], 10), Some(10_000));
        assert_eq!(told(often, &[1, 2], 10), Some(8_000));
        assert_eq!(told(often, &[6], 10), None);
        assert_eq!(told(often, &[], 4), None);
        assert_eq!(told(Duration::from_secs(4), &[], 10), None);
        let gone = Voice { container: "main".into(), log: "/nowhere".into(), before: often };
        assert!(gone.silence(at(0), at(10)).is_none());
    }
}
