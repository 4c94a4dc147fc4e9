//! The node as the agent reaches it: its files, and its programs.
//!
//! A path of the node such as `/var/run/netns/x` must not simply be appended to `/proc/1/root`: `/var/run` is often an absolute symbolic link, which the kernel would
//! follow in the *agent's* root. [`Host::path`] resolves links inside the node's root.
//!
//! ```text
//!   command            mnt, cgroup, ipc, uts, net of the node          criu, runc, crun
//!   command_in_pod     mnt, cgroup of the node; net, ipc, uts of a pod  criu dump
//!   command_in_netns   only the net namespace named                     ip, nft, ss of the agent's image
//! ```

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use nix::sched::CloneFlags;
use tokio::process::Command;

use crate::sys::{Entry, enter_before_exec};

/// As many as the kernel follows in one path (path_resolution(7)).
const MAX_LINKS: u32 = 40;
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A node seen from its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    root: PathBuf,
    /// The process whose namespaces are the node's; none when they are ours.
    pid: Option<i32>,
}

/// Namespace files of a pod, as paths of the node. What is absent stays the node's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNamespaces {
    /// Network.
    pub net: Option<PathBuf>,
    /// System V IPC and POSIX message queues.
    pub ipc: Option<PathBuf>,
    /// Hostname.
    pub uts: Option<PathBuf>,
}

impl Host {
    /// The node whose pid 1 is pid 1 of the agent's pid namespace.
    #[must_use]
    pub fn detect() -> Self {
        Self::of_pid(1)
    }

    /// The node as process `pid` sees it.
    #[must_use]
    pub fn of_pid(pid: i32) -> Self {
        Self { root: PathBuf::from(format!("/proc/{pid}/root")), pid: Some(pid) }
    }

