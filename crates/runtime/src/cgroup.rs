//! Control groups: where a container's is, how a keeper enters and leaves it, how it is emptied and removed.
//!
//! conmon and containerd's shim read `/proc/PID/cgroup` of the pid in the pid file, so the keeper must sit in the container's cgroup by then; runc wants it
//! empty when it restores, so the keeper leaves it before.
//!
//! ```text
//!   linux.cgroupsPath     cgroupfs   /kubepods/burstable/pod<uid>/<id>             below every hierarchy's mount point
//!                         systemd    kubepods-pod<uid>.slice:cri-containerd:<id>   /kubepods.slice/kubepods-pod<uid>.slice/cri-containerd-<id>.scope
//! ```
//!
//! Version 1: every mounted hierarchy (mountinfo type `cgroup`). Version 2: the one of type `cgroup2`, if it is the only kind.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Which of its directories is mounted there.
    pub root: PathBuf,
    /// Controllers, or `name=…`; empty for version 2.
    pub controllers: Vec<String>,
    /// Version 2.
    pub unified: bool,
}

/// The hierarchies of this node that runtimes use.
#[must_use]
pub fn hierarchies() -> Vec<Hierarchy> {
    parse_mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// Reads mountinfo (proc_pid_mountinfo(5)).
fn parse_mounts(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
        let (Some(root), Some(mount), Some(kind)) = (left.next(), left.next(), right.next()) else {
            continue;
        };
        let unified = kind == "cgroup2";
        if !unified && kind != "cgroup" {
            continue;
        }
        let flags = ["rw", "ro", "xattr", "clone_children", "noprefix"];
        let controllers: Vec<String> = if unified {
            Vec::new()
        } else {
            right
                .nth(1)
                .unwrap_or_default()
                .split(',')
                .filter(|option| !flags.contains(option) && !option.starts_with("release_agent"))
                .map(str::to_owned)
                .collect()
        };
        if !found.iter().any(|other| other.unified == unified && other.controllers == controllers) {
            found.push(Hierarchy { mount: mount.into(), root: root.into(), controllers, unified });
        }
    }
    if found.iter().any(|hierarchy| !hierarchy.unified) {
        found.retain(|hierarchy| !hierarchy.unified);
    }
    found
}

/// The directories of the cgroup of the process with this `/proc/PID/cgroup`, one for each hierarchy.
#[must_use]
pub fn of_process(hierarchies: &[Hierarchy], text: &str) -> Vec<PathBuf> {
    hierarchies.iter().filter_map(|hierarchy| Some(below(&hierarchy.mount, &visible(hierarchy, &own(hierarchy, text)?)))).collect()
}

/// The path in `/proc/PID/cgroup` for a hierarchy.
fn own(hierarchy: &Hierarchy, text: &str) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let same = if hierarchy.unified {
            controllers.is_empty()
        } else {
            !controllers.is_empty() && controllers.split(',').any(|name| hierarchy.controllers.iter().any(|c| c == name))
        };
        same.then(|| path.into())
    })
}

/// A cgroup's path as seen from the mount point.
fn visible(hierarchy: &Hierarchy, path: &Path) -> PathBuf {
    path.strip_prefix(&hierarchy.root).map_or_else(|_| path.to_owned(), Path::to_owned)
}

/// The directories of a container's cgroup.
///
/// `path` is `linux.cgroupsPath`, `own` the text of `/proc/self/cgroup`, `init` that of `/proc/1/cgroup`.
#[must_use]
pub fn of_container(hierarchies: &[Hierarchy], path: &str, id: &str, systemd: bool, own_text: &str, init: &str) -> Vec<PathBuf> {
    hierarchies
        .iter()
        .map(|hierarchy| {
            let inner = if systemd {
                let base = own(hierarchy, init).map(|path| visible(hierarchy, &path)).unwrap_or_default();
                let base = if base.ends_with("init.scope") { base.parent().map(Path::to_owned).unwrap_or_default() } else { base };
                // Version 2 and cgroupfs-less version 1: systemd's slices start at the cgroup of process 1.
                below(&below(Path::new(""), &base), &systemd_path(path, id))
            } else if path.starts_with('/') {
                path.into()
            } else {
                let base = own(hierarchy, own_text).map(|path| visible(hierarchy, &path)).unwrap_or_default();
                base.join(if path.is_empty() { id } else { path })
            };
            below(&hierarchy.mount, &inner)
        })
        .collect()
}

