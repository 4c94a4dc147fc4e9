//! What concerns a pod or a container as a whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::collect::Collector;
use super::{Subject, View};
use crate::Finding;
use crate::process::directory;

pub(super) fn inspect(subject: &Subject<'_>, views: &[View<'_>], found: &mut Collector) {
    if subject.sandbox.host_network {
        found.block(Finding::new(
            "HostNetwork",
            "the pod uses the node's network (hostNetwork)",
            "Give the pod a network of its own; what is bound to a node cannot move.",
        ));
    }
    for View { container, .. } in views {
        let spec = &container.spec;
        let name = &container.name;
        // Asked of the kernel, not of the configuration: containerd names the sandbox's namespace also where that is the node's.
        let of_node = |kind: &str| namespace(&subject.host.proc_of_init(), kind).is_some_and(|node| Some(node) == namespace(&directory(container.pid), kind));
        if of_node("pid") {
            found.block(Finding::new(
                "HostPid",
                format!("container {name} uses the node's process namespace (hostPID)"),
                "Give the pod a process namespace of its own.",
            ));
        } else if spec.joined("pid").is_some() {
            found.block(Finding::new(
                "SharedProcessNamespace",
                format!("container {name} shares its process namespace with other containers"),
                "Set shareProcessNamespace to false; pods with a shared process namespace cannot be moved yet.",
            ));
        }
        if of_node("ipc") {
            found.block(Finding::new(
                "HostIpc",
                format!("container {name} uses the node's IPC namespace (hostIPC)"),
                "Give the pod an IPC namespace of its own.",
            ));
        }
        if spec.namespace("user").is_some() {
            found.block(Finding::new(
                "UserNamespace",
                format!("container {name} has a user namespace (hostUsers: false)"),
                "Pods with user namespaces cannot be moved yet.",
            ));
        }
        if spec.terminal {
            found.block(Finding::new(
                "Terminal",
                format!("container {name} has a terminal (tty: true)"),
                "Set tty to false; containers with a terminal cannot be moved yet.",
            ));
        }
    }
    let Some(first) = views.first().map(|view| view.container.pid) else { return };
    for (kind, count) in system_v(first) {
        found.block(Finding::new(
            "SystemVIpc",
            format!("the pod has {count} System V {kind}"),
            "Use POSIX shared memory, semaphores or sockets instead; System V IPC cannot be moved yet. Leftovers of ended programs can be removed with ipcrm.",
        ));
    }
    for View { container, .. } in views {
        for queue in message_queues(container.pid) {
            found.block(Finding::new(
                "MessageQueue",
                format!("container {} has the POSIX message queue /{queue}", container.name),
                "CRIU cannot dump message queues. Use pipes or sockets instead, or remove the queue if nobody needs it.",
            ));
        }
    }
}

fn namespace(process: &Path, kind: &str) -> Option<PathBuf> {
    fs::read_link(process.join("ns").join(kind)).ok()
}

/// Kind and number of the System V objects in the IPC namespace of a process. `/proc/sysvipc` shows the reader's own namespace, so a thread joins it.
fn system_v(pid: i32) -> Vec<(&'static str, usize)> {
    let Ok(namespace) = File::open(directory(pid).join("ns/ipc")) else { return Vec::new() };
    let worker = thread::spawn(move || {
        if setns(&namespace, CloneFlags::CLONE_NEWIPC).is_err() {
            return Vec::new();
        }
        let count =
            |file: &str| fs::read_to_string(Path::new("/proc/sysvipc").join(file)).map(|text| text.lines().count().saturating_sub(1)).unwrap_or_default();
        [("shared memory segments", count("shm")), ("semaphore sets", count("sem")), ("message queues", count("msg"))]
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect()
    });
    worker.join().unwrap_or_default()
}

/// The runtimes mount the queues of the pod's IPC namespace at /dev/mqueue.
fn message_queues(pid: i32) -> Vec<String> {
    let directory = directory(pid).join("root/dev/mqueue");
    let queues = rustix::fs::statfs(&directory).is_ok_and(|stat| stat.f_type == MQUEUE_MAGIC);
    let names = if queues { fs::read_dir(&directory).ok() } else { None };
    names.into_iter().flatten().filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// linux/ipc/mqueue.c.
const MQUEUE_MAGIC: i64 = 0x1980_0202;
