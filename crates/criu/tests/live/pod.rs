//! A pod's sandbox: namespaces held by bind mounts, and the files that a kubelet gives to its containers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::node::{run, tmpfs};

/// The address that every sandbox has, so that connections survive.
pub const ADDRESS: &str = "10.77.0.2";

/// A sandbox.
pub struct Pod {
    pub name: String,
    pub directory: PathBuf,
}

impl Pod {
    pub fn new(name: &str) -> Result<Self> {
        let directory = Path::new("/run/pods").join(name);
        for part in ["volume", "token", "shm"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let pod = Self { name: name.into(), directory };
        tmpfs(&pod.path("shm"), "size=64m")?;
        for kind in ["net", "ipc", "uts"] {
            fs::write(pod.path(kind), "")?;
            run(&["unshare", &format!("--{kind}"), "sh", "-c", &format!("mount --bind /proc/self/ns/{kind} {}", pod.text(kind))])?;
        }
        pod.inside(&["ip", "link", "set", "lo", "up"])?;
        pod.inside(&["ip", "addr", "add", &format!("{ADDRESS}/32"), "dev", "lo"])?;
        pod.inside(&["hostname", name])?;
        fs::write(pod.path("hosts"), format!("127.0.0.1 localhost\n{ADDRESS} {name}\n"))?;
        fs::write(pod.path("hostname"), format!("{name}\n"))?;
        fs::write(pod.path("resolv.conf"), "nameserver 10.96.0.10\n")?;
        fs::write(pod.path("token/token"), format!("token of {name}"))?;
        Ok(pod)
    }

    pub fn path(&self, part: &str) -> PathBuf {
        self.directory.join(part)
    }

    pub fn text(&self, part: &str) -> String {
        self.path(part).to_string_lossy().into_owned()
    }

    /// Words in front of a command that is to run in the pod's network, IPC and UTS namespaces.
    pub fn join(&self) -> Vec<String> {
        let mut words = vec!["nsenter".to_owned()];
        words.extend(["net", "ipc", "uts"].map(|kind| format!("--{kind}={}", self.text(kind))));
        words
    }

    pub fn inside(&self, command: &[&str]) -> Result<String> {
        let mut words = self.join();
        words.extend(command.iter().map(|word| (*word).to_owned()));
        run(&words)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for part in ["net", "ipc", "uts", "shm"] {
            let _ = rustix::mount::unmount(self.path(part), rustix::mount::UnmountFlags::DETACH);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
