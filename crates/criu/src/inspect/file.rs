//! Open files: what a descriptor is, in words.

use std::collections::BTreeMap;

use serde::Serialize;

use super::socket;
use crate::images::{PARTS, Set, schema::View};

/// A file descriptor of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its number.
    pub fd: u32,
    /// Its file in the images: descriptors with the same one share position and flags.
    pub id: u64,
    /// Its kind: `reg`, `pipe`, `isk` (inet socket), `usk` (unix socket) …, as CRIU calls it.
    pub kind: &'static str,
    /// What it is.
    pub what: String,
    /// Whether it is closed on exec.
    pub cloexec: bool,
}

/// `FD_CLOEXEC`.
const CLOEXEC: u64 = 1;

/// Open files by id.
pub struct Files<'a> {
    entries: BTreeMap<u64, (&'static str, View<'a>)>,
    memfds: BTreeMap<u64, View<'a>>,
    terminals: BTreeMap<u64, View<'a>>,
    /// Kinds of deleted files: LINKED, GHOST, PROCFS.
    remapped: BTreeMap<u64, (String, u64)>,
}

impl<'a> Files<'a> {
    pub fn of(set: &'a Set) -> Self {
        let by = |name: &str, key: &'static str| super::all(set, name).filter_map(move |entry| Some((entry.number(key)?, entry))).collect();
        let entries = super::all(set, crate::images::FILES).filter_map(|file| {
            let kind = file.number("type")?;
            let part = PARTS.iter().find(|(number, _)| *number == kind)?.1;
            Some((file.number("id")?, (part, file.view(part)?)))
        });
        let remapped = super::all(set, "remap-fpath.img")
            .filter_map(|remap| Some((remap.number("orig_id")?, (remap.word_of("remap_type").unwrap_or_else(|| "GHOST".into()), remap.number("remap_id")?))));
        Self { entries: entries.collect(), memfds: by("memfd.img", "inode_id"), terminals: by("tty-info.img", "id"), remapped: remapped.collect() }
    }

    /// What a file is; its id if it is not known.
    pub fn what(&self, id: u64) -> String {
        let Some((kind, file)) = self.entries.get(&id) else { return format!("file {id}") };
        let number = |field| file.number(field).unwrap_or(0);
        match *kind {
            "reg" => self.regular(id, file),
            "pipe" => format!("pipe:[{}]", number("pipe_id")),
            "fifo" => format!("fifo:[{}] {}", number("pipe_id"), file.number("regf_id").map(|regular| self.what(regular)).unwrap_or_default()),
            "isk" => socket::inet(file),
            "usk" => socket::unix(file),
            "nlsk" => socket::netlink(file),
            "psk" => socket::packet(file),
            "efd" => format!("eventfd, counter {}", number("counter")),
            "epfd" => {
                let watched: Vec<String> = file.views("tfd").iter().map(|target| target.number("tfd").unwrap_or(0).to_string()).collect();
                format!("epoll of {}", if watched.is_empty() { "nothing".into() } else { watched.join(", ") })
            }
            "ify" => format!("inotify, {} watches", file.views("wd").len()),
            "ffy" => format!("fanotify, {} marks", file.views("mark").len()),
            "sgfd" => format!("signalfd {:#x}", number("sigmask")),
            "tfd" => timer(file),
            "memfd" => match self.memfds.get(&number("inode_id")) {
                Some(inode) => format!("memfd:{}, {} bytes", inode.text("name").unwrap_or_default(), inode.number("size").unwrap_or(0)),
                None => "memfd".into(),
            },
            "tty" => match self.terminals.get(&number("tty_info_id")) {
                Some(info) => {
                    let index = info.view("pty").and_then(|pty| pty.number("index"));
                    format!("terminal {}{}", info.word_of("type").unwrap_or_default(), index.map(|index| format!(" pts/{index}")).unwrap_or_default())
                }
                None => "terminal".into(),
            },
            "pidfd" => format!("pidfd of {}", number("nspid")),
            "nsf" => format!("namespace {} ({})", number("ns_id"), namespace(number("ns_cflag"))),
            "tunf" => format!("tun {}", file.text("netdev").unwrap_or_default()),
            "bpf" => format!("BPF map {}", file.text("map_name").unwrap_or_default()),
            other => other.to_owned(),
        }
    }

