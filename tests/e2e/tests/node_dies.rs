//! The target's node dies: before the commit the pod goes on at the source; after it, the pod is the target's, and starts afresh when its node is back.

use std::time::Duration;

use anyhow::{Result, ensure};
use godwit_demo::install;
use godwit_demo::migrate;
use godwit_e2e::case::{ALIVE, MINUTE};
use godwit_e2e::faults::Order;
use godwit_e2e::road::{Road, renew};
use godwit_e2e::{Case, Scenario};
use serde_json::json;

pub const SCENARIO: Scenario = Scenario::new("node-dies", "A target node that dies never makes two runners.", run).alone();

const POINTS: [&str; 4] = ["agent.source.opened", "agent.source.frozen", "agent.target.restore", "agent.target.swap"];
/// The node is held there when it dies.
const HOLD: Duration = Duration::from_secs(20);
const REBOOT: Duration = Duration::from_secs(120);

fn run(case: &Case) -> Result<()> {
    let mut road = Road::start(case)?;
    for point in POINTS {
        let (target, name) = (road.target(), point.replace('.', "-"));
        let held = if point.starts_with("agent.source") { road.at(point, Order::Delay(Duration::from_secs(4)))? } else { road.at(point, Order::Delay(HOLD))? };
        migrate::order(&case.lab, &case.namespace, &name, &road.pod, &target, &json!({"deadlineSeconds": 30}))?;
        held.wait(MINUTE)?;
        case.lab.command(&["node", "kill", &target], MINUTE)?;
        // The node that owns the pod is alive: it must go on without the other one coming back.
        road.witness.wait_for_ticks(ALIVE, Duration::from_secs(90))?;
        case.lab.command(&["node", "start", &target], REBOOT)?;
        install::wait_ready(&case.lab)?;
        let phase = road.settled(&name)?;
        ensure!(phase == "RolledBack" || phase == "Failed", "the target died at {point}, and it ended as {phase}");
        renew(road.case)?;
    }
    Ok(())
}
