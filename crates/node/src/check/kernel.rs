//! The kernel: what CRIU and the trackers of memory need of it.

use std::fs;
use std::path::Path;

use super::{Check, State, version};
use crate::probe;

const AREA: &str = "kernel";
/// Oldest kernel on which pods can be moved.
const OLDEST: (u32, u32) = (5, 15);

/// All of it.
pub fn all(release: &str) -> Vec<Check> {
    let there = |path: &str| Path::new(path).exists();
    vec![
        age(release),
        needed("checkpoint/restore", there("/proc/sys/kernel/ns_last_pid"), "use a kernel with CONFIG_CHECKPOINT_RESTORE=y (all distribution kernels have it)"),
        needed(
            "cgroup freezer",
            there("/sys/fs/cgroup/cgroup.controllers") || there("/sys/fs/cgroup/freezer") || freezer_in_mounts(),
            "mount cgroup v2, or the freezer controller of v1",
        ),
        time_namespaces(there("/proc/self/ns/time")),
        memory_tracker(probe::userfaultfd_features()),
        yama(fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok().as_deref()),
    ]
}

fn freezer_in_mounts() -> bool {
    fs::read_to_string("/proc/1/cgroup")
        .is_ok_and(|text| text.lines().any(|line| line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == "freezer"))))
}

fn age(release: &str) -> Check {
    if version(release).is_some_and(|there| there >= OLDEST) {
        return Check::ok(AREA, "version", release);
    }
    Check::bad(AREA, "version", State::Failed, release, format!("use Linux {}.{} or later", OLDEST.0, OLDEST.1))
}

fn needed(name: &'static str, there: bool, fix: &str) -> Check {
    if there { Check::ok(AREA, name, "there") } else { Check::bad(AREA, name, State::Failed, "missing", fix) }
}

fn time_namespaces(there: bool) -> Check {
    if there {
        return Check::ok(AREA, "time namespaces", "there");
    }
    Check::bad(
        AREA,
        "time namespaces",
        State::Warning,
        "missing: CLOCK_MONOTONIC jumps when a pod moves",
        "use a kernel with CONFIG_TIME_NS=y (Linux 5.6 or later)",
    )
}

fn memory_tracker(features: Option<u64>) -> Check {
    let name = "userfaultfd WP async";
    match features {
        Some(features) if features & probe::WP_ASYNC != 0 => Check::ok(AREA, name, "there"),
        Some(_) => Check::bad(
            AREA,
            name,
            State::Warning,
            "missing: all memory is read to tell which pages change",
            "use Linux 6.7 or later; until then pods stand still for as long as it takes to read their memory",
        ),
        None => Check::bad(
            AREA,
            name,
            State::Warning,
            "no userfaultfd",
            "use a kernel with CONFIG_USERFAULTFD=y; until then the memory of pods that move here is copied while they stand still",
        ),
    }
}

/// Yama's ptrace scope (Documentation/admin-guide/LSM/Yama.rst of the kernel): 3 forbids tracing altogether.
fn yama(scope: Option<&str>) -> Check {
    let name = "ptrace";
    match scope.map(str::trim) {
        Some("3") => Check::bad(
            AREA,
            name,
            State::Failed,
            "kernel.yama.ptrace_scope is 3: nobody may trace",
            "set kernel.yama.ptrace_scope to 2 or less in /etc/sysctl.d and reboot (3 cannot be changed in a running kernel)",
        ),
        Some(scope) => Check::ok(AREA, name, format!("allowed (kernel.yama.ptrace_scope is {scope})")),
        None => Check::ok(AREA, name, "allowed (no Yama)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_judged() {
        assert_eq!([age("6.18.0").state, age("5.15.0-1-generic").state, age("5.4.0").state], [State::Ok, State::Ok, State::Failed]);
        assert_eq!([yama(None).state, yama(Some("1\n")).state, yama(Some("3\n")).state], [State::Ok, State::Ok, State::Failed]);
        assert_eq!(memory_tracker(Some(0)).state, State::Warning);
    }
}
