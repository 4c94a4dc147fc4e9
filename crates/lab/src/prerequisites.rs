//! What this machine must offer; all that is missing is said at once, each with its remedy.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use nix::unistd::{AccessFlags, access, geteuid};

use crate::cgroups::{Cgroups, Hierarchy};
use crate::settings::Settings;
use crate::topology::Topology;

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

/// Checks this machine.
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
    if missing.is_empty() {
        missing = trial(&settings.state);
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine cannot run the lab yet:\n  - {}", missing.join("\n  - "))
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
