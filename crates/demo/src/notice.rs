//! Lines for the person who watches: what was done and how long it took.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;

/// Prints a line at once, also into a pipe. A closed terminal is no reason to stop.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Does a piece of work and says so.
///
/// # Errors
/// Whatever the work fails with; that is said too.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let result = work();
    let seconds = begin.elapsed().as_secs_f64();
    let mark = if result.is_ok() { "✔" } else { "✘" };
    line(&format!("{mark} {what:<58} {seconds:>6.1} s"));
    result
}
