//! Freezing and thawing.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Cgroup, Error, Version};
use crate::Finding;

const POLL: Duration = Duration::from_micros(200);
/// A v1 cgroup in which processes keep appearing may never get there unless it is thawed for a moment now and then.
const NUDGE: Duration = Duration::from_millis(20);
/// How long tasks in vfork may run until they are looked at again.
const RESPITE: Duration = Duration::from_millis(1);

impl Cgroup {
    /// Freezes it and waits until every task stands still and none of them waits in vfork. On an error it is thawed again.
    ///
    /// # Errors
    /// The deadline passed, or a file cannot be used.
    pub fn freeze(&self, deadline: Instant) -> Result<(), Error> {
        freeze_all(std::slice::from_ref(self), deadline)
    }

    /// Thaws it. It still stands still while a parent is frozen.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn thaw(&self) -> Result<(), Error> {
        self.order(false)
    }

    /// Whether every task in it stands still, for whatever reason: its own order or a parent's.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn frozen(&self) -> Result<bool, Error> {
        Ok(match self.version {
            Version::V1 => self.read("freezer.state")?.trim() == "FROZEN",
            Version::V2 => self.read("cgroup.events")?.lines().any(|line| line == "frozen 1"),
        })
    }

    /// Whether it was itself ordered to freeze.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn own_frozen(&self) -> Result<bool, Error> {
        let file = match self.version {
            Version::V1 => "freezer.self_freezing",
            Version::V2 => "cgroup.freeze",
        };
        Ok(self.read(file)?.trim() == "1")
    }

    fn order(&self, freeze: bool) -> Result<(), Error> {
        match (self.version, freeze) {
            (Version::V1, true) => self.write("freezer.state", "FROZEN"),
            (Version::V1, false) => self.write("freezer.state", "THAWED"),
            (Version::V2, true) => self.write("cgroup.freeze", "1"),
            (Version::V2, false) => self.write("cgroup.freeze", "0"),
        }
    }
}

/// Freezes several cgroups at one instant: all are ordered first, then waited for. All or nothing: on an error all of them are thawed again. Blocks up to the deadline.
///
/// # Errors
/// The deadline passed, or a file cannot be used.
pub fn freeze_all(cgroups: &[Cgroup], deadline: Instant) -> Result<(), Error> {
    let result = try_freeze_all(cgroups, deadline);
    if result.is_err() {
        for cgroup in cgroups {
            if let Err(error) = cgroup.thaw() {
                tracing::warn!(%error, "cannot thaw after a failed freeze");
            }
        }
    }
    result
}

fn try_freeze_all(cgroups: &[Cgroup], deadline: Instant) -> Result<(), Error> {
    loop {
        for cgroup in cgroups {
            cgroup.order(true)?;
        }
        let frozen = cgroups.iter().try_for_each(|cgroup| await_frozen(cgroup, deadline));
        let waiting: Vec<String> = in_vfork(cgroups)?;
        // The deadline may pass right after such tasks were let go on for a moment: they, and not whoever was slow just then, are the cause.
        if !waiting.is_empty() && Instant::now() >= deadline {
            return Err(Error::Uninterruptible { tasks: waiting.join(", ") });
        }
        frozen?;
        if waiting.is_empty() {
            return Ok(());
        }
        for cgroup in cgroups {
            cgroup.order(false)?;
        }
        sleep(RESPITE);
    }
}

fn await_frozen(cgroup: &Cgroup, deadline: Instant) -> Result<(), Error> {
    let mut nudge = Instant::now() + NUDGE;
    while !cgroup.frozen()? {
        let now = Instant::now();
        if now >= deadline {
            return Err(Error::NotFrozen { cgroup: cgroup.name().to_owned(), tasks: restless(cgroup)? });
        }
        if cgroup.version == Version::V1 && now >= nudge {
            cgroup.order(false)?;
            sleep(Duration::from_micros(10));
            cgroup.order(true)?;
            nudge = now + NUDGE;
        }
        sleep(POLL);
    }
    Ok(())
}

/// One task as its files in /proc show it.
struct Task {
    pid: i32,
    tid: i32,
    comm: String,
    state: char,
    /// The kernel function in which it waits.
    place: String,
}

impl Task {
    fn describe(&self) -> String {
        format!("{} (pid {}, thread {}, state {}, in {})", self.comm, self.pid, self.tid, self.state, self.place)
    }
}

fn tasks(cgroup: &Cgroup) -> Result<Vec<Task>, Error> {
    let mut found = Vec::new();
    for pid in cgroup.pids()? {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for directory in threads.filter_map(Result::ok) {
            let tid = directory.file_name().to_string_lossy().parse().unwrap_or(pid);
            let Some((comm, state)) = stat(&directory.path()) else { continue };
            let place = fs::read_to_string(directory.path().join("wchan")).unwrap_or_default();
            found.push(Task { pid, tid, comm, state, place });
        }
    }
    Ok(found)
}

/// Name and state from `stat`: `pid (name) state …`; the name may hold anything.
fn stat(directory: &Path) -> Option<(String, char)> {
    let text = fs::read_to_string(directory.join("stat")).ok()?;
    let (front, back) = text.rsplit_once(") ")?;
    Some((front.split_once(" (")?.1.to_owned(), back.chars().next()?))
}

fn in_vfork(cgroups: &[Cgroup]) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for cgroup in cgroups {
        // The parent of a vfork sleeps uninterruptibly in kernel_clone (do_fork before Linux 5.10).
        let waits = |task: &Task| task.state == 'D' && (task.place.contains("clone") || task.place.contains("fork"));
        found.extend(tasks(cgroup)?.iter().filter(|task| waits(task)).map(Task::describe));
    }
    Ok(found)
}

/// The tasks that do not stand in the freezer.
fn restless(cgroup: &Cgroup) -> Result<String, Error> {
    let stands = |task: &Task| task.place.contains("refrigerator") || task.place.contains("freezer") || matches!(task.state, 'Z' | 'X');
    let names: Vec<String> = tasks(cgroup)?.iter().filter(|task| !stands(task)).take(5).map(Task::describe).collect();
    Ok(if names.is_empty() { "unknown".to_owned() } else { names.join(", ") })
}

/// What would hang or fail a dump once the cgroup is frozen: stopped and traced tasks. To be looked at right before the freeze.
#[must_use]
pub fn before_freeze(cgroups: &[Cgroup]) -> Vec<Finding> {
    let found = cgroups.iter().filter_map(|cgroup| tasks(cgroup).ok()).flatten();
    found
        .filter_map(|task| match task.state {
            'T' => Some(Finding::new(
                "StoppedProcess",
                format!("process {} (pid {}) is stopped by a signal or by its terminal; CRIU would wait for it in vain", task.comm, task.pid),
                "Continue it (kill -CONT) or end it, then try again.",
            )),
            't' => Some(Finding::new(
                "TracedProcess",
                format!("process {} (pid {}) is stopped by its debugger", task.comm, task.pid),
                "End the debugger (gdb, strace, …), then try again.",
            )),
            _ => None,
        })
        .collect()
}
