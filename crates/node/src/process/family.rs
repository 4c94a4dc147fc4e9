//! What a process is to others: parent, process group, session, threads, all by the ids of its own pid namespace.

use std::fs;

use super::{Process, directory};

/// Threads beyond which their ids are not read: one file each.
const MOST: u32 = 64;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relative {
    /// Its pid.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Its parent's pid; 0 if that is none of those that were looked at.
    pub ppid: i32,
    /// Its process group; 0 if that is of another pid namespace.
    pub pgid: i32,
    /// Its session; the same.
    pub sid: i32,
    /// Ids of its threads, sorted; none if there are too many to be looked at.
    pub threads: Vec<i32>,
}

/// These processes, as they know one another. Those that have ended are left out.
#[must_use]
pub fn family(processes: &[&Process]) -> Vec<Relative> {
    let inner = |pid: i32| processes.iter().find(|process| process.pid == pid).map_or(0, |process| process.nspid);
    let one = |process: &&Process| {
        let status = fs::read_to_string(directory(process.pid).join("status")).ok()?;
        let threads = match process.threads {
            0 | 1 => vec![process.nspid],
            ..=MOST => threads(process.pid),
            _ => Vec::new(),
        };
        let (pgid, sid) = (last(&status, "NSpgid:")?, last(&status, "NSsid:")?);
        Some(Relative { pid: process.nspid, comm: process.comm.clone(), ppid: inner(process.ppid), pgid, sid, threads })
    };
    processes.iter().filter_map(one).collect()
}

/// The innermost of the ids on a line of proc_pid_status(5).
fn last(status: &str, name: &str) -> Option<i32> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().last()?.parse().ok()
}

fn threads(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(directory(pid).join("task")).into_iter().flatten().flatten();
    let mut ids: Vec<i32> = entries.filter_map(|entry| last(&fs::read_to_string(entry.path().join("status")).ok()?, "NSpid:")).collect();
    ids.sort_unstable();
    ids
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;
    use crate::process::of_pids;

    #[test]
    fn own_threads_and_a_child_with_a_session_of_its_own() {
        let mut child = Command::new("setsid").args(["sleep", "60"]).spawn().unwrap();
        let (own, pid) = (std::process::id().cast_signed(), child.id().cast_signed());
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while of_pids(&[pid]).iter().any(|process| process.comm != "sleep") {
            assert!(std::time::Instant::now() < end, "it does not sleep in its own session");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let (stay, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        let all = of_pids(&[own, pid]);
        let found = family(&all.iter().collect::<Vec<_>>());
        drop(stay);
        let _ = thread.join();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((found[1].pid, found[1].ppid, found[1].sid, found[1].pgid), (pid, own, pid, pid));
        assert_eq!(found[1].threads, [pid]);
        assert_eq!(found[0].ppid, 0, "its parent was not looked at");
        assert!(found[0].threads.len() >= 2 && found[0].threads.contains(&own), "{:?}", found[0]);
    }
}
