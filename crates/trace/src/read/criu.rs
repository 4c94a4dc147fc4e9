//! CRIU's log: seconds since its start, at the highest verbosity thousands of lines. What is told without `-v` are its stages, what took long, and what it
//! complained about.
//!
//! ```text
//!   (00.012345) Dumping task (pid: 4711 comm: redis-server)
//!   (00.034567)   4711: Restoring resources                      (criu/log.c: print_ts, then the pid of the task that speaks)
//!   (00.041000) Error (criu/sk-inet.c:123): inet: Connected TCP socket …
//! ```

use crate::line::{Level, Line, Source};

/// A line after which nothing was said for so long tells of something slow, in microseconds.
const SLOW: i64 = 5_000;

/// Beginnings of the lines that say which stage begins or has ended.
const STAGES: [&str; 25] = [
    "Version: ",
    "Dumping processes (pid: ",
    "Seizing",
    "freezing processes",
    "Collected ",
    "Dumping task (pid: ",
    "Dumping core",
    "Dumping pages",
    "Dumping task's ",
    "Dumping ghost",
    "Dumping mounts",
    "Dumping finished successfully",
    "Writing stats",
    "Running ",
    "Reading image tree",
    "Preparing info about shared resources",
    "Forking task with ",
    "Restoring namespaces",
    "mnt: Start with ",
    "Restoring FDs",
    "Restoring resources",
    "Starting stage",
    "Wait until ",
    "Restore finished successfully",
    "Unlock network",
];

/// What CRIU said, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said<'a> {
    since_us: i64,
    text: &'a str,
}

fn said(line: &str) -> Option<Said<'_>> {
    let (time, text) = line.strip_prefix('(')?.split_once(')')?;
    let (seconds, part) = time.split_once('.')?;
    let since_us = seconds.parse::<i64>().ok()?.checked_mul(1_000_000)?.checked_add(format!("{part:0<6}").get(..6)?.parse().ok()?)?;
    Some(Said { since_us, text: text.trim() })
}

/// Microseconds between CRIU's start and its last line.
#[must_use]
pub fn length(log: &str) -> Option<i64> {
    log.lines().rev().find_map(said).map(|said| said.since_us)
}

/// All lines of a log, or of a part of it. `start_us`: when CRIU began, in microseconds since the epoch.
#[must_use]
pub fn lines(log: &str, start_us: i64) -> Vec<Line> {
    let all: Vec<Said<'_>> = log.lines().filter_map(said).collect();
    let next = all.iter().skip(1).map(Some).chain(std::iter::once(None));
    all.iter()
        .zip(next)
        .map(|(said, next)| {
            let took = next.map_or(0, |next| next.since_us - said.since_us);
            let level = level(said.text).max(if took >= SLOW { Level::Info } else { Level::Debug });
            let text = if took >= SLOW { format!("{} (then nothing for {} ms)", said.text, took / 1000) } else { said.text.to_owned() };
            Line::new(start_us.saturating_add(said.since_us), Source::Criu, level, &text)
        })
        .collect()
}

fn level(text: &str) -> Level {
    // The pid of the task that speaks.
    let text = match text.split_once(": ") {
        Some((pid, rest)) if pid.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        _ => text,
    };
    if text.starts_with("Error ") {
        Level::Error
    } else if text.starts_with("Warn ") {
        Level::Warning
    } else if STAGES.iter().any(|stage| text.starts_with(stage)) {
        Level::Info
    } else {
        Level::Debug
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
(00.000000) Unable to get $HOME directory, local configuration file will not be used.
(00.000004) Version: 4.2.1 (gitid 0)
(00.002108) Collected pid 4711 in state
(00.002200) freezing processes: 100000 attempts with 100 ms steps
(00.014200) Dumping task (pid: 4711 comm: redis-server)
(00.014300)   4711: Warn  (criu/x.c:1): strange
(00.014400) Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using --tcp-established option.
no line of CRIU
(00.015000) Dumping finished successfully
";

    #[test]
    fn stages_slow_steps_and_complaints_are_told() {
        let lines = lines(LOG, 1_000_000);
        assert_eq!(lines.len(), 8);
        let told: Vec<(i64, Level, &str)> =
            lines.iter().filter(|line| line.level > Level::Debug).map(|line| (line.at_us, line.level, line.text.as_str())).collect();
        assert_eq!(told[1], (1_002_108, Level::Info, "Collected pid 4711 in state"));
        assert_eq!(told[2], (1_002_200, Level::Info, "freezing processes: 100000 attempts with 100 ms steps (then nothing for 12 ms)"));
        assert_eq!([told[4].1, told[5].1], [Level::Warning, Level::Error]);
        assert_eq!(told.last().map(|told| told.2), Some("Dumping finished successfully"));
        assert_eq!(length(LOG), Some(15_000));
        assert_eq!(length("x"), None);
    }
}
