//! The pod with a large heap that changes all the time (`programs/pages.py`), and what it says of itself.

use serde_json::{Value, json};

use crate::objects::{Pod, python};
use crate::pace::Beat;

/// The program.
pub const PROGRAM: &str = include_str!("programs/pages.py");
/// Name of the container that runs it.
pub const CONTAINER: &str = "main";

/// A pod whose heap has `mib` MiB, of which `rate` MB are written anew every second.
#[must_use]
pub fn pod(name: &str, mib: u32, rate: u32) -> Pod {
    with(name, mib, rate, &[])
}

/// The same with a child that was forked, shares the heap at first, and changes its copy of it.
#[must_use]
pub fn family(name: &str, mib: u32, rate: u32) -> Pod {
    with(name, mib, rate, &["fork"])
}

/// The same that says, after it stood still, how fast it has worked before ([`beats`]); on transparent huge pages, if wished and where the kernel has them. It asks for the half of a processor
/// that it takes: one that asks for nothing gets what everything else on the node leaves, agents included.
#[must_use]
pub fn paced(name: &str, mib: u32, rate: u32, huge: bool) -> Pod {
    let mut container = program(mib, rate, if huge { &["pace", "huge"] } else { &["pace"] });
    container["resources"] = json!({"requests": {"cpu": "500m"}});
    Pod::new(name, [container])
}

/// The same that reads some of it from a file past the page cache.
#[must_use]
pub fn direct(name: &str, mib: u32, rate: u32) -> Pod {
    with(name, mib, rate, &["direct"])
}

fn with(name: &str, mib: u32, rate: u32, words: &[&str]) -> Pod {
    Pod::new(name, [program(mib, rate, words)])
}

fn program(mib: u32, rate: u32, words: &[&str]) -> Value {
    let (mib, rate) = (mib.to_string(), rate.to_string());
    python(CONTAINER, PROGRAM, &[&[mib.as_str(), &rate], words].concat())
}

/// The longest time that the program stood still by its own clock, in milliseconds. `None`: it noticed nothing.
#[must_use]
pub fn gap(logs: &str) -> Option<u32> {
    logs.lines().filter_map(|line| line.strip_prefix("gap ")?.parse().ok()).max()
}

/// What the program's work is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// Time by the clock, in which it may have waited for a processor.
    Time,
    /// Time of a processor, the kernel's for it included.
    Processor,
}

/// How fast the program worked before it stood still, one beat a tenth of a second: pages changed and checked.
#[must_use]
pub fn beats(logs: &str, spent: Spent) -> Vec<Beat> {
    let beat = |line: &str| {
        let figures: Vec<f64> = line.strip_prefix("pace ")?.split(' ').map_while(|word| word.parse().ok()).collect();
        let [from, to, done, time, processor] = figures.try_into().ok()?;
        let busy = if spent == Spent::Time { time } else { processor };
        Some(Beat { from, to, done, busy })
    };
    logs.lines().filter_map(beat).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_the_program_says_is_read() {
        let logs = "good 1 abc\ngap 61\npace 10.000 10.101 4000 0.0551 0.0512\npace cut\ngap 26\n";
        assert_eq!(gap(logs), Some(61));
        let beat = |busy| Beat { from: 10.0, to: 10.101, done: 4000.0, busy };
        assert_eq!(beats(logs, Spent::Time), [beat(0.0551)]);
        assert_eq!(beats(logs, Spent::Processor), [beat(0.0512)]);
    }
}