/// `slice:prefix:name` as a path.
fn systemd_path(path: &str, id: &str) -> PathBuf {
    let mut parts = path.splitn(3, ':');
    let (slice, prefix, name) = match (parts.next(), parts.next(), parts.next()) {
        (Some(slice), Some(prefix), Some(name)) => (slice, prefix, name),
        _ => ("system.slice", "runc", id),
    };
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let unit = match (name.ends_with(".slice"), prefix.is_empty()) {
        (true, _) => name.to_owned(),
        (false, true) => format!("{name}.scope"),
        (false, false) => format!("{prefix}-{name}.scope"),
    };
    expand_slice(slice).join(unit)
}

/// A slice's path: `a-b.slice` lies in `a.slice` (systemd.slice(5)).
fn expand_slice(slice: &str) -> PathBuf {
    let (mut path, mut prefix) = (PathBuf::new(), String::new());
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    if name == "-" {
        return path;
    }
    for part in name.split('-') {
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
        prefix.push('-');
    }
    path
}

/// Joins, never leaving `base`.
fn below(base: &Path, inner: &Path) -> PathBuf {
    let mut path = base.to_owned();
    path.extend(inner.components().filter(|component| matches!(component, Component::Normal(_))));
    path
}

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

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "30 20 0:26 / /sys/fs/cgroup rw - tmpfs cgroup rw\n31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        34 30 0:27 /x /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\n";
    const OWN: &str = "3:cpu,cpuacct:/system.slice/crio.service\n1:name=systemd:/system.slice/crio.service\n0::/system.slice/crio.service\n";

    fn paths(words: &[&str]) -> Vec<PathBuf> {
        words.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn version_1_wins_over_a_hybrid() {
        let h = parse_mounts(V1);
        assert_eq!(h.len(), 2);
        assert_eq!(h.first().map(|h| h.controllers.clone()), Some(vec!["cpu".to_owned(), "cpuacct".to_owned()]));
        assert_eq!(of_process(&h, OWN), paths(&["/sys/fs/cgroup/cpu,cpuacct/system.slice/crio.service", "/sys/fs/cgroup/systemd/system.slice/crio.service"]));
    }

    #[test]
    fn cgroupfs_paths() {
        let h = parse_mounts("33 30 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let of = |path: &str| of_container(&h, path, "id", false, "0::/me\n", "0::/init.scope\n");
        assert_eq!(of("/kubepods/podx/abc"), paths(&["/sys/fs/cgroup/kubepods/podx/abc"]));
        assert_eq!(of("/a/../../b"), paths(&["/sys/fs/cgroup/a/b"]));
        assert_eq!(of("rel"), paths(&["/sys/fs/cgroup/me/rel"]));
        assert_eq!(of(""), paths(&["/sys/fs/cgroup/me/id"]));
    }

    #[test]
    fn systemd_paths() {
        let h = parse_mounts("33 30 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let of = |path: &str| of_container(&h, path, "id", true, "0::/me\n", "0::/init.scope\n");
        assert_eq!(
            of("kubepods-burstable-podx.slice:crio:abc"),
            paths(&["/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx.slice/crio-abc.scope"])
        );
        assert_eq!(of("-.slice::abc"), paths(&["/sys/fs/cgroup/abc.scope"]));
        assert_eq!(of(":a:b.slice"), paths(&["/sys/fs/cgroup/system.slice/b.slice"]));
        assert_eq!(of(""), paths(&["/sys/fs/cgroup/system.slice/runc-id.scope"]));
    }

    #[test]
    fn a_mount_of_a_subtree() {
        let h = parse_mounts("33 30 0:29 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(of_process(&h, "0::/docker/x/crio\n"), paths(&["/sys/fs/cgroup/crio"]));
    }
}
