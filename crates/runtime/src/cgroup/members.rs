//! Entering, leaving, emptying and removing a cgroup.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;

/// Puts this process into a cgroup, making what is missing. Hierarchies that refuse (a controller that is not delegated) are left out; one at least must work.
///
/// # Errors
/// When none takes it.
pub fn enter(directories: &[PathBuf]) -> io::Result<()> {
    let mut failure = None;
    let mut entered = directories.is_empty();
    for directory in directories {
        match make(directory).and_then(|()| fs::write(directory.join("cgroup.procs"), "0")) {
            Ok(()) => entered = true,
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if !entered => Err(error),
        _ => Ok(()),
    }
}

/// Moves this process back to where it came from; where that is gone, to the nearest parent that is left.
pub fn leave(origin: &[PathBuf]) {
    for directory in origin {
        for place in directory.ancestors() {
            if !place.join("cgroup.procs").exists() {
                if place.exists() {
                    break;
                }
                continue;
            }
            if fs::write(place.join("cgroup.procs"), "0").is_ok() {
                break;
            }
        }
    }
}

/// Makes a directory and its parents. A new `cpuset` (version 1) has no CPUs and takes no process until it is given some.
fn make(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make(parent)?;
    }
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = directory.join(name);
        let empty = fs::read_to_string(&file).is_ok_and(|text| text.trim().is_empty());
        if empty
            && !directory.join("cgroup.controllers").exists()
            && let Some(given) = directory.parent().and_then(|parent| fs::read_to_string(parent.join(name)).ok())
        {
            let _ = fs::write(&file, given.trim());
        }
    }
    Ok(())
}

/// Pids of all processes in a cgroup and below it.
#[must_use]
pub fn members(directories: &[PathBuf]) -> Vec<i32> {
    let mut pids = Vec::new();
    let mut open = directories.to_vec();
    while let Some(directory) = open.pop() {
        pids.extend(fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default().lines().filter_map(|pid| pid.parse::<i32>().ok()));
        open.extend(
            fs::read_dir(&directory)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Kills everything in a cgroup but this process, and waits until it is empty or the time is up. True when it is empty.
pub fn empty(directories: &[PathBuf], patience: Duration) -> bool {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let end = std::time::Instant::now() + patience;
    loop {
        let rest: Vec<i32> = members(directories).into_iter().filter(|pid| *pid != own && *pid > 0).collect();
        if rest.is_empty() {
            return true;
        }
        for pid in rest {
            let _ = crate::sys::kill(pid, Signal::SIGKILL as i32);
        }
        // Version 1: a frozen process does not die.
        for directory in directories {
            let freezer = directory.join("freezer.state");
            if freezer.exists() {
                let _ = fs::write(freezer, "THAWED");
            }
        }
        if std::time::Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes a cgroup with what is below it. The kernel may keep one busy for a moment after its last process has gone.
pub fn remove(directories: &[PathBuf]) {
    for directory in directories {
        for _ in 0..20 {
            match remove_tree(directory) {
                Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => std::thread::sleep(Duration::from_millis(5)),
                _ => break,
            }
        }
    }
}

/// Removes one directory of a hierarchy, its children first. Files in it go with it.
fn remove_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}
