//! A process named so that a reused pid is never taken for it.

use std::fs;

use serde::{Deserialize, Serialize};

/// A process: its pid and its start time (field 22 of `/proc/PID/stat`, clock ticks since boot; proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Process {
    /// Pid in the node's pid namespace.
    pub pid: i32,
    /// Start time in clock ticks.
    pub start: u64,
}

impl Process {
    /// The process that has this pid now.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let (_, start) = stat(pid)?;
        Some(Self { pid, start })
    }

    /// Whether it still runs (a zombie does not).
    #[must_use]
    pub fn alive(&self) -> bool {
        stat(self.pid).is_some_and(|(state, start)| start == self.start && !matches!(state, 'Z' | 'X' | 'x'))
    }
}

/// State and start time.
fn stat(pid: i32) -> Option<(char, u64)> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command's name in the second field may hold spaces and brackets, so counting begins after the last `)`.
fn parse(text: &str) -> Option<(char, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Children of this process by pid, those that were left to it as a subreaper included.
#[must_use]
pub fn children() -> Vec<i32> {
    fs::read_to_string("/proc/thread-self/children").unwrap_or_default().split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn odd_names() {
        let line = "12 (a) b) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(parse(line), Some(('S', 4711)));
        assert_eq!(parse("12"), None);
    }

    #[test]
    fn this_process_lives() {
        let me = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.alive());
        assert!(!Process { start: me.start + 1, ..me }.alive());
    }
}
