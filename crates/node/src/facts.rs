//! What a node is: what must match, or suffice, where a pod is to go.

use std::fs;
use std::io;
use std::path::Path;

use crate::Host;
use crate::cgroup::Version;

/// A node's facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// As in `uname -m`.
    pub architecture: String,
    /// As in `uname -r`.
    pub kernel: String,
    /// Features of the CPU as the kernel lists them, sorted.
    pub cpu_flags: Vec<String>,
    /// Version of the node's CRIU, such as `4.2`; none when it has none.
    pub criu: Option<String>,
    /// Which cgroup hierarchy freezes containers.
    pub cgroup: Version,
    /// Changes with every boot.
    pub boot_id: String,
    /// Free bytes of the node's /run.
    pub run_free: u64,
    /// Bytes of memory that can be had without swapping.
    pub memory_available: u64,
}

/// Looks at the node. What cannot be found is empty or zero.
pub async fn gather(host: &Host) -> Facts {
    let name = rustix::system::uname();
    Facts {
        architecture: name.machine().to_string_lossy().into_owned(),
        kernel: name.release().to_string_lossy().into_owned(),
        cpu_flags: cpu_flags(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        criu: criu(host).await,
        cgroup: cgroup_version(host),
        boot_id: boot_id().unwrap_or_default(),
        run_free: free(&host.path("/run")).unwrap_or_default(),
        memory_available: memory_available(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
    }
}

/// The id of this boot.
///
/// # Errors
/// /proc cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Bytes that root may still write in the filesystem of a directory.
///
/// # Errors
/// The directory does not exist.
pub fn free(directory: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(directory)?;
    Ok(stat.f_bfree.saturating_mul(stat.f_frsize))
}

async fn criu(host: &Host) -> Option<String> {
    let output = host.command("criu", ["--version"]).ok()?.output().await.ok()?;
    version(&String::from_utf8_lossy(&output.stdout))
}

/// `Version: 4.2` on a line of its own.
fn version(output: &str) -> Option<String> {
    output.lines().find_map(|line| Some(line.strip_prefix("Version:")?.trim().to_owned()))
}

/// The line is called `flags` on x86 and `Features` on Arm.
fn cpu_flags(cpuinfo: &str) -> Vec<String> {
    let line = cpuinfo.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| matches!(name.trim(), "flags" | "Features"));
    let mut flags: Vec<String> = line.map(|(_, flags)| flags.split_whitespace().map(str::to_owned).collect()).unwrap_or_default();
    flags.sort();
    flags
}

fn memory_available(meminfo: &str) -> u64 {
    let kilobytes = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or_default().saturating_mul(1024)
}

fn cgroup_version(host: &Host) -> Version {
    let mounts = crate::mounts::of(&host.proc_of_init()).unwrap_or_default();
    let freezer = mounts.iter().any(|mount| mount.kind == "cgroup" && mount.options.iter().any(|option| option == "freezer"));
    if freezer { Version::V1 } else { Version::V2 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn this_machine_has_facts() {
        let facts = gather(&Host::at("/")).await;
        println!("{facts:?}");
        assert!(!facts.architecture.is_empty() && !facts.kernel.is_empty() && facts.boot_id.len() == 36);
        assert!(facts.run_free > 0 && facts.memory_available > 0 && !facts.cpu_flags.is_empty());
    }

    #[test]
    fn texts_are_read() {
        assert_eq!(version("Version: 4.2\nGitID: v4.2\n"), Some("4.2".to_owned()));
        assert_eq!(version("criu: not found"), None);
        assert_eq!(cpu_flags("processor\t: 0\nflags\t\t: sse avx\nflags\t\t: x\n"), ["avx", "sse"]);
        assert_eq!(memory_available("MemTotal: 9 kB\nMemAvailable:    2 kB\n"), 2048);
    }
}
