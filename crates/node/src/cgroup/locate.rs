//! Finding the cgroup of a process.
//!
//! `/proc/PID/cgroup` and the root field of mountinfo are relative to the cgroup namespace of the *reader* (cgroup_namespaces(7)), and the agent's container may have its own:
//! both are read by a short-lived thread that has joined the node's.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::{Cgroup, Error, Version};
use crate::mounts::Mount;
use crate::{Host, mounts};

impl Cgroup {
    /// The cgroup of the container that process `pid` belongs to: the freezer's on v1, else the unified one. Cgroups that the application made below the container's own
    /// are passed over; outside a pod it is the cgroup of the process itself.
    ///
    /// # Errors
    /// The process is gone, or its cgroup cannot be found below the node's cgroup mount.
    pub fn of(host: &Host, pid: i32) -> Result<Self, Error> {
        let unknown = |source| Error::Unknown { pid, source };
        let (lines, mounts) =
            in_cgroup_namespace(host, move |host| Ok((fs::read_to_string(format!("/proc/{pid}/cgroup"))?, mounts::of(&host.proc_of_init())?)))
                .map_err(unknown)?;
        let (version, path) = choose(&lines).ok_or_else(|| unknown(io::Error::other("it is in no freezer and no unified hierarchy")))?;
        let mount = hierarchy(&mounts, version, &path)
            .ok_or_else(|| unknown(io::Error::other(format!("{} is in none of the node's cgroup {version} mounts", path.display()))))?;
        let name = path.strip_prefix(&mount.root).map_err(|_| unknown(io::Error::other(format!("{} is outside the node's cgroup mount", path.display()))))?;
        let own = Self { version, mount: host.path(&mount.point), name: name.to_owned() };
        Ok(own.clone().container().unwrap_or(own))
    }

    /// The ancestor directly below the pod's cgroup.
    fn container(self) -> Option<Self> {
        let pod = self.pod()?;
        std::iter::successors(Some(self), Self::parent).find(|cgroup| cgroup.parent().as_ref() == Some(&pod))
    }
}

/// The mount of a hierarchy that shows `path`. Runtimes bind single cgroups into containers, and such a mount may be seen on the node too: the one that shows most is meant.
fn hierarchy<'a>(mounts: &'a [Mount], version: Version, path: &Path) -> Option<&'a Mount> {
    let of_version = |mount: &&Mount| match version {
        Version::V1 => mount.kind == "cgroup" && mount.options.iter().any(|option| option == "freezer"),
        Version::V2 => mount.kind == "cgroup2",
    };
    mounts.iter().filter(of_version).filter(|mount| path.starts_with(&mount.root)).min_by_key(|mount| mount.root.components().count())
}

/// Lines are `id:controllers:path`; the unified hierarchy has no controllers.
fn choose(lines: &str) -> Option<(Version, PathBuf)> {
    let parts = || lines.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let freezer = parts().find(|(controllers, _)| controllers.split(',').any(|controller| controller == "freezer"));
    let unified = || parts().find(|(controllers, _)| controllers.is_empty());
    let path = |path: &str| Path::new(path.strip_suffix(" (deleted)").unwrap_or(path)).to_owned();
    freezer.map(|(_, name)| (Version::V1, path(name))).or_else(|| unified().map(|(_, name)| (Version::V2, path(name))))
}

fn in_cgroup_namespace<T: Send>(host: &Host, work: impl FnOnce(&Host) -> io::Result<T> + Send) -> io::Result<T> {
    if *host == Host::at(host.root()) {
        return work(host);
    }
    let namespace = File::open(host.proc_of_init().join("ns/cgroup"))?;
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWCGROUP)?;
            work(host)
        });
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the node's cgroup namespace ended abnormally")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_freezer_comes_first_then_the_unified_hierarchy() {
        let hybrid = "12:freezer:/kubepods/pod1/c\n11:cpu,cpuacct:/x\n0::/u\n";
        assert_eq!(choose(hybrid), Some((Version::V1, "/kubepods/pod1/c".into())));
        assert_eq!(choose("11:cpu,cpuacct:/x\n0::/u/v\n"), Some((Version::V2, "/u/v".into())));
        assert_eq!(choose("11:cpu,cpuacct:/x\n"), None);
    }

    #[test]
    fn a_single_bound_cgroup_is_not_taken_for_the_hierarchy() {
        let mount = |root: &str, point: &str, kind: &str, option: &str| Mount {
            id: 1,
            root: root.into(),
            point: point.into(),
            kind: kind.into(),
            options: vec!["rw".into(), option.into()],
        };
        let mounts = [
            mount("/", "/sys/fs/cgroup/memory", "cgroup", "memory"),
            mount("/", "/f", "cgroup", "freezer"),
            mount("/pod1/c", "/run/x", "cgroup", "freezer"),
            mount("/", "/u", "cgroup2", ""),
        ];
        let point = |version, path: &str| hierarchy(&mounts, version, Path::new(path)).map(|mount| mount.point.as_path());
        assert_eq!(point(Version::V1, "/pod1/c"), Some(Path::new("/f")));
        assert_eq!(point(Version::V1, "/pod1/d"), Some(Path::new("/f")));
        assert_eq!(point(Version::V2, "/pod1/d"), Some(Path::new("/u")));
    }

    #[test]
    fn the_pod_and_the_container_are_found_for_both_drivers() {
        let of = |name: &str| Cgroup { version: Version::V2, mount: "/m".into(), name: name.into() };
        let uid = "1ad1ef0c-6e2c-4b41-8a6c-2c9a3e5b7d10";
        for (pod, container, below) in [
            (format!("kubepods/burstable/pod{uid}"), "0123abcd", "init"),
            (format!("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{}.slice", uid.replace('-', "_")), "crio-01.scope", "container"),
        ] {
            let whole = of(&format!("{pod}/{container}/{below}"));
            assert_eq!(whole.pod(), Some(of(&pod)));
            assert_eq!(whole.container(), Some(of(&format!("{pod}/{container}"))));
        }
        assert_eq!(of("system.slice/podman.service").pod(), None);
    }
}
