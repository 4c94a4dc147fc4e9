//! What this machine must offer; all that is missing is said at once, each with its remedy.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use nix::unistd::{AccessFlags, access, geteuid};

use crate::cgroups::{Cgroups, Hierarchy};
use crate::machine::Machine;
use crate::settings::Settings;
use crate::topology::Topology;
use crate::vm::host::MEMORY;

/// Programs needed at every `up`, and the Debian package of each.
const ALWAYS: &[(&str, &str)] = &[("ip", "iproute2"), ("tar", "tar"), ("setpriv", "util-linux"), ("unshare", "util-linux"), ("mount", "mount")];
/// Programs needed only when the cache has to be filled.
const TO_BUILD: &[(&str, &str)] = &[("debootstrap", "debootstrap"), ("cc", "gcc and libc6-dev"), ("go", "golang-go (1.26 or newer)")];
/// Controllers without which no kubelet starts.
const CONTROLLERS: &[&str] = &["cpu", "cpuset", "memory", "pids"];

/// Tried in namespaces of their own, so that nothing of it stays: prints a line for each thing that does not work. `$1` is the state folder.
const TRIAL: &str = r#"
try() { why=$("$@" 2>&1 >/dev/null) || echo "$what: $remedy ($(echo "$why" | tail -n 1))"; }
what="veth devices" remedy="load the kernel module (modprobe veth)"; try ip link add trial0 type veth peer name trial1
what="bridges" remedy="load the kernel module (modprobe bridge)"; try ip link add trial2 type bridge
if command -v nft >/dev/null; then
  what="nftables" remedy="load the kernel module (modprobe nf_tables)"; try nft add table inet trial
fi
folder=$1/trial
rm -rf "$folder" && mkdir -p "$folder/upper" "$folder/work" "$folder/root"
what="overlay file system on $1" remedy="let GODWIT_LAB name a folder on ext4, xfs or btrfs, and load the kernel module (modprobe overlay)"
try mount -t overlay -o "lowerdir=/etc,upperdir=$folder/upper,workdir=$folder/work" overlay "$folder/root"
umount "$folder/root" 2>/dev/null
rm -rf "$folder"
"#;

/// What is missing.
#[derive(Debug, thiserror::Error)]
#[error("this machine cannot run the lab yet:\n  - {}", .0.join("\n  - "))]
pub struct Missing(Vec<String>);

/// Checks this machine; the error is a [`Missing`].
pub fn check(settings: &Settings, topology: &Topology, must_build: bool) -> Result<()> {
    let mut missing = Vec::new();
    let owns_all = is_initial_user_namespace(&std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default());
    if !geteuid().is_root() || !owns_all {
        let where_to = if owns_all { "" } else { ", not in a user namespace" };
        missing.push(format!("root: the lab makes namespaces, mounts and cgroups; run it as root{where_to}"));
    }
    let programs = ALWAYS.iter().chain(TO_BUILD.iter().filter(|_| must_build));
    for (program, package) in programs {
        if !is_in_path(program) {
            missing.push(format!("{program}: install the package {package}, or run scripts/bootstrap"));
        }
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|line| line.trim().ends_with("overlay")) {
        missing.push("overlay file system: load the kernel module (modprobe overlay)".to_owned());
    }
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "uts"] {
        if !Path::new("/proc/self/ns").join(name).exists() {
            missing.push(format!("{name} namespaces: this kernel was built without them"));
        }
    }
    missing.extend(cgroups());
    if topology.needs_crio() {
        match &settings.crio {
            None => missing.push("CRI-O: GODWIT_CRIO must name a folder with crio and pinns".to_owned()),
            Some(folder) => {
                for program in ["crio", "pinns"] {
                    if !folder.join(program).is_file() {
                        missing.push(format!("{program}: not in {} (GODWIT_CRIO)", folder.display()));
                    }
                }
            }
        }
    }
    let machines = topology.nodes.iter().filter(|node| node.vm.is_some()).count();
    if machines > 0 {
        missing.extend(for_virtual_machines(settings, topology, machines, must_build));
    }
    if missing.is_empty() {
        missing = trial(&settings.state);
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Missing(missing).into())
}

/// What is wrong with the cgroups.
fn cgroups() -> Vec<String> {
    let cgroups = match Cgroups::detect() {
        Ok(cgroups) => cgroups,
        Err(error) => return vec![format!("cgroups: {error:#}")],
    };
    let is_closed = |hierarchy: &&Hierarchy| geteuid().is_root() && access(&hierarchy.mount, AccessFlags::W_OK).is_err();
    let closed = cgroups.hierarchies.iter().find(is_closed);
    let mut missing: Vec<String> =
        closed.map(|hierarchy| format!("cgroups: {} is not writable; in a container, run it privileged", hierarchy.mount.display())).into_iter().collect();
    let there = cgroups.controllers();
    let absent = CONTROLLERS.iter().filter(|controller| !there.iter().any(|one| one == *controller));
    missing.extend(absent.map(|controller| format!("cgroup controller {controller}: mount it, or boot with cgroup_enable={controller}")));
    missing
}

/// What does not work when it is tried.
fn trial(state: &Path) -> Vec<String> {
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup", "--fork", "--kill-child=KILL", "--", "sh", "-c", TRIAL, "trial"])
        .arg(state)
        .stdin(Stdio::null())
        .output();
    match output {
        Err(error) => vec![format!("unshare: {error}")],
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect(),
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            vec![format!("namespaces: root may not make them here ({why}); in a container, run it privileged")]
        }
    }
}

/// Whether a process with this `/proc/self/uid_map` is in the first user namespace, where every id is itself (user_namespaces(7)).
fn is_initial_user_namespace(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// What nodes that are virtual machines need besides.
fn for_virtual_machines(settings: &Settings, topology: &Topology, machines: usize, must_build: bool) -> Vec<String> {
    let mut missing = Vec::new();
    if std::env::consts::ARCH != "x86_64" {
        missing.push(format!("x86_64: virtual machines are made of Debian's amd64 kernels, and this machine is {}", std::env::consts::ARCH));
    }
    if !Path::new("/dev/net/tun").exists() {
        missing.push("/dev/net/tun: load the kernel module (modprobe tun); virtual machines have their network from it".to_owned());
    }
    if must_build && !is_in_path("dpkg-deb") {
        missing.push("dpkg-deb: install the package dpkg; the kernels of virtual machines come as Debian packages".to_owned());
    }
    let running = topology.nodes.iter().filter(|node| node.vm.is_some() && Machine::find(settings, &node.name).is_some()).count();
    let wanted = (machines - running) as u64 * u64::from(MEMORY);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    if let Some(available) = available.map(|kilobytes| kilobytes / 1024)
        && available < wanted
    {
        missing.push(format!("memory: {wanted} MiB for {} virtual machines, and {available} MiB are available; take fewer", machines - running));
    }
    missing
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn root_of_a_user_namespace_is_not_root() {
        assert!(is_initial_user_namespace("         0          0 4294967295\n"));
        assert!(!is_initial_user_namespace("         0          0          1\n"));
        assert!(!is_initial_user_namespace("         0     100000      65536\n"));
    }

    #[test]
    fn what_cannot_be_tried_is_named_with_its_remedy() {
        let folder = std::env::temp_dir().join(format!("godwit-trial-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        // A folder that is a file: no overlay can be there.
        std::fs::write(folder.join("state"), "").unwrap();
        let missing = trial(&folder.join("state"));
        assert!(missing.len() == 1 && (missing[0].starts_with("overlay file system on ") || missing[0].starts_with("namespaces: ")), "{missing:?}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
