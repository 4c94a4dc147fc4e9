//! A migration can be cancelled in every phase, until it has committed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::migrate;
use godwit_e2e::faults::Order;
use godwit_e2e::road::Road;
use godwit_e2e::{Case, Scenario};
use serde_json::json;

pub const SCENARIO: Scenario = Scenario::new("cancel", "A migration is cancelled in any phase; the pod runs on where it was.", run);

/// A point in each phase, and whether it is too late there.
const POINTS: [(&str, bool); 9] = [
    ("controller.pending.taken-up", false),
    ("controller.planning.inspected", false),
    ("controller.preparing.pod-created", false),
    ("controller.copying.announced", false),
    ("agent.source.opened", false),
    ("agent.source.frozen", false),
    ("agent.target.restore", false),
    ("agent.target.swapped", true),
    ("controller.settling.live", true),
];
const HOLD: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(60);

fn run(case: &Case) -> Result<()> {
    let mut road = Road::start(case)?;
    for (point, late) in POINTS {
        let name = point.replace('.', "-");
        let held = road.at(point, Order::Delay(HOLD))?;
        migrate::order(&case.lab, &case.namespace, &name, &road.pod, &road.target(), &json!({}))?;
        held.wait(LIMIT)?;
        migrate::cancel(&case.lab, &case.namespace, &name)?;
        let phase = road.settled(&name).with_context(|| format!("cancelled at {point}"))?;
        let wanted: &[&str] = if late { &["Succeeded"] } else { &["Failed", "RolledBack"] };
        ensure!(wanted.contains(&phase.as_str()), "cancelled at {point} it ended as {phase}");
        if !late {
            let record = case.lab.get(&["podmigration", "-n", &case.namespace, &name])?;
            ensure!(record["status"]["failure"]["reason"] == "Cancelled", "cancelled at {point}, the reason is {}", record["status"]["failure"]);
        }
    }
    Ok(())
}
