//! Who may still stop a restore: one word under one lock.
//!
//! ```text
//!            gate: commit known, keeper alive
//!   open ───────────────────────────────────▶ passed N     from here on nobody kills CRIU; signals wait for the real init
//!    │                                          │ runc restore failed after all
//!    │ keeper: SIGTERM…; kill KILL; delete      │ keeper: opens again for attempt N+1
//!    ▼                                          ▼
//!   ended   (for ever: no restore of this container passes the gate)
//! ```

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
};

use nix::fcntl::{Flock, FlockArg};

use crate::layout::Layout;

/// The state of a container's restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing is decided: a restore may still be stopped.
    Open,
    /// The gate of this attempt was opened.
    Passed(u32),
    /// The container was stopped first.
    Ended,
}

impl Fate {
    /// Reads it.
    ///
    /// # Errors
    /// When the file cannot be opened, locked or read.
    pub fn read(layout: &Layout) -> io::Result<Self> {
        decide(layout, |fate| fate)
    }

    /// Called by the gate: pass, unless the container was stopped first.
    ///
    /// # Errors
    /// As [`Fate::read`], or when it cannot be written.
    pub fn pass(layout: &Layout, attempt: u32) -> io::Result<Self> {
        decide(layout, |fate| if fate == Self::Open { Self::Passed(attempt) } else { fate })
    }

    /// Stops the container, unless its gate has been opened. Gives what holds now.
    ///
    /// # Errors
    /// As [`Fate::pass`].
    pub fn end(layout: &Layout) -> io::Result<Self> {
        decide(layout, |fate| if fate == Self::Open { Self::Ended } else { fate })
    }

    /// Called by the keeper when a restore that had passed failed all the same.
    ///
    /// # Errors
    /// As [`Fate::pass`].
    pub fn reopen(layout: &Layout) -> io::Result<Self> {
        decide(layout, |fate| if fate == Self::Ended { fate } else { Self::Open })
    }

    /// The word in the file.
    fn word(self) -> String {
        match self {
            Self::Open => "open".into(),
            Self::Passed(attempt) => format!("passed {attempt}"),
            Self::Ended => "ended".into(),
        }
    }

    /// From the word in the file. An unreadable one counts as ended: nothing may run on it.
    fn from_word(word: &str) -> Self {
        match word.trim() {
            "" | "open" => Self::Open,
            other => other.strip_prefix("passed ").and_then(|number| number.parse().ok()).map_or(Self::Ended, Self::Passed),
        }
    }
}

/// Changes the word under the lock and gives the new one.
fn decide(layout: &Layout, step: impl FnOnce(Fate) -> Fate) -> io::Result<Fate> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(layout.file("fate"))?;
    let mut file: Flock<File> = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
    let mut word = String::new();
    file.read_to_string(&mut word)?;
    let before = Fate::from_word(&word);
    let after = step(before);
    if after != before {
        // Longer than any other word, so that one write replaces the old one: nobody can read half of it.
        file.rewind()?;
        file.write_all(format!("{:<24}\n", after.word()).as_bytes())?;
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_decision_holds() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout { id: "x".into(), path: directory.path().into() };
        assert_eq!(Fate::read(&layout).unwrap(), Fate::Open);
        assert_eq!(Fate::pass(&layout, 12).unwrap(), Fate::Passed(12));
        assert_eq!(Fate::end(&layout).unwrap(), Fate::Passed(12));
        assert_eq!(Fate::pass(&layout, 13).unwrap(), Fate::Passed(12));
        assert_eq!(Fate::reopen(&layout).unwrap(), Fate::Open);
        assert_eq!(Fate::end(&layout).unwrap(), Fate::Ended);
        assert_eq!(Fate::pass(&layout, 2).unwrap(), Fate::Ended);
        assert_eq!(Fate::reopen(&layout).unwrap(), Fate::Ended);
    }

    #[test]
    fn a_broken_word_runs_nothing() {
        assert_eq!(Fate::from_word("pass"), Fate::Ended);
        assert_eq!(Fate::from_word("passed x"), Fate::Ended);
        assert_eq!(Fate::from_word("passed 3   \n"), Fate::Passed(3));
    }
}
