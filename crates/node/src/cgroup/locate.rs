//! Finding the cgroup of a process.
//!
//! `/proc/PID/cgroup` and the root field of mountinfo are relative to the cgroup namespace of the *reader* (cgroup_namespaces(7)), and the agent's container may have its own:
//! both are read by a short-lived thread that has joined the node's.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::{Cgroup, Error, Version, pod_uid};
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

/// UIDs of the pods that have a cgroup on the node, beside that of a process of one of them: the kubelet makes it before the pod's sandbox, and removes it when the pod's
/// containers and sandbox have stopped. None when the process is in no pod.
///
/// # Errors
/// As [`Cgroup::of`].
pub fn pods_beside(host: &Host, pid: i32) -> Result<BTreeSet<String>, Error> {
    let class = Cgroup::of(host, pid)?.pod().and_then(|pod| pod.parent());
    let all = class.and_then(|class| if is_class(&class) { class.parent() } else { Some(class) });
    Ok(all.map(|all| pods_below(&all.path())).unwrap_or_default())
}

/// Whether the kubelet made it for the pods of a class of service; those of the class Guaranteed have none. By cgroupfs `burstable`, by systemd `…-burstable.slice`.
fn is_class(cgroup: &Cgroup) -> bool {
    let name = cgroup.name.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.strip_suffix(".slice").unwrap_or(name);
    ["burstable", "besteffort"].iter().any(|class| name.ends_with(class))
}

/// Directly below the kubelet's cgroup, or below that of a class of service.
fn pods_below(directory: &Path) -> BTreeSet<String> {
    let directories = walkdir::WalkDir::new(directory).min_depth(1).max_depth(2).into_iter().filter_map(Result::ok);
    directories.filter_map(|entry| pod_uid(entry.file_name().to_str()?)).collect()
}

/// Those of these processes that are not where the ones of `own`, a container of a pod, have to be, each with the cgroup that is wrong: outside of `own` in its hierarchy, or in the
/// cgroup of another pod in any. Those that have ended are left out.
///
/// # Errors
/// The node's cgroup namespace cannot be entered.
pub fn elsewhere(host: &Host, pids: &[i32], own: &Cgroup) -> io::Result<Vec<(i32, String)>> {
    let read = |pid: &i32| Some((*pid, fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?));
    let lines = in_cgroup_namespace(host, |_| Ok(pids.iter().filter_map(read).collect::<Vec<_>>()))?;
    Ok(lines.into_iter().filter_map(|(pid, lines)| Some((pid, stray(&lines, own)?))).collect())
}

/// The line of `/proc/PID/cgroup` that is wrong.
fn stray(lines: &str, own: &Cgroup) -> Option<String> {
    let pod = own.pod()?;
    let (pod, container) = (pod.name.file_name()?, own.name.file_name()?);
    let wrong = |line: &&str| {
        let Some((controllers, path)) = line.split_once(':').and_then(|(_, rest)| rest.split_once(':')) else { return false };
        let parts: Vec<_> = Path::new(path).iter().collect();
        // The first: what a pod makes below its own cgroup is its own affair.
        let other = parts.iter().find(|part| part.to_str().and_then(pod_uid).is_some()).is_some_and(|part| *part != pod);
        let ours = match own.version {
            Version::V1 => controllers.split(',').any(|controller| controller == "freezer"),
            Version::V2 => controllers.is_empty(),
        };
        other || (ours && !parts.windows(2).any(|pair| pair == [pod, container]))
    };
    lines.lines().find(wrong).map(str::to_owned)
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_in_another_pod_or_beside_its_container_is_found() {
        let own = |version| Cgroup { version, mount: "/sys/fs/cgroup/freezer".into(), name: "kubepods/besteffort/pod1a2b-33/c1".into() };
        let v1 = "9:freezer:/kubepods/besteffort/pod1a2b-33/c1\n3:memory:/kubepods/besteffort/pod1a2b-33/c1\n1:name=systemd:/\n";
        assert_eq!(stray(v1, &own(Version::V1)), None);
        // Made by the application itself, and a node that is in a container of its own.
        assert_eq!(stray("9:freezer:/lab/n1/kubepods/besteffort/pod1a2b-33/c1/own\n", &own(Version::V1)), None);
        let old = v1.replace("memory:/kubepods/besteffort/pod1a2b-33", "memory:/kubepods/besteffort/pod77aa-01");
        assert_eq!(stray(&old, &own(Version::V1)).as_deref(), Some("3:memory:/kubepods/besteffort/pod77aa-01/c1"));
        assert_eq!(stray("9:freezer:/kubepods/besteffort/pod1a2b-33\n", &own(Version::V1)).as_deref(), Some("9:freezer:/kubepods/besteffort/pod1a2b-33"));
        let v2 = Cgroup { name: "kubepods.slice/kubepods-pod1a2b_33.slice/cri-containerd-c1.scope".into(), ..own(Version::V2) };
        assert_eq!(stray("0::/kubepods.slice/kubepods-pod1a2b_33.slice/cri-containerd-c1.scope\n", &v2), None);
        assert!(stray("0::/system.slice/containerd.service\n", &v2).is_some());
    }

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

    #[test]
    fn the_pods_of_all_classes_are_listed() {
        let root = tempfile::tempdir().unwrap();
        for name in ["pod1a-2b/c0ffee", "burstable/pod3c-4d/pod9f", "kubepods-besteffort.slice/kubepods-besteffort-pod5e_6f.slice", "besteffort"] {
            fs::create_dir_all(root.path().join(name)).unwrap();
        }
        assert_eq!(pods_below(root.path()).into_iter().collect::<Vec<_>>(), ["1a-2b", "3c-4d", "5e-6f"]);
        let class = |name: &str| is_class(&Cgroup { version: Version::V2, mount: "/m".into(), name: name.into() });
        assert!(class("kubepods/burstable") && class("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice"));
        assert!(!class("kubepods") && !class("kubelet.slice/kubelet-kubepods.slice"));
    }
}
