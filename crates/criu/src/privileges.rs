//! What processes of images may do, against what a container's OCI configuration gives: CRIU restores credentials and filters as the images have them, whatever the
//! new container is allowed.
//!
//! ```text
//!   core-N.img  thread_core.creds, seccomp_mode ─┐
//!   config.json process, linux.seccomp ──────────┴─▶ in words: what would be more
//! ```

use std::collections::BTreeSet;

use serde_json::Value;

use crate::Problem;
use crate::images::{Set, schema::View};
use crate::inspect;

/// Names of the capabilities by number: linux/capability.h.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Sets of capabilities in the images, and what having one means.
const SETS: [&str; 5] = ["cap_inh", "cap_prm", "cap_eff", "cap_bnd", "cap_amb"];

/// What a container may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Allowed {
    /// The bounding set.
    capabilities: u64,
    no_new_privileges: bool,
    seccomp: bool,
    root: bool,
}

impl Allowed {
    fn of(spec: &Value) -> Self {
        let process = &spec["process"];
        let bounding = process["capabilities"]["bounding"].as_array().map(Vec::as_slice).unwrap_or_default();
        Self {
            capabilities: bounding.iter().filter_map(Value::as_str).filter_map(number).fold(0, |mask, number| mask | 1 << number),
            no_new_privileges: process["noNewPrivileges"] == true,
            seccomp: spec["linux"]["seccomp"].is_object(),
            root: process["user"]["uid"].as_u64().unwrap_or(0) == 0,
        }
    }

    /// What a thread with these credentials could do beyond that.
    fn beyond(&self, creds: &View<'_>, filtered: bool) -> BTreeSet<String> {
        let mut more = BTreeSet::new();
        let held = SETS.iter().fold(0, |held, set| held | mask(&creds.numbers(set)));
        more.extend((0..64).filter(|number| held & !self.capabilities & 1 << number != 0).map(name));
        if self.seccomp && !filtered {
            more.insert("it has no seccomp filter".into());
        }
        if self.no_new_privileges && creds.number("no_new_privs").unwrap_or(0) == 0 {
            more.insert("it may gain privileges (no_new_privs is not set)".into());
        }
        // Without new privileges nobody but root becomes root.
        let ids = ["uid", "euid", "suid", "fsuid"];
        if self.no_new_privileges && !self.root && ids.iter().any(|id| creds.number(id) == Some(0)) {
            more.insert("it is root".into());
        }
        more
    }
}

/// What processes of verified images could do that a container of this OCI configuration may not, in words: one line for each process. Empty: nothing.
///
/// # Errors
/// When an image cannot be read.
pub fn beyond(set: &Set, spec: &Value) -> Result<Vec<String>, Problem> {
    let allowed = Allowed::of(spec);
    let mut lines = Vec::new();
    for process in inspect::inspect(set, None).processes {
        let mut more = BTreeSet::new();
        for thread in &process.threads {
            let core = set.first(&format!("core-{}.img", thread.tid))?;
            let Some(own) = core.view("thread_core") else { continue };
            if let Some(creds) = own.view("creds") {
                more.extend(allowed.beyond(&creds, own.number("seccomp_mode") == Some(2)));
            }
        }
        if !more.is_empty() {
            lines.push(format!("process {} ({}): {}", process.pid, process.comm, more.into_iter().collect::<Vec<_>>().join(", ")));
        }
    }
    Ok(lines)
}

/// CRIU writes a mask as two words of 32 bits, the lower first.
fn mask(words: &[u64]) -> u64 {
    words.first().copied().unwrap_or(0) & 0xffff_ffff | words.get(1).copied().unwrap_or(0) << 32
}

fn number(name: &str) -> Option<u32> {
    NAMES.iter().position(|known| *known == name).and_then(|position| u32::try_from(position).ok())
}

fn name(number: u32) -> String {
    NAMES.get(number as usize).map_or_else(|| format!("capability {number}"), |name| (*name).to_owned())
}
