//! The mount table at the target.

use std::fs;

use anyhow::{Result, ensure};

use super::{Bench, number, times, until};
use crate::container::Container;
use crate::pod::Pod;
use crate::transfer::transfer;

/// The mount table after the move is that of a container made by the runtime: same flags, own cgroup, nothing of the node.
pub fn mounts(bench: &Bench) -> Result<String> {
    let (from, to) = (Pod::new("src")?, Pod::new("dst")?);
    let mut source = bench.container(&from, "a", "runc", "shell.sh")?;
    let mut target = bench.container(&to, "a", "runc", "shell.sh")?;
    let mut fresh = bench.container(&to, "b", "runc", "shell.sh")?;
    source.start()?;
    fresh.start()?;
    until("counting", || number(&from.path("volume/count")).filter(|count| *count > 3))?;
    let moved = transfer((&from, &source), (&to, &mut target))?;
    ensure!(moved.prepared.warnings.is_empty(), "{:?}", moved.prepared.warnings);
    let (expected, found) = (table(&fresh)?, table(&target)?);
    ensure!(expected == found, "expected {expected:#?}\nfound {found:#?}");
    for path in ["/data-again/x", "/data-read-only/x", "/var/run/secrets/kubernetes.io/serviceaccount/x", "/proc/acpi/x", "/sys/firmware/x"] {
        ensure!(target.exec(&["touch", path]).is_err(), "{path} can be written");
    }
    let procs = if bench.v2 { "/sys/fs/cgroup/cgroup.procs" } else { "/sys/fs/cgroup/freezer/cgroup.procs" };
    let inside = target.exec(&["cat", procs])?;
    ensure!(inside.lines().any(|pid| pid == "1"), "the container sees another cgroup: {inside:?}");
    if bench.v2 {
        let seen = target.exec(&["cat", "/proc/1/cgroup"])?;
        ensure!(seen.lines().any(|line| line == "0::/"), "no cgroup namespace: {seen:?}");
    }
    ensure!(target.exec(&["cat", "/proc/keys"])?.is_empty(), "mask");
    ensure!(target.exec(&["cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"])? == "token of dst", "token");
    let mounted = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounted.contains("/run/scratch"), "scratch mounts stay");
    Ok(times(&moved))
}

/// Path, flags and type of every mount but atime options.
fn table(container: &Container) -> Result<std::collections::BTreeSet<String>> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let kind = words.iter().position(|word| *word == "-").and_then(|dash| words.get(dash + 1))?;
            let flags: Vec<&str> = words[5].split(',').filter(|flag| !flag.ends_with("atime")).collect();
            Some(format!("{} {} {kind}", words[4], flags.join(",")))
        })
        .collect())
}
