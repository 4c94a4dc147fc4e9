//! The controller is killed at every point of the road, on the way there and on the way back, for bare pods and for pods of a Deployment.

use anyhow::{Context, Result, bail, ensure};
use godwit_demo::shell;
use godwit_e2e::case::MINUTE;
use godwit_e2e::faults::Order;
use godwit_e2e::road::{Road, renew};
use godwit_e2e::{Case, Scenario};

use crate::agents_crash::every_point;

pub const SCENARIO: Scenario = Scenario::new("controller-crash", "A controller killed at any point is continued by another.", run).alone().once();

/// Only a pod of a ReplicaSet passes these.
const OWNED: [&str; 2] = ["controller.settling.cost", "controller.settling.adopted"];
/// Only a pod with connections passes these: `anchor-crash`.
const ANCHORED: [&str; 5] =
    ["controller.settling.shared", "controller.settling.anchored", "controller.settling.emptied", "controller.anchored.ended", "controller.anchored.gone"];
/// Only a migration that waits for others passes this.
const HELD: &str = "controller.pending.held";
/// Passed only while memory comes after the switch.
const FILLING: &str = "controller.settling.filling";
/// What is passed when a migration is taken back.
const UNDO: &str = "controller.undo.";
/// What a failure before the switch passes; one in the switch is written down with its outcome.
const WRITTEN: &str = "controller.undo.written";

fn run(case: &Case) -> Result<()> {
    let listed = shell::run("godwit-controller", &["fault-points"], None, MINUTE)?.success()?;
    let all: Vec<&str> = listed.split_whitespace().collect();
    ensure!(all.len() > 10, "the controller names its fault points so: {listed}");
    let undo: Vec<&str> = all.iter().copied().filter(|point| point.starts_with(UNDO)).collect();
    let plain: Vec<&str> = all
        .iter()
        .copied()
        .filter(|point| !point.starts_with(UNDO) && !OWNED.contains(point) && !ANCHORED.contains(point) && ![HELD, FILLING].contains(point))
        .collect();
    let mut failures = Vec::new();
    failures.extend(every_point(case, &plain, &[], Order::Crash, |_, _| Ok(())).err());
    failures.extend(while_undone(case, &undo).err());
    failures.extend(owned(case).err());
    let told: Vec<String> = failures.iter().map(|error| format!("{error:#}")).collect();
    if !told.is_empty() {
        bail!("{}", told.join("\n"));
    }
    Ok(())
}

/// A migration is taken back while the controller is killed: before the switch, because its target is cordoned, and in it, because the dump fails.
fn while_undone(case: &Case, points: &[&str]) -> Result<()> {
    case.lab.kubectl(&["delete", "podmigrations,pods", "--all", "-n", &case.namespace, "--timeout=55s"])?;
    let mut road = Road::start(case)?;
    for point in points {
        let crossed = if *point == WRITTEN { cordoned(case, &mut road, point) } else { failing(&mut road, point) };
        crossed.with_context(|| format!("at {point}"))?;
        renew(road.case)?;
    }
    Ok(())
}

fn cordoned(case: &Case, road: &mut Road<'_>, point: &str) -> Result<()> {
    let target = road.target();
    case.lab.kubectl(&["cordon", &target])?;
    let moved = road.cross(point, Order::Crash);
    case.lab.kubectl(&["uncordon", &target])?;
    moved?.refused("NodeUnschedulable").map(drop)
}

fn failing(road: &mut Road<'_>, point: &str) -> Result<()> {
    let dump = road.at("agent.source.frozen", Order::Fail)?;
    let moved = road.cross(point, Order::Crash)?;
    ensure!(dump.fired()?, "nobody passed agent.source.frozen");
    moved.taken_back().map(drop)
}

fn owned(case: &Case) -> Result<()> {
    case.lab.kubectl(&["delete", "podmigrations,pods", "--all", "-n", &case.namespace, "--timeout=55s"])?;
    let mut road = Road::start_owned(case)?;
    for point in OWNED {
        road.cross(point, Order::Crash).with_context(|| format!("at {point}"))?.moved()?;
        renew(road.case)?;
    }
    Ok(())
}
