//! Processes and their threads.

use std::collections::BTreeMap;

use serde::Serialize;

use super::file::{Descriptor, Files};
use super::memory::{self, Memory, Pages};
use crate::images::{Set, schema::View};

/// A process. All ids are those inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// Its parent.
    pub ppid: i32,
    /// Its process group.
    pub pgid: i32,
    /// Its session.
    pub sid: i32,
    /// `running`, `stopped`, `zombie`, `helper`.
    pub state: &'static str,
    /// Its name, at most 15 bytes.
    pub comm: String,
    /// Its program.
    pub program: String,
    /// Its command line; empty if memory could not be looked into.
    pub arguments: Vec<String>,
    /// Its environment; empty if memory could not be looked into.
    pub environment: Vec<String>,
    /// Where it is.
    pub directory: String,
    /// Who it is: the credentials of its first thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Its threads, itself first.
    pub threads: Vec<Thread>,
    /// Its open files.
    pub descriptors: Vec<Descriptor>,
    /// Its memory.
    pub memory: Memory,
    /// Its cgroups: controllers and path.
    pub cgroups: Vec<(String, String)>,
    /// Its limits that are not unlimited: number (`RLIMIT_…`), soft, hard.
    pub limits: Vec<(usize, u64, u64)>,
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Thread {
    /// Its id.
    pub tid: i32,
    /// Its name.
    pub comm: String,
    /// Its nice value.
    pub nice: i64,
    /// Its scheduling policy and priority, if it is not an ordinary one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Number of seccomp filters' chain, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<u64>,
    /// Signals that wait for it.
    pub pending: usize,
}

/// Credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Real, effective, saved user.
    pub uid: [u64; 3],
    /// Real, effective, saved group.
    pub gid: [u64; 3],
    /// More groups.
    pub groups: Vec<u64>,
    /// Effective capabilities as a mask in hexadecimal.
    pub effective: String,
    /// Permitted capabilities.
    pub permitted: String,
    /// Bounding set.
    pub bounding: String,
    /// Whether it can gain no privileges.
    pub no_new_privs: bool,
    /// Label of the security module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl Process {
    /// One of the tree; `None` if its pid makes no sense.
    pub(super) fn of(set: &Set, files: &Files<'_>, entry: &View<'_>, pages: Option<&dyn Pages>) -> Option<Self> {
        let number = |field| entry.number(field).and_then(|value| i32::try_from(value).ok());
        let pid = number("pid")?;
        let core = set.first(&format!("core-{pid}.img")).ok();
        let task = core.as_ref().and_then(|core| core.view("tc"));
        let state = match task.as_ref().and_then(|task| task.number("task_state")) {
            Some(1) => "running",
            Some(3) => "stopped",
            Some(2 | 6) => "zombie",
            _ => "helper",
        };
        let ids = core.as_ref().and_then(|core| core.view("ids")).or_else(|| set.first(&format!("ids-{pid}.img")).ok());
        let mm = set.first(&format!("mm-{pid}.img")).ok();
        let fs = set.first(&format!("fs-{pid}.img")).ok();
        let path = |view: Option<View<'_>>, field| view.and_then(|view| view.number(field)).and_then(|id| files.path(id)).unwrap_or_default();
        let words = |fields| pages.map(|pages| memory::words(set, pid, fields, pages)).unwrap_or_default();
        let limits = task.as_ref().and_then(|task| task.view("rlimits")).map(|all| all.views("rlimits")).unwrap_or_default();
        let limits = limits.iter().enumerate().map(|(index, limit)| (index, limit.number("cur").unwrap_or(0), limit.number("max").unwrap_or(0)));
        let tids: Vec<i32> = entry.numbers("threads").into_iter().filter_map(|tid| i32::try_from(tid).ok()).collect();
        Some(Self {
            pid,
            ppid: number("ppid")?,
            pgid: number("pgid")?,
            sid: number("sid")?,
            state,
            comm: task.as_ref().and_then(|task| task.text("comm")).unwrap_or_default(),
            program: path(mm, "exe_file_id"),
            arguments: words(("mm_arg_start", "mm_arg_end")),
            environment: words(("mm_env_start", "mm_env_end")),
            directory: path(fs, "cwd_id"),
            identity: core.as_ref().and_then(|core| core.view("thread_core")?.view("creds")).map(|creds| identity(&creds)),
            threads: tids.iter().filter_map(|tid| thread(set, *tid)).collect(),
            descriptors: ids.and_then(|ids| ids.number("files_id")).map(|number| files.descriptors(set, number)).unwrap_or_default(),
            memory: memory::of(set, files, pid),
            cgroups: core.as_ref().map(|core| cgroups(set, core)).unwrap_or_default(),
            limits: limits.filter(|(_, soft, hard)| (*soft, *hard) != (u64::MAX, u64::MAX)).collect(),
        })
    }

    /// Notes which files it has open.
    pub(super) fn own(&self, owners: &mut BTreeMap<u64, Vec<String>>) {
        for descriptor in &self.descriptors {
            owners.entry(descriptor.id).or_default().push(format!("{}/{}", self.pid, descriptor.fd));
        }
    }
}

fn thread(set: &Set, tid: i32) -> Option<Thread> {
    let core = set.first(&format!("core-{tid}.img")).ok()?;
    let own = core.view("thread_core")?;
    let comm = own.text("comm").or_else(|| core.view("tc")?.text("comm")).unwrap_or_default();
    let policy = match own.number("sched_policy").unwrap_or(0) {
        0 => None,
        1 => Some("FIFO"),
        2 => Some("RR"),
        3 => Some("BATCH"),
        5 => Some("IDLE"),
        6 => Some("DEADLINE"),
        _ => Some("unknown"),
    };
    Some(Thread {
        tid,
        comm,
        nice: own.signed("sched_nice").unwrap_or(0),
        policy: policy.map(|policy| format!("{policy} {}", own.number("sched_prio").unwrap_or(0))),
        seccomp: own.number("seccomp_filter").filter(|_| own.number("seccomp_mode") == Some(2)),
        pending: own.view("signals_p").map_or(0, |queue| queue.views("signals").len()),
    })
}

fn identity(creds: &View<'_>) -> Identity {
    let number = |field| creds.number(field).unwrap_or(0);
    let mask = |field| {
        let words = creds.numbers(field);
        format!("{:016x}", words.first().copied().unwrap_or(0) & 0xffff_ffff | words.get(1).copied().unwrap_or(0) << 32)
    };
    Identity {
        uid: ["uid", "euid", "suid"].map(number),
        gid: ["gid", "egid", "sgid"].map(number),
        groups: creds.numbers("groups"),
        effective: mask("cap_eff"),
        permitted: mask("cap_prm"),
        bounding: mask("cap_bnd"),
        no_new_privs: number("no_new_privs") != 0,
        label: creds.text("lsm_profile").filter(|label| !label.is_empty()),
    }
}

fn cgroups(set: &Set, core: &View<'_>) -> Vec<(String, String)> {
    let Some(id) = core.view("thread_core").and_then(|own| own.number("cg_set")).or_else(|| core.view("tc")?.number("cg_set")) else { return Vec::new() };
    let all = set.first("cgroup.img").map(|all| all.views("sets")).unwrap_or_default();
    let own = all.iter().find(|one| one.number("id") == Some(id)).map(|one| one.views("ctls")).unwrap_or_default();
    own.iter().map(|member| (member.text("name").unwrap_or_default(), member.text("path").unwrap_or_default())).collect()
}
