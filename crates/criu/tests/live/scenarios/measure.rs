//! Measurements, done only when asked for.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::{Bench, ask, number, rounds, until};
use crate::pod::Pod;
use crate::transfer::{self, transfer};

/// Freeze to the end of the dump, and call to the end of the restore, both with everything that starts them.
pub fn measured(bench: &Bench) -> Result<String> {
    let Some(rounds) = rounds() else { return Ok("skipped: set GODWIT_CRIU_ROUNDS to measure".into()) };
    let (mut dumps, mut restores) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (from, to) = (Pod::new("src")?, Pod::new("dst")?);
        let mut source = bench.container(&from, "a", "runc", "shell.sh")?;
        let mut target = bench.container(&to, "a", "runc", "shell.sh")?;
        source.start()?;
        until("counting", || number(&from.path("volume/count")).filter(|count| *count > 3))?;
        let moved = transfer((&from, &source), (&to, &mut target))?;
        dumps.push(moved.dump.as_micros());
        restores.push(moved.restore.as_micros());
    }
    let text = |name: &str, times: &mut Vec<u128>| {
        times.sort_unstable();
        let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).map_or(0.0, |time| *time as f64 / 1000.0);
        format!("{name} ms min {:.1} median {:.1} p90 {:.1}", at(0), at(50), at(90))
    };
    Ok(format!("n {rounds}: {}, {}", text("dump", &mut dumps), text("restore", &mut restores)))
}

/// How often a SIGKILL of CRIU harms the container: it can, so nothing but this measurement ever does it.
pub fn killed(bench: &Bench) -> Result<String> {
    let Some(rounds) = rounds() else { return Ok("skipped: set GODWIT_CRIU_ROUNDS to measure".into()) };
    let (mut ended, mut thawed, mut dead, mut hurt) = (0, 0, 0, 0);
    let mut when = Vec::new();
    for round in 0..rounds {
        let from = Pod::new("src")?;
        let mut source = bench.container(&from, "a", "runc", "many.py")?;
        source.start()?;
        until("ready", || from.path("volume/ready").exists().then_some(()))?;
        let before = ask(&from, &source)?;
        source.freeze()?;
        let after = 2000 + round * 80_000 / rounds;
        let mut is_thawed = false;
        if transfer::killed_dump(&from, &source, Duration::from_micros(after))? {
            ended += 1;
        } else {
            is_thawed = !source.frozen()?;
            thawed += u32::from(is_thawed);
        }
        source.thaw()?;
        std::thread::sleep(Duration::from_millis(20));
        let alive = Path::new(&format!("/proc/{}/exe", source.pid)).exists();
        if !alive {
            dead += 1;
            when.push(format!("{}ms dead", after / 1000));
        } else if ask(&from, &source).ok() != Some(before) {
            hurt += 1;
            when.push(format!("{}ms hurt", after / 1000));
        } else if is_thawed {
            when.push(format!("{}ms thawed", after / 1000));
        }
    }
    Ok(format!("{rounds} dumps killed: {ended} had ended, {thawed} left the container thawed, {dead} dead, {hurt} hurt {when:?}"))
}
