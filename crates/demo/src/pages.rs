//! The pod with a large heap that changes all the time (`programs/pages.py`), and what it says of itself.

use crate::objects::{Pod, python};

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

/// The same on transparent huge pages, where the kernel has them.
#[must_use]
pub fn huge(name: &str, mib: u32, rate: u32) -> Pod {
    with(name, mib, rate, &["huge"])
}

/// The same that reads some of it from a file past the page cache.
#[must_use]
pub fn direct(name: &str, mib: u32, rate: u32) -> Pod {
    with(name, mib, rate, &["direct"])
}

fn with(name: &str, mib: u32, rate: u32, words: &[&str]) -> Pod {
    let (mib, rate) = (mib.to_string(), rate.to_string());
    Pod::new(name, [python(CONTAINER, PROGRAM, &[&[mib.as_str(), &rate], words].concat())])
}

/// The longest time that the program stood still by its own clock, in milliseconds. `None`: it noticed nothing.
#[must_use]
pub fn gap(logs: &str) -> Option<u64> {
    logs.lines().filter_map(|line| line.strip_prefix("gap ")?.parse().ok()).max()
}