    fn regular(&self, id: u64, file: &View<'_>) -> String {
        // CRIU leaves the leading slash out.
        let name = file.text("name").unwrap_or_default();
        let path = if name.starts_with('/') { name } else { format!("/{name}") };
        let mode = match file.number("flags").unwrap_or(0) & 3 {
            0 => "r",
            1 => "w",
            _ => "rw",
        };
        let position = file.number("pos").filter(|position| *position > 0).map(|position| format!(" at {position}")).unwrap_or_default();
        let deleted = match self.remapped.get(&id) {
            Some((kind, _)) if kind == "PROCFS" => " (of a process that ended)",
            Some(_) => " (deleted)",
            None => "",
        };
        format!("{path} {mode}{position}{deleted}")
    }

    /// The path of a regular file.
    pub fn path(&self, id: u64) -> Option<String> {
        let (kind, file) = self.entries.get(&id)?;
        let name = if *kind == "reg" { file.text("name")? } else { return None };
        Some(if name.starts_with('/') { name } else { format!("/{name}") })
    }

    /// The descriptors of a process.
    pub fn descriptors(&self, set: &Set, number: u64) -> Vec<Descriptor> {
        super::all(set, &format!("fdinfo-{number}.img"))
            .filter_map(|entry| {
                let id = entry.number("id")?;
                let kind = self.entries.get(&id).map_or("unknown", |(kind, _)| *kind);
                Some(Descriptor { fd: entry.word("fd")?, id, kind, what: self.what(id), cloexec: entry.number("flags").unwrap_or(0) & CLOEXEC != 0 })
            })
            .collect()
    }
}

/// Deleted files whose content travels in the images.
pub fn deleted(set: &Set, files: &Files<'_>) -> Vec<(String, u64)> {
    let ghosts = files.remapped.iter().filter(|(_, (kind, _))| kind == "GHOST");
    ghosts
        .map(|(id, (_, ghost))| {
            let image = set.images.get(&format!("ghost-file-{ghost:x}.img"));
            let stored = image.map_or(0, |image| image.with_payloads().map(|(_, payload)| payload.length).fold(0, u64::saturating_add));
            (files.path(*id).unwrap_or_else(|| format!("file {id}")), stored)
        })
        .collect()
}

/// A lock, in words.
pub fn lock(lock: &View<'_>) -> String {
    let kind = match lock.number("flag").unwrap_or(0) {
        1 => "POSIX",
        2 => "flock",
        4 => "OFD",
        8 => "lease",
        _ => "lock",
    };
    let exclusive = if lock.number("type") == Some(1) { "exclusive" } else { "shared" };
    let number = |field| lock.signed(field).unwrap_or(0);
    format!("{kind} {exclusive}, process {} fd {}, bytes {} + {}", number("pid"), number("fd"), number("start"), number("len"))
}

fn timer(timer: &View<'_>) -> String {
    let seconds = |whole, part| {
        let (whole, part) = (timer.number(whole).unwrap_or(0), timer.number(part).unwrap_or(0));
        format!("{whole}.{:03} s", part / 1_000_000)
    };
    let every = timer.number("isec").unwrap_or(0) != 0 || timer.number("insec").unwrap_or(0) != 0;
    let next = seconds("vsec", "vnsec");
    if every { format!("timerfd, next in {next}, every {}", seconds("isec", "insec")) } else { format!("timerfd, in {next}") }
}

/// `CLONE_NEW…`.
fn namespace(flag: u64) -> &'static str {
    match flag {
        0x0002_0000 => "mnt",
        0x0400_0000 => "uts",
        0x0800_0000 => "ipc",
        0x1000_0000 => "user",
        0x2000_0000 => "pid",
        0x4000_0000 => "net",
        0x0200_0000 => "cgroup",
        0x80 => "time",
        _ => "unknown",
    }
}
