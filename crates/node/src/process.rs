//! The processes of a pod as `/proc` shows them: what they are, what they have open, whom they talk to.
//!
//! Pids are those of the agent's pid namespace, which is the node's; `nspid` is the pid that the process itself knows.

mod connections;
mod family;
mod fds;
mod shape;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cgroup::Cgroup;
pub use connections::{Connection, Connections, Listener, Protocol, connections};
pub use family::{Relative, family};
pub use fds::{Fd, FdKind, descriptors};
pub use shape::{Shape, ShapeOf};

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid on the node.
    pub pid: i32,
    /// Its pid in its own pid namespace.
    pub nspid: i32,
    /// Its parent's pid on the node.
    pub ppid: i32,
    /// Its name, at most 15 bytes.
    pub comm: String,
    /// State letter of proc_pid_stat(5): R, S, D, T, t, Z…
    pub state: char,
    /// Threads.
    pub threads: u32,
    /// Real user id on the node.
    pub uid: u32,
    /// Pid of the process that traces it; 0 for none.
    pub tracer: i32,
    /// Open file descriptors, in order.
    pub fds: Vec<Fd>,
}

/// The processes of a cgroup and below, sorted by pid. Those that end meanwhile are left out.
///
/// # Errors
/// The cgroup cannot be read.
pub fn tree(cgroup: &Cgroup) -> io::Result<Vec<Process>> {
    Ok(of_pids(&cgroup.pids().map_err(io::Error::other)?))
}

/// These processes, in this order. Those that have ended are left out.
#[must_use]
pub fn of_pids(pids: &[i32]) -> Vec<Process> {
    pids.iter().filter_map(|pid| read(*pid)).collect()
}

/// Pids of the processes with this name (15 bytes at most) in `proc`, a node's `/proc`.
#[must_use]
pub fn named(proc: &Path, name: &str) -> Vec<i32> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| fs::read_to_string(proc.join(pid.to_string()).join("comm")).is_ok_and(|comm| comm.trim_end() == name)).collect()
}

/// Those that descend from `init`, and itself: what CRIU dumps when it is given `init`. The others were put into the container from outside (`kubectl exec`, probes).
#[must_use]
pub fn descendants(init: i32, processes: &[Process]) -> Vec<&Process> {
    let mut members = BTreeSet::from([init]);
    loop {
        let before = members.len();
        members.extend(processes.iter().filter(|process| members.contains(&process.ppid)).map(|process| process.pid).collect::<Vec<_>>());
        if members.len() == before {
            return processes.iter().filter(|process| members.contains(&process.pid)).collect();
        }
    }
}

/// `/proc/<pid>`.
pub(crate) fn directory(pid: i32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

fn read(pid: i32) -> Option<Process> {
    let status = fs::read_to_string(directory(pid).join("status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let number = |name: &str| field(name).and_then(|value| value.parse::<i32>().ok());
    Some(Process {
        pid,
        nspid: field("NSpid").and_then(|pids| pids.split_whitespace().last()?.parse().ok()).unwrap_or(pid),
        ppid: number("PPid")?,
        comm: field("Name")?.to_owned(),
        state: field("State").and_then(|state| state.chars().next()).unwrap_or('?'),
        threads: field("Threads").and_then(|count| count.parse().ok()).unwrap_or(1),
        uid: field("Uid").and_then(|uids| uids.split_whitespace().next()?.parse().ok()).unwrap_or_default(),
        tracer: number("TracerPid").unwrap_or_default(),
        fds: fds::of(pid),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::{Command, Stdio, id};

    use super::*;

    #[test]
    fn processes_are_found_by_their_names() {
        let own = id().cast_signed();
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        assert!(named(Path::new("/proc"), name.trim_end()).contains(&own));
        assert!(!named(Path::new("/proc"), "no such process").contains(&own));
    }

    #[test]
    fn a_process_and_its_children_are_described() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & exec sleep 61"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let pid = child.id().cast_signed();
        let children = || fs::read_to_string(directory(pid).join("task").join(pid.to_string()).join("children")).unwrap();
        let sleeps = |pid| of_pids(&[pid]).iter().all(|process| process.comm == "sleep" && process.state == 'S');
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !(sleeps(pid) && children().trim().parse().is_ok_and(sleeps)) {
            assert!(std::time::Instant::now() < end, "the two do not sleep");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let grandchild: i32 = children().trim().parse().unwrap();
        let own = id().cast_signed();
        let all = of_pids(&[own, pid, grandchild, i32::MAX]);
        assert_eq!(all.len(), 3);
        assert_eq!((all[1].comm.as_str(), all[1].state, all[1].ppid, all[1].threads), ("sleep", 'S', own, 1));
        assert_eq!(all[1].fds[0].kind, FdKind::Device { path: "/dev/null".into() });
        assert!(matches!(all[1].fds[1].kind, FdKind::Pipe { inode } if inode > 0));
        let below: Vec<i32> = descendants(pid, &all).iter().map(|process| process.pid).collect();
        assert_eq!(below, [pid, grandchild]);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(grandchild), nix::sys::signal::Signal::SIGKILL).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
