//! `kill` before the switch.

use std::{str::FromStr, time::Duration};

use nix::{errno::Errno, sys::signal::Signal};

use crate::{arguments::Invocation, cgroup, error::Error, fate::Fate, layout::Layout, record::Record, sys};

/// Sends the signal to the keeper. SIGKILL also ends a restore that waits, unless its gate has been opened meanwhile.
pub fn kill(invocation: &Invocation, layout: &Layout, record: &Record) -> Result<i32, Error> {
    let text = invocation.words.get(1).map_or("SIGTERM".into(), |word| word.to_string_lossy());
    let signal = number(&text).ok_or_else(|| Error::Runtime(format!("unknown signal {text:?}")))?;
    let gone = || Error::Runtime("container not running".into());
    let keeper = layout.keeper().filter(|keeper| keeper.alive()).ok_or_else(gone)?;
    if signal == Signal::SIGKILL as i32 {
        if matches!(Fate::end(layout), Ok(Fate::Passed(_))) {
            return Err(Error::Runtime(format!("container {} is being switched; try again", layout.id)));
        }
        end(layout, record);
        return Ok(0);
    }
    match sys::kill(keeper.pid, signal) {
        Err(Errno::ESRCH) => Err(gone()),
        Err(errno) => Err(Error::Runtime(format!("cannot signal the keeper of {}: {errno}", layout.id))),
        Ok(()) => Ok(0),
    }
}

/// Kills the keeper and whatever a restore has put into the container's cgroup. The fate must be `ended`.
pub fn end(layout: &Layout, record: &Record) {
    if let Some(keeper) = layout.keeper().filter(|keeper| keeper.alive()) {
        let _ = sys::kill(keeper.pid, Signal::SIGKILL as i32);
    }
    cgroup::empty(&record.cgroup, Duration::from_secs(2));
}

/// A signal's number from `9`, `KILL`, `SIGKILL`, `RTMIN+3`.
fn number(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let (first, last) = sys::real_time_signals();
    if let Ok(number) = upper.parse::<i32>() {
        return (0..=last).contains(&number).then_some(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str| {
        if text.is_empty() { Some(0) } else { text.parse::<i32>().ok() }
    };
    let real_time = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest).map(|by| first + by)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest).map(|by| last + by)
    } else {
        return Signal::from_str(&format!("SIG{name}")).ok().map(|signal| signal as i32);
    };
    real_time.filter(|number| (first..=last).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        assert_eq!(number("KILL"), Some(9));
        assert_eq!(number("SIGTERM"), Some(15));
        assert_eq!(number("sigusr1"), Some(10));
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("RTMIN+3"), Some(37));
        assert_eq!(number("SIGRTMAX-1"), Some(63));
        assert_eq!(number("99"), None);
        assert_eq!(number("WHAT"), None);
    }
}
