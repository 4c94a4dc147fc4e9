//! `kubectl migrate POD --to NODE` moves a bare pod, there and back: one process, one line of history.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::migrate::{migrate_with, phase};
use godwit_demo::pods;
use godwit_e2e::case::{ALIVE, MINUTE};
use godwit_e2e::{Case, OnMachines, Scenario};

pub const SCENARIO: Scenario =
    Scenario::new("bare-pod", "A pod moves to another node and back, and goes on where it was.", run).each_class().machines(OnMachines::Always);

/// A freeze of a small pod that is far beyond what it should be, even on a busy machine.
const ABSURD: Duration = Duration::from_secs(10);

fn run(case: &Case) -> Result<()> {
    let (witness, mut pod) = case.start_pulse("counter")?;
    for _ in 0..2 {
        let before = witness.wait_for_ticks(ALIVE, MINUTE)?;
        pod = case.move_over(&pod)?;
        witness.wait_for_ticks(ALIVE, MINUTE)?;
        witness.exactly_one_runner()?;
        let gap = witness.longest_gap_after(before.n);
        case.note(format!("the process saw {} ms", gap.as_millis()));
        ensure!(gap < if case.pair.vm { ABSURD * 10 } else { ABSURD }, "the process stood still for {} ms", gap.as_millis());
    }
    json(case, &pod)?;
    witness.wait_for_ticks(ALIVE, MINUTE)?;
    witness.exactly_one_runner().map(drop)
}

/// `-o json` prints the finished record.
fn json(case: &Case, pod: &str) -> Result<()> {
    let node = case.pair.b.clone();
    let moved = migrate_with(&case.lab, &case.namespace, &[pod, "--to", &node, "-o", "json"])?.moved()?;
    let printed: serde_json::Value = serde_json::from_str(&moved.output.stdout).context("-o json printed something else")?;
    ensure!(phase(&printed) == "Succeeded", "the printed record's phase is {}", phase(&printed));
    ensure!(printed["status"]["timeline"].as_array().is_some_and(|steps| steps.len() >= 5), "the timeline is short: {}", printed["status"]["timeline"]);
    let now = case.ready(&moved.target_pod()?)?;
    ensure!(pods::node(&now) == node, "it is on {}", pods::node(&now));
    Ok(())
}
