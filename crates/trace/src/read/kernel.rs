//! The kernel's messages, as `/dev/kmsg` gives them.
//!
//! ```text
//!   6,10806,9315933643,-;traps: python3[4711] general protection fault …      (Documentation/ABI/testing/dev-kmsg)
//!   │       └ microseconds since boot                  └ pids of the first pid namespace
//!   └ facility * 8 + priority
//! ```

use crate::line::{Level, Line, Source};

/// One message; `boot_us` is when the node was booted, in microseconds since the epoch.
#[must_use]
pub fn line(text: &str, boot_us: i64) -> Option<Line> {
    let (head, said) = text.split_once(';')?;
    let mut words = head.split(',');
    let priority: u32 = words.next()?.parse().ok()?;
    let since: i64 = words.nth(1)?.parse().ok()?;
    let level = Level::of(&(priority % 8).to_string());
    // What follows a newline are the keys of a device.
    Some(Line::new(boot_us.saturating_add(since), Source::Kernel, level, said.split('\n').next()?))
}

/// The pids that a message names: `comm[pid]`, `pid=123`, `pid: 123`, `process 123`.
pub fn pids(text: &str) -> impl Iterator<Item = i32> + '_ {
    let bracket = text.match_indices('[').filter_map(|(at, _)| text[at + 1..].split_once(']')).filter_map(|(number, _)| number.parse().ok());
    let named = ["pid=", "pid: ", "PID ", "process "].into_iter().flat_map(move |word| {
        text.match_indices(word).filter_map(move |(at, _)| {
            let rest = &text[at + word.len()..];
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        })
    });
    bracket.chain(named)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_message() {
        let found = line("4,10806,9315933643,-;traps: python3[4711] trap int3 ip:7f\n SUBSYSTEM=x", 1_000_000).unwrap();
        assert_eq!((found.at_us, found.level, found.text.as_str()), (9_316_933_643, Level::Warning, "traps: python3[4711] trap int3 ip:7f"));
        assert_eq!(pids(&found.text).collect::<Vec<_>>(), [4711]);
        assert_eq!(line("no message", 0), None);
    }

    #[test]
    fn pids_of_an_oom_kill() {
        let text = "oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg=/kubepods/podx,task=python3,pid=812,uid=0";
        assert_eq!(pids(text).collect::<Vec<_>>(), [812]);
        assert_eq!(pids("Memory cgroup out of memory: Killed process 812 (python3)").collect::<Vec<_>>(), [812]);
    }
}
