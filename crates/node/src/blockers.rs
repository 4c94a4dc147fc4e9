//! What is in the way of moving a pod: everything in it that CRIU has no code for or that would not mean the same elsewhere, found by looking, before anything is touched.
//!
//! ```text
//!   pod         pod.rs         node's namespaces, terminals, System V IPC, message queues
//!   process     processes.rs   stopped, traced, own namespaces, kubectl exec
//!   └ fds       fds.rs         io_uring and relatives, devices, watches, packet pipes, ConfigMap files, foreign files
//!   └ sockets   sockets.rs     protocols, unix sockets to elsewhere, sockets bound to the pod's address
//!   └ mappings  maps.rs        devices, kernel objects, uprobes, secret memory
//! ```
//!
//! The catalogue follows CRIU's own refusals (`criu/files.c`, `sockets.c`, `sk-inet.c`, `sk-unix.c`, `fsnotify.c`, `pipes.c`, `namespaces.c`, `proc_parse.c` of 4.2) and what was seen
//! to fail. What it cannot see, such as Landlock, only the dump itself tells.

mod collect;
mod fds;
mod maps;
mod pod;
mod processes;
mod projected;
mod sockets;
#[cfg(test)]
mod tests;

use crate::cgroup::Cgroup;
use crate::cri::{Container, Sandbox};
use crate::process::{self, Process};
use crate::{Finding, Host};
use collect::Collector;

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The node.
    pub host: &'a Host,
    /// The pod's sandbox.
    pub sandbox: &'a Sandbox,
    /// Its containers; those without a process are passed over.
    pub containers: &'a [Container],
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What is in the way.
    pub blockers: Vec<Finding>,
    /// What will be different afterwards.
    pub warnings: Vec<String>,
}

/// A container with its processes.
struct View<'a> {
    container: &'a Container,
    /// All in its cgroup.
    processes: Vec<Process>,
}

impl View<'_> {
    /// Those that CRIU dumps.
    fn members(&self) -> Vec<&Process> {
        process::descendants(self.container.pid, &self.processes)
    }
}

/// Looks at a pod. Touches nothing, blocks for some milliseconds for each hundred processes. Processes that end meanwhile are passed over.
#[must_use]
pub fn inspect(subject: &Subject<'_>) -> Findings {
    let mut found = Collector::default();
    let mut views = Vec::new();
    for container in subject.containers.iter().filter(|container| container.pid > 0) {
        match Cgroup::of(subject.host, container.pid).map_err(|error| error.finding()).and_then(|cgroup| cgroup.pids().map_err(|error| error.finding())) {
            Ok(pids) => views.push(View { container, processes: process::of_pids(&pids) }),
            Err(finding) => found.block(finding),
        }
    }
    pod::inspect(subject, &views, &mut found);
    for view in &views {
        processes::inspect(view, &mut found);
        let projected = projected::places(view.container);
        for process in view.members() {
            fds::inspect(view.container, process, &projected, &mut found);
            maps::inspect(view.container, process, &projected, &mut found);
        }
    }
    sockets::inspect(subject, &views, &mut found);
    found.finish()
}
