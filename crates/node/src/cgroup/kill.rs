//! Ending every process of a cgroup without a chance to run anything more.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cgroup, Error, Version};

const POLL: Duration = Duration::from_millis(1);

impl Cgroup {
    /// Sends SIGKILL to every process in it and below, until no new one appears; returns how many got it. Works while frozen: on v2 they end at once, on v1 the signal
    /// waits in each of them and is the first thing that happens when the cgroup is thawed; no instruction of theirs runs.
    ///
    /// # Errors
    /// New processes kept appearing up to the deadline, or a file cannot be used.
    pub fn kill_all(&self, deadline: Instant) -> Result<usize, Error> {
        let mut seen: BTreeSet<i32> = BTreeSet::new();
        loop {
            let new: Vec<i32> = self.pids()?.into_iter().filter(|pid| !seen.contains(pid)).collect();
            // One write kills all of a v2 cgroup atomically (Linux 5.14); signals one by one do the same elsewhere.
            let at_once = self.version == Version::V2 && !new.is_empty() && self.write("cgroup.kill", "1").is_ok();
            for pid in &new {
                if !at_once && let Err(errno) = kill(Pid::from_raw(*pid), Signal::SIGKILL) {
                    tracing::debug!(pid, %errno, "not killed");
                }
            }
            if new.is_empty() {
                return Ok(seen.len());
            }
            seen.extend(&new);
            if Instant::now() >= deadline {
                return Err(Error::NotEmpty { cgroup: self.name.clone(), pids: new });
            }
        }
    }

    /// Waits until no process is left in it and below.
    ///
    /// # Errors
    /// The deadline passed, or a file cannot be read.
    pub fn await_empty(&self, deadline: Instant) -> Result<(), Error> {
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::NotEmpty { cgroup: self.name.clone(), pids });
            }
            sleep(POLL);
        }
    }
}
