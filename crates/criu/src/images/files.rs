//! Open files: what `fdinfo-N` gives to processes is in `files.img`, and what that names is in its own image.
//!
//! ```text
//!   fdinfo-N ─ id ─▶ files.img ─┬ tty ────────▶ tty-info        pipes-data, fifo-data, sk-queues, tcp-stream-X
//!   fs-N, mm-N ─────▶           ├ memfd ──────▶ memfd ─▶ pagemap-shmem-N        │
//!   remap-fpath ────▶           └ pipe, fifo, sockets ◀─────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::Set;
use super::schema::View;
use super::tree::{Life, Process};
use crate::Problem;

/// Of each type of open files (`fd_types` in `fdinfo.proto`) the field of `file_entry` that has it.
pub const PARTS: [(u64, &str); 20] = [
    (1, "reg"),
    (2, "pipe"),
    (3, "fifo"),
    (4, "isk"),
    (5, "usk"),
    (6, "efd"),
    (7, "epfd"),
    (8, "ify"),
    (9, "sgfd"),
    (10, "psk"),
    (11, "tty"),
    (12, "ffy"),
    (13, "nlsk"),
    (14, "nsf"),
    (15, "tunf"),
    (16, "ext"),
    (17, "tfd"),
    (18, "memfd"),
    (19, "bpf"),
    (20, "pidfd"),
];
/// `TCP_ESTABLISHED`; all of these have a stream: established, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING, SYN_SENT (`criu/sk-tcp.c`).
const TCP: u64 = 6;
/// `CR_FD_...`: kinds of remaps (`remap_type`).
const LINKED: u64 = 0;
const GHOST: u64 = 1;

/// The image of open files.
pub const FILE: &str = "files.img";

/// The type of every open file, by id.
pub fn index(set: &Set) -> Result<BTreeMap<u64, u64>, Problem> {
    let mut files = BTreeMap::new();
    let Some(image) = set.images.get(FILE) else { return Ok(files) };
    for file in image.views() {
        let (kind, id) = (file.number("type").unwrap_or(0), file.number("id").unwrap_or(0));
        if let Some((_, part)) = PARTS.iter().find(|(number, _)| *number == kind) {
            let inner = file.view(part).ok_or_else(|| Problem::damaged(FILE, format!("file {id} has no {part}")))?;
            if inner.number("id") != Some(id) {
                return Err(Problem::damaged(FILE, format!("file {id} has the {part} of another one")));
            }
        }
        if files.insert(id, kind).is_some() {
            return Err(Problem::damaged(FILE, format!("file {id} is there twice")));
        }
    }
    Ok(files)
}

/// Checks every reference to files and from them.
pub fn check(set: &Set, processes: &[(Process, Life)]) -> Result<(), Problem> {
    for (process, life) in processes.iter().filter(|(_, life)| life.alive) {
        let name = format!("fs-{}.img", process.pid);
        let fs = set.first(&name)?;
        for field in ["cwd_id", "root_id"] {
            set.file(&name, fs.number(field).unwrap_or(0))?;
        }
        if let Some(files) = life.files {
            descriptors(set, &format!("fdinfo-{files}.img"))?;
        }
    }
    let mut names = Names::default();
    for file in set.images.get(FILE).iter().flat_map(|image| image.views()) {
        names.add(set, &file)?;
    }
    remaps(set)?;
    for (name, image) in &set.images {
        match name.as_str() {
            "pipes-data.img" => each(name, image.views(), "pipe_id", |id| names.pipes.contains(&id))?,
            "fifo-data.img" => each(name, image.views(), "pipe_id", |id| names.fifos.contains(&id))?,
            "sk-queues.img" => each(name, image.views(), "id_for", |id| set.files.contains_key(&id))?,
            _ => {
                if let Some(inode) = number(name, "tcp-stream-", 16)
                    && !names.streams.contains(&inode)
                {
                    return Err(Problem::damaged(name, "it belongs to no socket"));
                }
            }
        }
    }
    let inodes: BTreeSet<u64> = set.images.get("memfd.img").iter().flat_map(|image| image.views()).filter_map(|inode| inode.number("inode_id")).collect();
    if let Some(missing) = names.memfds.iter().find(|inode| !inodes.contains(inode)) {
        return Err(Problem::damaged("memfd.img", format!("memory file {missing} is missing")));
    }
    for inode in set.images.get("memfd.img").iter().flat_map(|image| image.views()) {
        set.image(&format!("pagemap-shmem-{}.img", inode.number("shmid").unwrap_or(0)))?;
    }
    let terminals: BTreeSet<u64> = set.images.get("tty-info.img").iter().flat_map(|image| image.views()).filter_map(|info| info.number("id")).collect();
    match names.terminals.iter().find(|info| !terminals.contains(info)) {
        Some(missing) => Err(Problem::damaged("tty-info.img", format!("terminal {missing} is missing"))),
        None => Ok(()),
    }
}

