//! What must be the same before the dump and after the restore, compared while the restored processes are held at CRIU's `post-restore` stage.
//!
//! At that point credentials are not restored yet, states differ and CRIU has descriptors of its own open, so those are not compared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Process, descendants};

/// The shape of a process tree, sorted by pid as the processes know it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Shape {
    /// Its processes.
    pub processes: Vec<ShapeOf>,
    /// The longest time in which it wrote nothing to its log, in milliseconds, of the last seconds before it was held; none if that is not known. See [`crate::log`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence_ms: Option<u64>,
}

/// One process of a shape.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct ShapeOf {
    /// Its pid in its own pid namespace.
    pub nspid: i32,
    /// Its name.
    pub comm: String,
    /// Threads; 0 for a zombie, which has no more than its exit status.
    pub threads: u32,
    /// Number and kind of each open file descriptor.
    pub fds: Vec<(i32, String)>,
}

impl Shape {
    /// The shape of `init` and everything that descends from it.
    #[must_use]
    pub fn of(init: i32, processes: &[Process]) -> Self {
        let mut processes: Vec<ShapeOf> = descendants(init, processes).into_iter().map(ShapeOf::of).collect();
        processes.sort_by_key(|process| process.nspid);
        Self { processes, silence_ms: None }
    }

    /// What of this (the source's) shape is missing or different in the restored one, in words; empty when all of it is there. More descriptors than expected are no
    /// difference, more processes are.
    #[must_use]
    pub fn missing_in(&self, restored: &Self) -> Vec<String> {
        let found: BTreeMap<i32, &ShapeOf> = restored.processes.iter().map(|process| (process.nspid, process)).collect();
        let mut differences = Vec::new();
        for process in &self.processes {
            match found.get(&process.nspid) {
                Some(restored) => process.compare(restored, &mut differences),
                None => differences.push(format!("process {} ({}) is missing", process.nspid, process.comm)),
            }
        }
        let known = |nspid: i32| self.processes.iter().any(|process| process.nspid == nspid);
        differences.extend(
            restored
                .processes
                .iter()
                .filter(|process| !known(process.nspid))
                .map(|process| format!("process {} ({}) was not there before", process.nspid, process.comm)),
        );
        differences
    }
}

impl ShapeOf {
    fn of(process: &Process) -> Self {
        let threads = if process.state == 'Z' { 0 } else { process.threads };
        Self { nspid: process.nspid, comm: process.comm.clone(), threads, fds: process.fds.iter().map(|fd| (fd.fd, fd.kind.word())).collect() }
    }

    fn compare(&self, restored: &Self, differences: &mut Vec<String>) {
        let who = format!("process {} ({})", self.nspid, self.comm);
        if self.threads == 0 {
            return; // CRIU makes zombies late, and they have nothing else to compare
        }
        if self.comm != restored.comm {
            differences.push(format!("{who} is now called {}", restored.comm));
        }
        if self.threads != restored.threads {
            differences.push(format!("{who} had {} threads, now {}", self.threads, restored.threads));
        }
        let found: BTreeMap<i32, &String> = restored.fds.iter().map(|(fd, kind)| (*fd, kind)).collect();
        for (fd, kind) in &self.fds {
            match found.get(fd) {
                None => differences.push(format!("{who}: fd {fd} ({kind}) is missing")),
                Some(now) if *now != kind => differences.push(format!("{who}: fd {fd} was {kind}, now {now}")),
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(nspid: i32, threads: u32, fds: &[(i32, &str)]) -> ShapeOf {
        ShapeOf { nspid, comm: format!("c{nspid}"), threads, fds: fds.iter().map(|(fd, kind)| (*fd, (*kind).to_owned())).collect() }
    }

    #[test]
    fn what_is_missing_is_named_and_what_criu_adds_is_not() {
        let before = Shape { processes: vec![process(1, 2, &[(0, "pipe"), (5, "file /a")]), process(7, 1, &[]), process(9, 0, &[])], silence_ms: None };
        assert!(before.missing_in(&before).is_empty());
        let mut after = before.clone();
        after.processes[0].fds.push((1023, "socket".to_owned()));
        after.processes[2].comm = "criu".to_owned();
        assert!(before.missing_in(&after).is_empty());
        after.processes[0] = process(1, 1, &[(0, "socket")]);
        after.processes[1].nspid = 8;
        assert_eq!(
            before.missing_in(&after),
            [
                "process 1 (c1) had 2 threads, now 1",
                "process 1 (c1): fd 0 was pipe, now socket",
                "process 1 (c1): fd 5 (file /a) is missing",
                "process 7 (c7) is missing",
                "process 8 (c7) was not there before"
            ]
        );
    }
}
