//! The new pod is deleted by force while it waits at its gate: its keeper and its CRIU are killed, and no word of that reaches anybody. The pod goes on at the source.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::migrate;
use godwit_demo::shell::wait_until;
use godwit_e2e::case::MINUTE;
use godwit_e2e::faults::Order;
use godwit_e2e::road::Road;
use godwit_e2e::{Case, Scenario};
use serde_json::json;

pub const SCENARIO: Scenario = Scenario::new("target-killed", "A new pod that is killed before it runs leaves the old one running.", run);

/// Up to the last moment before the gate is opened.
const POINTS: [&str; 5] = ["agent.target.restore", "agent.target.verify", "agent.target.swap", "agent.target.swapped", "agent.target.gate"];
/// The target is held there while its pod is killed.
const HOLD: Duration = Duration::from_secs(5);
/// Long enough that only the loss itself can end the migration so soon.
const DEADLINE: u32 = 120;
const SOON: Duration = Duration::from_secs(45);

fn run(case: &Case) -> Result<()> {
    let mut road = Road::start(case)?;
    for point in POINTS {
        let name = point.replace('.', "-");
        let held = road.at(point, Order::Delay(HOLD))?;
        migrate::order(&case.lab, &case.namespace, &name, &road.pod, &road.target(), &json!({"deadlineSeconds": DEADLINE}))?;
        held.wait(MINUTE)?;
        let record = case.lab.get(&["podmigration", "-n", &case.namespace, &name])?;
        let target = record["status"]["targetPod"].as_str().context("no target pod in the record")?;
        case.lab.kubectl(&["delete", "pod", "-n", &case.namespace, target, "--force", "--grace-period=0", "--wait=false"])?;
        wait_until("the end of the migration", SOON, || {
            let record = case.lab.get(&["podmigration", "-n", &case.namespace, &name])?;
            Ok(matches!(migrate::phase(&record), "Succeeded" | "RolledBack" | "Failed").then_some(()))
        })
        .with_context(|| format!("killed at {point}"))?;
        let phase = road.settled(&name).with_context(|| format!("killed at {point}"))?;
        ensure!(phase == "RolledBack" || phase == "Failed", "the new pod was killed at {point}, and the migration ended as {phase}");
        drop(held);
    }
    Ok(())
}
