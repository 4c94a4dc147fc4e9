//! A pod that is deleted while it moves is deleted: nothing of it runs in the end, and never two.

use std::time::Duration;

use anyhow::{Context, Result};
use godwit_demo::shell::wait_until;
use godwit_demo::{migrate, pods};
use godwit_e2e::case::MINUTE;
use godwit_e2e::faults::Order;
use godwit_e2e::road::Road;
use godwit_e2e::{Case, Scenario};
use serde_json::json;

pub const SCENARIO: Scenario = Scenario::new("pod-deleted", "A pod deleted while it moves is gone, or has moved; never two.", run);

const POINTS: [&str; 6] = [
    "controller.planning.inspected",
    "controller.preparing.pod-created",
    "agent.source.opened",
    "agent.source.frozen",
    "agent.target.restore",
    "agent.target.swapped",
];

fn run(case: &Case) -> Result<()> {
    for point in POINTS {
        once(case, point).with_context(|| format!("deleted at {point}"))?;
    }
    Ok(())
}

fn once(case: &Case, point: &str) -> Result<()> {
    let road = Road::start(case)?;
    let name = point.replace('.', "-");
    let held = road.at(point, Order::Delay(Duration::from_secs(3)))?;
    migrate::order(&case.lab, &case.namespace, &name, &road.pod, &road.target(), &json!({}))?;
    held.wait(MINUTE)?;
    case.lab.kubectl(&["delete", "pod", "-n", &case.namespace, &road.pod, "--wait=false"])?;
    let record = migrate::wait_final(&case.lab, &case.namespace, &name)?;
    pods::wait_gone(&case.lab, &case.namespace, &road.pod, MINUTE)?;
    if migrate::phase(&record) == "Succeeded" {
        // It had committed: what was deleted was the source, whose time was over.
        let target = record["status"]["targetPod"].as_str().context("no target pod in the record")?.to_owned();
        case.ready(&target)?;
        road.witness.wait_for_ticks(20, MINUTE)?;
        case.lab.kubectl(&["delete", "pod", "-n", &case.namespace, &target])?;
    }
    wait_until("no pod left", MINUTE, || Ok(pods::all(&case.lab, &case.namespace)?.is_empty().then_some(())))?;
    road.witness.expect_silence(Duration::from_secs(1))?;
    road.witness.exactly_one_runner().map(drop)
}
