//! What keeps the source still.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::{Bench, until};
use crate::pod::Pod;
use crate::transfer::{self};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(0))
}

/// No instruction of the application runs between the freeze and the thaw, whatever CRIU does meanwhile.
pub fn sealed(bench: &Bench) -> Result<String> {
    let from = Pod::new("src")?;
    let mut source = bench.container(&from, "a", "runc", "clock.py")?;
    source.start()?;
    until("ready", || from.path("volume/ready").exists().then_some(()))?;
    let stamps = || -> Result<Vec<u64>> {
        let bytes = fs::read(from.path("volume/clock"))?;
        Ok(bytes.chunks_exact(8).take(4).map(|chunk| chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))).collect())
    };
    let mut slowest = Duration::ZERO;
    for round in 0..25 {
        std::thread::sleep(Duration::from_millis(30));
        source.freeze()?;
        let sealed = now();
        let dumped = transfer::dump(&from, &source)?;
        slowest = slowest.max(dumped.took);
        std::thread::sleep(Duration::from_millis(10));
        let last = stamps()?.into_iter().max().unwrap_or(0);
        ensure!(last <= sealed, "round {round}: an instruction ran {} us after the freeze", (last - sealed) / 1000);
        ensure!(source.frozen()?, "not frozen after the dump");
        source.thaw()?;
        until("running again", || stamps().ok().filter(|stamps| stamps.iter().all(|stamp| *stamp > sealed)))?;
    }
    // A dump that fails keeps the seal too.
    source.freeze()?;
    let sealed = now();
    let failed = transfer::dump_with(&from, &source, &["--external", "net[1"]);
    let refused = transfer::dump_with(&from, &source, &["--lsm-profile", "apparmor:none"]);
    std::thread::sleep(Duration::from_millis(10));
    let last = stamps()?.into_iter().max().unwrap_or(0);
    ensure!(last <= sealed && source.frozen()?, "a failed dump broke the seal");
    source.thaw()?;
    until("running again", || stamps().ok().filter(|stamps| stamps.iter().all(|stamp| *stamp > sealed)))?;
    Ok(format!("25 dumps, slowest {} ms; odd options refused: {} {}", slowest.as_millis(), failed.is_err(), refused.is_err()))
}

/// CRIU runs outside the cgroup of whoever started it, and is found again.
pub fn shielded(bench: &Bench) -> Result<String> {
    let words = godwit_criu::shield::command(&["sleep".to_owned(), "1000".into()]);
    let mut child = std::process::Command::new(&words[0]).args(&words[1..]).spawn()?;
    let pid = i32::try_from(child.id())?;
    let cgroups = Path::new("/sys/fs/cgroup");
    let found = until("the move", || {
        let running = godwit_criu::shield::running(cgroups).ok()?;
        let named = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (running == [pid] && named == "sleep\n").then_some(())
    });
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    child.kill()?;
    child.wait()?;
    found.with_context(|| lines.clone())?;
    ensure!(godwit_criu::shield::running(cgroups)?.is_empty(), "still listed");
    let group = if bench.v2 { "0::/godwit" } else { ":freezer:/godwit" };
    ensure!(lines.contains(group), "{lines}");
    Ok(String::new())
}
