//! What is in a set of images: processes, threads, open files, sockets, mounts, memory. Nothing but messages is read, and of memory what a process was called.
//!
//! ```text
//!   Set ─┬─ pstree, core ──▶ Process ─┬─ Thread, Identity               process.rs
//!        ├─ fdinfo, files ────────────┼─ Descriptor, Socket             file.rs, socket.rs
//!        ├─ mm, pagemap ──────────────┴─ Memory, Mapping, command line  memory.rs
//!        └─ mountpoints, utsns … ─────── Mount                          mount.rs
//! ```
//! All of it is plain data, for a table or as JSON. A set should be checked before ([`Set::check`]); one that is not is told as far as it goes.

mod file;
mod memory;
mod mount;
mod process;
mod socket;

use std::collections::BTreeMap;

use serde::Serialize;

pub use file::Descriptor;
pub use memory::{Mapping, Memory, Pages};
pub use mount::Mount;
pub use process::{Identity, Process, Thread};
pub use socket::Socket;

use crate::images::{Set, schema::View};

/// Everything that is told of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// The dump itself.
    pub dump: Dump,
    /// Name of the host, if the images bring one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Parents before children.
    pub processes: Vec<Process>,
    /// All sockets, each with its owners.
    pub sockets: Vec<Socket>,
    /// In the order in which they were mounted.
    pub mounts: Vec<Mount>,
    /// Deleted files whose content is in the images: path and bytes.
    pub deleted: Vec<(String, u64)>,
    /// File locks: type, pid and descriptor, first byte, length (0: to the end).
    pub locks: Vec<String>,
    /// Bytes of every image, the largest first.
    pub sizes: Vec<(String, u64)>,
    /// Their sum.
    pub bytes: u64,
}

/// How and where it was dumped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dump {
    /// Kind of processor, e.g. `X86_64`.
    pub machine: String,
    /// Security module whose labels are in the images.
    pub lsm: String,
    /// Whether established connections are closed at the restore.
    pub tcp_close: bool,
    /// Seconds that the node had been up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime: Option<u64>,
    /// Plugins that the restore needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<String>,
    /// Microseconds for which the processes stood still during the dump.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen_us: Option<u64>,
    /// Fields of a newer CRIU that are not understood here.
    pub unknown: u32,
}

/// Tells what is in a set. `pages` gives access to memory for command lines; `None` leaves them empty.
#[must_use]
pub fn inspect(set: &Set, pages: Option<&dyn Pages>) -> Inspection {
    let files = file::Files::of(set);
    let mut owners: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let processes: Vec<Process> =
        all(set, "pstree.img").filter_map(|entry| Process::of(set, &files, &entry, pages)).inspect(|process| process.own(&mut owners)).collect();
    let mut sizes: Vec<(String, u64)> = set.lengths.iter().map(|(name, length)| (name.clone(), *length)).collect();
    sizes.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    Inspection {
        dump: dump(set),
        hostname: set.images.iter().find(|(name, _)| name.starts_with("utsns-")).and_then(|(_, image)| image.first()?.text("nodename")),
        processes,
        sockets: socket::all(set, &owners),
        mounts: mount::all(set),
        deleted: file::deleted(set, &files),
        locks: all(set, "filelocks.img").map(|lock| file::lock(&lock)).collect(),
        bytes: sizes.iter().map(|(_, length)| *length).fold(0, u64::saturating_add),
        sizes,
    }
}

fn dump(set: &Set) -> Dump {
    let Ok(inventory) = set.first(crate::images::INVENTORY) else { return Dump::default() };
    let core = set.images.iter().find(|(name, _)| name.starts_with("core-")).and_then(|(_, image)| image.first());
    let stats = set.first("stats-dump").ok().and_then(|stats| stats.view("dump"));
    Dump {
        machine: core.and_then(|core| core.word_of("mtype")).unwrap_or_default(),
        lsm: inventory.word_of("lsmtype").unwrap_or_default(),
        tcp_close: inventory.flag("tcp_close"),
        uptime: inventory.number("dump_uptime").map(|micros| micros / 1_000_000),
        plugins: inventory
            .view("plugins_entry")
            .map(|all| all.all_bytes("plugins").into_iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect())
            .unwrap_or_default(),
        frozen_us: stats.and_then(|stats| stats.number("frozen_time")),
        unknown: set.images.values().map(|image| image.unknown).fold(0, u32::saturating_add),
    }
}

/// The messages of an image; none if it is not there.
fn all<'a>(set: &'a Set, name: &str) -> impl Iterator<Item = View<'a>> + use<'a> {
    set.images.get(name).into_iter().flat_map(|image| image.views())
}
