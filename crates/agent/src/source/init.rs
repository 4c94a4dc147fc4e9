//! One process, told apart from a later one with the same pid.

use std::{fs, io};

use serde::{Deserialize, Serialize};

/// A pid and the process's start time in clock ticks since boot (`/proc/PID/stat`, field 22).
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Init {
    pid: i32,
    started: u64,
}

impl Init {
    /// The process that has this pid now.
    ///
    /// # Errors
    /// `NotFound` when there is none, or it is a zombie.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, started: start_time(pid)? })
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it is still that process and not a zombie.
    #[must_use]
    pub fn lives(&self) -> bool {
        start_time(self.pid).is_ok_and(|started| started == self.started)
    }
}

fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    if fields.next().is_none_or(|state| matches!(state, "Z" | "X")) {
        return Err(io::ErrorKind::NotFound.into());
    }
    fields.nth(18).and_then(|field| field.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tells_a_process_from_its_successor() {
        let own = Init::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.lives());
        assert!(!Init { started: own.started + 1, ..own }.lives());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let ended = Init::of(i32::try_from(child.id()).unwrap());
        child.wait().unwrap();
        assert!(ended.is_err() || !ended.unwrap().lives());
    }
}