    /// A plain directory as the node's root; the namespaces are our own.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), pid: None }
    }

    /// The node's root as a path that the agent can open.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path of the node as one that the agent can open, symbolic links resolved inside the node's root. Parts that do not exist stay as they are, and nothing
    /// below `/proc` is resolved (its links are no paths).
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let mut todo: VecDeque<OsString> = names(path.as_ref()).collect();
        let (mut done, mut links) = (PathBuf::new(), 0);
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                done.pop();
                continue;
            }
            done.push(&name);
            if done.starts_with("proc") || links >= MAX_LINKS {
                continue;
            }
            if let Ok(target) = fs::read_link(self.root.join(&done)) {
                links += 1;
                done.pop();
                if target.is_absolute() {
                    done.clear();
                }
                for (index, name) in names(&target).enumerate() {
                    todo.insert(index, name);
                }
            }
        }
        self.root.join(done)
    }

    /// `/proc/<pid of the node's init>`, or our own.
    #[must_use]
    pub fn proc_of_init(&self) -> PathBuf {
        self.pid.map_or_else(|| PathBuf::from("/proc/self"), |pid| PathBuf::from(format!("/proc/{pid}")))
    }

    /// A program of the node, to be run in the node's namespaces, in `/`, with an environment of `PATH`, `HOME` and `LANG` only.
    ///
    /// # Errors
    /// The node's namespaces or its root cannot be opened.
    pub fn command<I, S>(&self, program: impl AsRef<OsStr>, args: I) -> io::Result<Command>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.command_in_pod(&PodNamespaces::default(), program, args)
    }

    /// As [`command`](Self::command), but in the pod's network, IPC and UTS namespaces as far as they are named.
    ///
    /// # Errors
    /// A namespace or the node's root cannot be opened.
    pub fn command_in_pod<I, S>(&self, pod: &PodNamespaces, program: impl AsRef<OsStr>, args: I) -> io::Result<Command>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let own = |name: &str| self.pid.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/{name}")));
        let of_pod = |path: &Option<PathBuf>, name: &str| path.as_ref().map(|path| self.path(path)).or_else(|| own(name));
        let wanted = [
            (of_pod(&pod.net, "net"), CloneFlags::CLONE_NEWNET),
            (of_pod(&pod.ipc, "ipc"), CloneFlags::CLONE_NEWIPC),
            (of_pod(&pod.uts, "uts"), CloneFlags::CLONE_NEWUTS),
            (own("cgroup"), CloneFlags::CLONE_NEWCGROUP),
            (own("mnt"), CloneFlags::CLONE_NEWNS),
        ];
        let namespaces =
            wanted.into_iter().filter_map(|(path, kind)| Some((path?, kind))).map(|(path, kind)| Ok((open(&path)?, kind))).collect::<io::Result<_>>()?;
        let root = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_PATH | nix::libc::O_DIRECTORY)
            .open(&self.root)
            .map_err(|error| naming(&self.root, &error))?;
        let mut command = Command::new(program);
        command.args(args).env_clear().envs([("PATH", SEARCH_PATH), ("HOME", "/root"), ("LANG", "C.UTF-8")]);
        enter_before_exec(&mut command, Entry { namespaces, root: Some(root) });
        Ok(command)
    }

    /// Does something in the node's mount namespace, where paths are the node's, on a thread of its own. Blocks until it is done.
    ///
    /// # Errors
    /// The namespace cannot be joined, or what `work` says.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let Some(pid) = self.pid else { return work() };
        let namespace = open(&PathBuf::from(format!("/proc/{pid}/ns/mnt")))?;
        std::thread::scope(|scope| {
            let worker = scope.spawn(move || {
                // setns(2): a thread that shares its filesystem information with others cannot change its mount namespace.
                nix::sched::unshare(CloneFlags::CLONE_FS)?;
                nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNS)?;
                work()
            });
            worker.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the node's mount namespace ended abnormally")))
        })
    }

    /// A program of the agent's own image, to be run in the network namespace `netns` (a path of the node) and otherwise as the agent itself.
    ///
    /// # Errors
    /// The namespace cannot be opened.
    pub fn command_in_netns<I, S>(&self, netns: &Path, program: impl AsRef<OsStr>, args: I) -> io::Result<Command>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let namespaces = vec![(open(&self.path(netns))?, CloneFlags::CLONE_NEWNET)];
        let mut command = Command::new(program);
        command.args(args);
        enter_before_exec(&mut command, Entry { namespaces, root: None });
        Ok(command)
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::open(path).map_err(|error| naming(path, &error))
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The names in a path, `..` included, without root and `.`.
fn names(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_of_the_node_stay_inside_the_node() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::at(root.path());
        fs::create_dir_all(root.path().join("run/netns")).unwrap();
        fs::create_dir(root.path().join("var")).unwrap();
        symlink("/run", root.path().join("var/run")).unwrap();
        symlink("../../../../etc", root.path().join("run/up")).unwrap();
        symlink("loop", root.path().join("loop")).unwrap();
        assert_eq!(host.path("/var/run/netns/cni-1"), root.path().join("run/netns/cni-1"));
        assert_eq!(host.path("/var/run/up/passwd"), root.path().join("etc/passwd"));
        assert_eq!(host.path("/../../x/./y/.."), root.path().join("x"));
        assert_eq!(host.path("/proc/1/ns/net"), root.path().join("proc/1/ns/net"));
        assert!(host.path("/loop").starts_with(root.path()));
    }

    #[tokio::test]
    async fn programs_run_in_the_node_and_in_a_pods_namespaces() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root to join namespaces");
            return;
        }
        // Stands for a node: a process with namespaces of its own.
        let mut node = std::process::Command::new("unshare")
            .args(["-m", "-u", "-n", "-i", "sh", "-c", "mount -t tmpfs t /mnt && echo seen > /mnt/x && echo ready && exec sleep 60"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(node.stdout.as_mut().unwrap(), &mut ready).unwrap();
        let pid = node.id().cast_signed();
        let host = Host::of_pid(pid);
        let link = |name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().into_os_string().into_string().unwrap();
        let run = async |mut command: Command| String::from_utf8(command.output().await.unwrap().stdout).unwrap().trim().to_owned();
        assert_eq!(run(host.command("cat", ["/mnt/x"]).unwrap()).await, "seen");
        assert_eq!(fs::read_to_string(host.path("/mnt/x")).unwrap().trim(), "seen");
        assert_eq!(run(host.command("readlink", ["/proc/self/ns/net"]).unwrap()).await, link("net"));
        let own = PodNamespaces { net: Some("/proc/self/ns/net".into()), ..PodNamespaces::default() };
        assert_ne!(run(host.command_in_pod(&own, "readlink", ["/proc/self/ns/net"]).unwrap()).await, link("net"));
        assert_eq!(run(host.command_in_pod(&own, "readlink", ["/proc/self/ns/uts"]).unwrap()).await, link("uts"));
        let joined =
            run(host.command_in_netns(Path::new(&format!("/proc/{pid}/ns/net")), "readlink", ["/proc/self/ns/net", "/proc/self/ns/mnt"]).unwrap()).await;
        assert!(joined.starts_with(&link("net")) && !joined.contains(&link("mnt")), "{joined}");
        assert_eq!(run(Host::at("/").command("pwd", [""; 0]).unwrap()).await, "/");
        node.kill().unwrap();
        node.wait().unwrap();
    }
}
