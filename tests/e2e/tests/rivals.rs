//! Two migrations of one pod at once: one moves it, the other is refused or waits its turn; and a deadline that passes on the way is taken back.

use std::time::Duration;

use anyhow::{Result, ensure};
use godwit_demo::migrate;
use godwit_e2e::faults::Order;
use godwit_e2e::road::Road;
use godwit_e2e::{Case, Scenario};
use serde_json::json;

pub const SCENARIO: Scenario = Scenario::new("rivals", "Two migrations of one pod meet in one arbiter; a deadline is kept.", run);

const LIMIT: Duration = Duration::from_secs(60);

fn run(case: &Case) -> Result<()> {
    let mut road = Road::start(case)?;
    two_at_once(case, &mut road)?;
    deadline(case, &mut road)
}

fn two_at_once(case: &Case, road: &mut Road<'_>) -> Result<()> {
    let (pod, target) = (road.pod.clone(), road.target());
    for name in ["first", "second"] {
        migrate::order(&case.lab, &case.namespace, name, &pod, &target, &json!({}))?;
    }
    let mut phases = Vec::new();
    for name in ["first", "second"] {
        let record = migrate::wait_final(&case.lab, &case.namespace, name)?;
        phases.push((name, migrate::phase(&record).to_owned(), record["status"]["failure"]["reason"].clone()));
    }
    let winners: Vec<&str> = phases.iter().filter(|(_, phase, _)| phase == "Succeeded").map(|(name, _, _)| *name).collect();
    ensure!(winners.len() == 1, "not one of the two moved it: {phases:?}");
    let reason = phases.iter().find(|(_, phase, _)| phase != "Succeeded").map(|(_, _, reason)| reason.clone()).unwrap_or_default();
    ensure!(reason == "AlreadyMigrating" || reason == "PodNotFound" || reason == "PodNotRunning", "the other ended by {reason}");
    road.settled(winners.first().copied().unwrap_or_default()).map(drop)
}

/// Copying takes longer than the deadline allows.
fn deadline(case: &Case, road: &mut Road<'_>) -> Result<()> {
    for (point, name) in [("agent.source.opened", "late-before"), ("agent.source.frozen", "late-within")] {
        let held = road.at(point, Order::Delay(Duration::from_secs(20)))?;
        migrate::order(&case.lab, &case.namespace, name, &road.pod, &road.target(), &json!({"deadlineSeconds": 15}))?;
        held.wait(LIMIT)?;
        let phase = road.settled(name)?;
        ensure!(phase == "RolledBack" || phase == "Failed", "with a deadline of 15 s and 20 s at {point} it ended as {phase}");
        let record = case.lab.get(&["podmigration", "-n", &case.namespace, name])?;
        ensure!(record["status"]["failure"]["reason"] == "DeadlineExceeded", "the reason is {}", record["status"]["failure"]);
    }
    Ok(())
}