/// What open files name in other images.
#[derive(Default)]
struct Names {
    pipes: BTreeSet<u64>,
    fifos: BTreeSet<u64>,
    memfds: BTreeSet<u64>,
    terminals: BTreeSet<u64>,
    /// Inodes of TCP sockets.
    streams: BTreeSet<u64>,
}

impl Names {
    fn add(&mut self, set: &Set, file: &View<'_>) -> Result<(), Problem> {
        if let Some(pipe) = file.view("pipe") {
            self.pipes.extend(pipe.number("pipe_id"));
        } else if let Some(fifo) = file.view("fifo") {
            self.fifos.extend(fifo.number("pipe_id"));
            if let Some(regular) = fifo.number("regf_id") {
                set.file(FILE, regular)?;
            }
        } else if let Some(memfd) = file.view("memfd") {
            self.memfds.extend(memfd.number("inode_id"));
        } else if let Some(tty) = file.view("tty") {
            self.terminals.extend(tty.number("tty_info_id"));
            if let Some(regular) = tty.number("regf_id") {
                set.file(FILE, regular)?;
            }
        } else if let Some(socket) = file.view("isk")
            && socket.number("proto") == Some(TCP)
        {
            self.streams.extend(socket.number("ino"));
        } else if let Some(regular) = file.view("reg") {
            let mount = regular.signed("mnt_id").unwrap_or(-1);
            if mount != -1 && !set.mounts.is_empty() && !set.mounts.contains(&mount.cast_unsigned()) {
                return Err(Problem::damaged(FILE, format!("{} is on mount {mount}, which is not there", regular.text("name").unwrap_or_default())));
            }
        }
        Ok(())
    }
}

/// The descriptors of a process.
fn descriptors(set: &Set, name: &str) -> Result<(), Problem> {
    let mut seen = BTreeSet::new();
    for entry in set.image(name)?.views() {
        let (fd, id, kind) = (entry.number("fd").unwrap_or(0), entry.number("id").unwrap_or(0), entry.number("type").unwrap_or(0));
        if !seen.insert(fd) {
            return Err(Problem::damaged(name, format!("descriptor {fd} is there twice")));
        }
        if set.file(name, id)? != kind {
            return Err(Problem::damaged(name, format!("descriptor {fd} is of another type than its file {id}")));
        }
    }
    Ok(())
}

/// Files that had been unlinked.
fn remaps(set: &Set) -> Result<(), Problem> {
    let name = "remap-fpath.img";
    let mut ghosts = BTreeSet::new();
    for remap in set.images.get(name).iter().flat_map(|image| image.views()) {
        let id = remap.number("remap_id").unwrap_or(0);
        set.file(name, remap.number("orig_id").unwrap_or(0))?;
        // Before there were types, the highest bit of the id said it.
        let (kind, id) = match remap.number("remap_type") {
            Some(kind) => (kind, id),
            None if id >> 31 == 1 => (GHOST, id & 0x7fff_ffff),
            None => (LINKED, id),
        };
        match kind {
            GHOST => {
                let ghost = format!("ghost-file-{id:x}.img");
                set.image(&ghost)?;
                ghosts.insert(ghost);
            }
            LINKED => drop(set.file(name, id)?),
            _ => {}
        }
    }
    match set.images.keys().find(|name| name.starts_with("ghost-file-") && !ghosts.contains(*name)) {
        Some(stranger) => Err(Problem::damaged(stranger, "no file speaks of it")),
        None => Ok(()),
    }
}

fn each<'a>(name: &str, mut entries: impl Iterator<Item = View<'a>>, field: &str, has: impl Fn(u64) -> bool) -> Result<(), Problem> {
    match entries.find_map(|entry| entry.number(field).filter(|id| !has(*id))) {
        Some(id) => Err(Problem::damaged(name, format!("{field} {id} is no open file"))),
        None => Ok(()),
    }
}

/// The number in a name.
fn number(name: &str, prefix: &str, radix: u32) -> Option<u64> {
    u64::from_str_radix(name.strip_prefix(prefix)?.strip_suffix(".img")?, radix).ok()
}
