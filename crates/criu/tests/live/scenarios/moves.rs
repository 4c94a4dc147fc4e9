//! Containers that move, by what is in them.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::{Bench, ask, number, times, until};
use crate::pod::Pod;
use crate::transfer::{self, transfer};

pub fn shell(bench: &Bench, runtime: &str) -> Result<String> {
    let (from, to) = (Pod::new("src")?, Pod::new("dst")?);
    let mut source = bench.container(&from, "a", runtime, "shell.sh")?;
    let mut target = bench.container(&to, "a", "runc", "shell.sh")?;
    source.start()?;
    until("counting", || number(&from.path("volume/count")).filter(|count| *count > 3))?;
    let moved = transfer((&from, &source), (&to, &mut target))?;
    let last = number(&from.path("volume/count")).context("no count")?;
    until("counting on", || number(&to.path("volume/count")).filter(|count| *count > last + 3))?;
    ensure!(number(&from.path("volume/count")) == Some(last), "the source ran on");
    let output = target.output()?;
    ensure!(output.lines().count() > 2 && !output.contains("line 1\n"), "output goes elsewhere: {output:?}");
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", target.pid))?;
    ensure!(cgroups.contains(&target.cgroup), "not in its cgroup: {cgroups}");
    for kind in ["net", "ipc", "uts"] {
        let own = fs::metadata(format!("/proc/{}/ns/{kind}", target.pid))?;
        ensure!(std::os::unix::fs::MetadataExt::ino(&own) == std::os::unix::fs::MetadataExt::ino(&fs::metadata(to.path(kind))?), "{kind} is not the pod's");
    }
    ensure!(target.exec(&["cat", "/etc/hostname"])? == "dst\n", "exec");
    Ok(times(&moved))
}

pub fn everything(bench: &Bench, runtime: &str) -> Result<String> {
    let (from, to) = (Pod::new("src")?, Pod::new("dst")?);
    let mut source = bench.container(&from, "a", runtime, "many.py")?;
    let mut target = bench.container(&to, "a", "runc", "many.py")?;
    source.start()?;
    until("ready", || from.path("volume/ready").exists().then_some(())).with_context(|| source.output().unwrap_or_default())?;
    let before = ask(&from, &source)?;
    let moved = transfer((&from, &source), (&to, &mut target))?;
    let after = ask(&to, &target)?;
    ensure!(before == after, "before {before}\nafter  {after}");
    Ok(times(&moved))
}

/// Two containers of a pod, dumped and restored in parallel, with a TCP connection between them.
pub fn loopback(bench: &Bench) -> Result<String> {
    let (from, to) = (Pod::new("src")?, Pod::new("dst")?);
    let mut sources = [bench.container(&from, "s", "runc", "server.py")?, bench.container(&from, "c", "crun", "client.py")?];
    let mut targets = [bench.container(&to, "s", "runc", "server.py")?, bench.container(&to, "c", "runc", "client.py")?];
    for source in &mut sources {
        source.start()?;
    }
    until("echoes", || number(&from.path("volume/echoes")).filter(|echoes| *echoes > 20))?;
    let prepared = [transfer::prepare(&transfer::plan(&sources[0])?, &targets[0])?, transfer::prepare(&transfer::plan(&sources[1])?, &targets[1])?];
    for target in &targets {
        transfer::shut(target)?;
    }
    for source in &sources {
        source.freeze()?;
    }
    let start = Instant::now();
    let dumps: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = sources.iter().map(|source| scope.spawn(|| transfer::dump(&from, source))).collect();
        handles.into_iter().map(|handle| handle.join()).collect()
    });
    let dumped = start.elapsed();
    let mut images = Vec::new();
    for dump in dumps {
        images.push(dump.map_err(|_| anyhow::anyhow!("panic"))??.images);
    }
    for (source, target) in sources.iter().zip(&targets) {
        transfer::copy((&from, source), (&to, target))?;
    }
    let last = number(&from.path("volume/echoes")).context("no echoes")?;
    let start = Instant::now();
    let bundles: Vec<_> = targets.iter().map(|target| target.bundle.clone()).collect();
    let (restores, waited) = std::thread::scope(|scope| {
        let handles: Vec<_> = targets.iter_mut().zip(&images).map(|(target, images)| scope.spawn(|| transfer::restore(&to, target, images))).collect();
        // A connection is whole only when both ends are there: nobody runs before.
        let waited = until("both at the gate", || bundles.iter().all(|bundle| transfer::is_restored(bundle)).then_some(()));
        let opened: Result<Vec<()>> = bundles.iter().map(|bundle| transfer::open(bundle)).collect();
        (handles.into_iter().map(|handle| handle.join()).collect::<Vec<_>>(), waited.and(opened))
    });
    waited?;
    for restore in restores {
        restore.map_err(|_| anyhow::anyhow!("panic"))??;
    }
    let restored = start.elapsed();
    for prepared in prepared {
        prepared.unmake()?;
    }
    until("echoes at the target", || number(&to.path("volume/echoes")).filter(|echoes| *echoes > last + 20))?;
    ensure!(!to.path("volume/error").exists(), "the connection broke: {}", fs::read_to_string(to.path("volume/error"))?);
    Ok(format!("both dumped in {} ms, restored in {} ms", dumped.as_millis(), restored.as_millis()))
}
