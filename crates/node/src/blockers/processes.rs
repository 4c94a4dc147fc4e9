//! What concerns a process as a whole.

use std::fs;
use std::path::PathBuf;

use super::View;
use super::collect::{Collector, who};
use crate::process::directory;

/// Namespaces of which CRIU knows only the one of the whole tree (`CLONE_SUBNS` in its namespaces.c lets mount and network namespaces be nested).
const SINGLE: [&str; 5] = ["ipc", "uts", "user", "time", "pid"];

pub(super) fn inspect(view: &View<'_>, found: &mut Collector) {
    let members = view.members();
    let namespaces = |pid: i32| SINGLE.map(|kind| fs::read_link(directory(pid).join("ns").join(kind)).ok());
    let own: [Option<PathBuf>; 5] = namespaces(view.container.pid);
    for process in &members {
        match process.state {
            'T' => found.block_process(
                "StoppedProcess",
                view.container,
                process,
                "it is stopped by a signal or by its terminal; CRIU would wait for it in vain",
                "Continue it (kill -CONT) or end it.",
            ),
            't' => found.block_process("TracedProcess", view.container, process, "it is stopped by its debugger", "End the debugger (gdb, strace, …)."),
            _ if process.tracer != 0 => found.block_process(
                "TracedProcess",
                view.container,
                process,
                format!("process {} traces it", process.tracer),
                "End the debugger (gdb, strace, …).",
            ),
            _ => {}
        }
        if process.state == 'Z' {
            continue;
        }
        for (kind, (theirs, its)) in SINGLE.iter().zip(own.iter().zip(namespaces(process.pid))) {
            if its.is_some() && theirs.is_some() && *theirs != its {
                found.block_process(
                    "NestedNamespace",
                    view.container,
                    process,
                    format!("it has a {kind} namespace of its own"),
                    "CRIU cannot dump namespaces inside the container's (sandboxes of browsers, build tools, containers in containers).",
                );
            }
        }
    }
    for process in view.processes.iter().filter(|process| !members.iter().any(|member| member.pid == process.pid) && process.state != 'Z') {
        found.warn(format!("{} was started from outside the container (kubectl exec or a probe) and ends with the move", who(view.container, process)));
    }
}
