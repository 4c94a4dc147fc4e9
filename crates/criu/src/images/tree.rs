//! The process tree, and that every process in it has its images.

use std::collections::{BTreeMap, BTreeSet};

use super::Set;
use super::schema::View;
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
    /// Whether it runs or is stopped. Of a zombie there is nothing but an exit status.
    pub alive: bool,
}

/// What else is known of a process while a set is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Whether it has memory, files and a file system: a zombie has not.
    pub alive: bool,
    /// The number in the name of its `fdinfo` image.
    pub files: Option<u64>,
}

/// `TASK_ALIVE` and `TASK_STOPPED` (`criu/include/pid.h`): others are zombies or helpers and have no memory.
const WITH_MEMORY: [u64; 2] = [1, 3];
/// The version of the images that CRIU 2 and newer write (`CRTOOLS_IMAGES_V1_1`).
const VERSION: u64 = 2;
/// The name of the image.
const FILE: &str = "pstree.img";
/// The images that every living process has, each with its pid in the name.
const OWN: [&str; 4] = ["mm", "pagemap", "fs", "ids"];

/// The process tree of a set, parents before children.
pub fn check(set: &Set) -> Result<Vec<(Process, Life)>, Problem> {
    let version = set.first("inventory.img")?.number("img_version");
    if version != Some(VERSION) {
        return Err(Problem::damaged("inventory.img", format!("images of version {version:?}, not {VERSION}")));
    }
    let mut processes: Vec<(Process, Life)> = Vec::new();
    let mut needed = BTreeSet::new();
    for entry in set.image(FILE)?.views() {
        let (mut process, zombie) = shape(&entry)?;
        let life = one(set, &mut process)?;
        process.alive = life.alive && !zombie;
        if !process.alive {
            // CRIU writes whatever stood in memory as the thread of a zombie.
            process.threads = vec![process.pid];
        }
        needed.extend(std::iter::once(&process.pid).chain(&process.threads).map(|thread| format!("core-{thread}.img")));
        if life.alive {
            needed.extend(OWN.map(|kind| format!("{kind}-{}.img", process.pid)));
            needed.extend(life.files.map(|files| format!("fdinfo-{files}.img")));
        }
        if processes.iter().any(|(other, _)| other.pid == process.pid) {
            return Err(Problem::damaged(FILE, format!("process {} is there twice", process.pid)));
        }
        let is_root = process.ppid == 0 && processes.is_empty();
        if !is_root && !processes.iter().any(|(parent, _)| parent.pid == process.ppid) {
            return Err(Problem::damaged(FILE, format!("process {} has no parent {}", process.pid, process.ppid)));
        }
        processes.push((process, life));
    }
    if processes.is_empty() {
        return Err(Problem::damaged(FILE, "it has no process"));
    }
    if let Some(missing) = needed.iter().find(|name| !set.images.contains_key(*name)) {
        return Err(Problem::MissingImage { file: missing.clone() });
    }
    let kinds = ["core-", "mm-", "pagemap-", "fs-", "ids-", "fdinfo-"];
    let is_own = |name: &str| kinds.iter().any(|kind| name.starts_with(kind)) && !name.starts_with("pagemap-shmem-");
    if let Some(stranger) = set.images.keys().find(|name| is_own(name) && !needed.contains(*name)) {
        return Err(Problem::damaged(FILE, format!("{stranger} belongs to no process")));
    }
    threads(set, &processes)?;
    Ok(processes)
}

/// What the tree itself says of a process, and whether it says nothing of threads.
fn shape(entry: &View<'_>) -> Result<(Process, bool), Problem> {
    let pid = |value: u64| i32::try_from(value).map_err(|_| Problem::damaged(FILE, format!("{value} is no process id")));
    let number = |field| pid(entry.number(field).unwrap_or(0));
    let process = Process {
        pid: number("pid")?,
        ppid: number("ppid")?,
        pgid: number("pgid")?,
        sid: number("sid")?,
        threads: Vec::new(),
        comm: String::new(),
        alive: false,
    };
    // A zombie's thread is no number that has to make sense.
    let threads: Option<Vec<i32>> = entry.numbers("threads").into_iter().map(|tid| i32::try_from(tid).ok()).collect();
    let zombie = threads.is_none();
    if process.pid < 1 {
        return Err(Problem::damaged(FILE, format!("{} is no process id", process.pid)));
    }
    Ok((Process { threads: threads.unwrap_or_default(), ..process }, zombie))
}

/// The images of one process: adds its name.
fn one(set: &Set, process: &mut Process) -> Result<Life, Problem> {
    let name = format!("core-{}.img", process.pid);
    let core = set.first(&name)?;
    let task = core.view("tc").ok_or_else(|| Problem::damaged(&name, "it has no task"))?;
    process.comm = task.text("comm").unwrap_or_default();
    let alive = task.number("task_state").is_some_and(|state| WITH_MEMORY.contains(&state));
    if !alive {
        return Ok(Life::default());
    }
    for kind in OWN {
        set.image(&format!("{kind}-{}.img", process.pid))?;
    }
    let ids = match core.view("ids") {
        Some(ids) => ids,
        None => set.first(&format!("ids-{}.img", process.pid))?,
    };
    if !process.threads.contains(&process.pid) {
        return Err(Problem::damaged(FILE, format!("process {} is not among its threads", process.pid)));
    }
    Ok(Life { alive, files: ids.number("files_id") })
}

/// Every thread of the living has registers of the same processor, and no thread belongs to two processes.
fn threads(set: &Set, processes: &[(Process, Life)]) -> Result<(), Problem> {
    let mut owners = BTreeMap::new();
    let mut machine = None;
    for (process, life) in processes {
        for thread in &process.threads {
            let name = format!("core-{thread}.img");
            if owners.insert(*thread, process.pid).is_some() {
                return Err(Problem::damaged(FILE, format!("thread {thread} is there twice")));
            }
            let core = set.first(&name)?;
            let is = core.number("mtype");
            if *machine.get_or_insert(is) != is {
                return Err(Problem::damaged(&name, "it is of another kind of processor than the others"));
            }
            if life.alive && core.view("thread_core").is_none() {
                return Err(Problem::damaged(&name, "it has no thread"));
            }
        }
    }
    Ok(())
}
