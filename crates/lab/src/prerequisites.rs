//! What this machine must offer; all that is missing is said at once, each with its remedy.

use std::path::Path;

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::settings::Settings;
use crate::topology::Topology;

/// Programs needed at every `up`, and the Debian package of each.
const ALWAYS: &[(&str, &str)] = &[("ip", "iproute2"), ("tar", "tar")];
/// Programs needed only when the cache has to be filled.
const TO_BUILD: &[(&str, &str)] = &[("debootstrap", "debootstrap"), ("cc", "gcc and libc6-dev"), ("go", "golang-go (1.26 or newer)")];

/// Checks this machine.
pub fn check(settings: &Settings, topology: &Topology, must_build: bool) -> Result<()> {
    let mut missing = Vec::new();
    if !geteuid().is_root() {
        missing.push("root: the lab makes namespaces, mounts and cgroups; run it as root".to_owned());
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
        return Ok(());
    }
    bail!("this machine cannot run the lab yet:\n  - {}", missing.join("\n  - "))
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
