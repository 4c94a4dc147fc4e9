//! Which directories are a cgroup.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

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
