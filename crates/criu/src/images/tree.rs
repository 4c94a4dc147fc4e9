//! The process tree, and that every process in it has its images.

use std::collections::{BTreeMap, BTreeSet};

use super::frame::Image;
use super::wire;
use crate::Problem;

/// A process in the images. All numbers are pids inside the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid; 1 is the container's init.
    pub pid: i32,
    /// Its parent; 0 for the init.
    pub ppid: i32,
    /// Its process group.
    pub pgid: i32,
    /// Its session.
    pub sid: i32,
    /// Its threads, itself among them.
    pub threads: Vec<i32>,
    /// Its name, at most 15 bytes; empty for a helper that has none.
    pub comm: String,
}

/// `TASK_ALIVE` and `TASK_STOPPED` (`criu/include/pid.h`): others are zombies or helpers and have no memory.
const WITH_MEMORY: [u64; 2] = [1, 3];
/// The version of the images that CRIU 2 and newer write (`CRTOOLS_IMAGES_V1_1`).
const VERSION: u64 = 2;

pub fn check(images: &BTreeMap<String, Image>) -> Result<Vec<Process>, Problem> {
    let inventory = image(images, "inventory.img")?;
    let version = inventory.entries.first().and_then(|entry| wire::number(entry, 1));
    if version != Some(VERSION) {
        return Err(Problem::damaged("inventory.img", format!("images of version {version:?}, not {VERSION}")));
    }
    let tree = image(images, "pstree.img")?;
    let mut processes = Vec::new();
    let mut cores = BTreeSet::new();
    for entry in &tree.entries {
        let number = |field| {
            wire::number(entry, field)
                .and_then(|value| i32::try_from(value).ok())
                .ok_or_else(|| Problem::damaged("pstree.img", format!("field {field} is missing")))
        };
        let threads: Vec<i32> = wire::numbers(entry, 5).unwrap_or_default().into_iter().filter_map(|tid| i32::try_from(tid).ok()).collect();
        let mut process = Process { pid: number(1)?, ppid: number(2)?, pgid: number(3)?, sid: number(4)?, threads, comm: String::new() };
        let (comm, dead) = one(images, &process)?;
        process.comm = comm;
        if dead {
            // CRIU writes whatever stood in memory as the thread of a zombie.
            process.threads = vec![process.pid];
        }
        cores.extend(std::iter::once(&process.pid).chain(&process.threads).map(|thread| format!("core-{thread}.img")));
        if process.ppid != 0 && !processes.iter().any(|parent: &Process| parent.pid == process.ppid) {
            return Err(Problem::damaged("pstree.img", format!("process {} has no parent {}", process.pid, process.ppid)));
        }
        processes.push(process);
    }
    if processes.is_empty() {
        return Err(Problem::damaged("pstree.img", "it has no process"));
    }
    if let Some(missing) = cores.iter().find(|name| !images.contains_key(*name)) {
        return Err(Problem::MissingImage { file: missing.clone() });
    }
    match images.keys().find(|name| name.starts_with("core-") && !cores.contains(*name)) {
        Some(stranger) => Err(Problem::damaged("pstree.img", format!("{stranger} belongs to no process"))),
        None => Ok(processes),
    }
}

/// The images of one process; gives its name and whether it is dead.
fn one(images: &BTreeMap<String, Image>, process: &Process) -> Result<(String, bool), Problem> {
    let name = format!("core-{}.img", process.pid);
    let core = image(images, &name)?.entries.first().map_or(&[][..], Vec::as_slice);
    let Some(task) = wire::bytes(core, 3) else {
        return Err(Problem::damaged(&name, "it has no task"));
    };
    let dead = !wire::number(task, 1).is_some_and(|state| WITH_MEMORY.contains(&state));
    if !dead {
        for kind in ["mm", "pagemap", "fs", "ids"] {
            image(images, &format!("{kind}-{}.img", process.pid))?;
        }
        let files = wire::bytes(core, 4).and_then(|ids| wire::number(ids, 2)).or_else(|| {
            let ids = images.get(&format!("ids-{}.img", process.pid))?.entries.first()?;
            wire::number(ids, 2)
        });
        if let Some(files) = files {
            image(images, &format!("fdinfo-{files}.img"))?;
        }
    }
    let comm = wire::bytes(task, 6).map(|comm| String::from_utf8_lossy(comm).into_owned()).unwrap_or_default();
    Ok((comm, dead))
}

fn image<'a>(images: &'a BTreeMap<String, Image>, name: &str) -> Result<&'a Image, Problem> {
    images.get(name).ok_or_else(|| Problem::MissingImage { file: name.to_owned() })
}
