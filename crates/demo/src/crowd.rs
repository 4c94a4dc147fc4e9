//! The pod of many files, processes or threads (`programs/crowd.py`).

use std::fmt;

use crate::objects::{Pod, python};

/// The program. It says gaps and turns as [`crate::pages`]' does.
pub const PROGRAM: &str = include_str!("programs/crowd.py");
/// Name of the container that runs it.
pub const CONTAINER: &str = "main";

/// What there are many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Many {
    /// Files that one process has open.
    Files,
    /// Processes, the first included.
    Processes,
    /// Threads of one process, the first included.
    Threads,
}

impl fmt::Display for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Files => "open files",
            Self::Processes => "processes",
            Self::Threads => "threads",
        })
    }
}

/// A pod with so many of them.
#[must_use]
pub fn pod(name: &str, many: Many, count: u32) -> Pod {
    let what = match many {
        Many::Files => "files",
        Many::Processes => "processes",
        Many::Threads => "threads",
    };
    Pod::new(name, [python(CONTAINER, PROGRAM, &[what, &count.to_string()])])
}
