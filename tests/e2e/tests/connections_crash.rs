//! Agents and controller are killed, or a step fails, while a connection lives on: it does, on whichever side the pod is in the end.

use anyhow::{Context, Result, ensure};
use godwit_demo::migrate;
use godwit_demo::pods;
use godwit_demo::talker::Asker;
use godwit_e2e::contract::{Driver, Stage, address, all_retired};
use godwit_e2e::faults::Order;
use godwit_e2e::road::{renew, replace};
use godwit_e2e::{Case, Scenario};

pub const AGENTS: Scenario =
    Scenario::new("anchor-crash", "A connection lives on whatever agent is killed or step fails meanwhile; when it is taken back, at the source.", agents);
pub const CONTROLLER: Scenario = Scenario::new(
    "anchor-controller-crash",
    "A connection lives on when the controller is killed while the old pod becomes an anchor, and when it ends.",
    controller,
)
.alone()
.once();

/// What happens where. What fails before the commit is taken back.
const OF_AGENTS: [(&str, Order); 9] = [
    ("agent.source.frozen", Order::Fail),
    ("agent.target.restore", Order::Fail),
    ("agent.target.anchored", Order::Crash),
    ("agent.source.frozen", Order::Crash),
    ("agent.source.sealed", Order::Crash),
    ("agent.target.verify", Order::Crash),
    ("agent.target.swapped", Order::Crash),
    ("agent.target.gate", Order::Crash),
    ("agent.target.running", Order::Crash),
];
const OF_CONTROLLER: [(&str, Order); 4] = [
    ("controller.settling.shared", Order::Crash),
    ("controller.settling.anchored", Order::Crash),
    ("controller.settling.emptied", Order::Crash),
    ("controller.switching.outcome", Order::Crash),
];

fn agents(case: &Case) -> Result<()> {
    agents_by(case, Driver::Anchor)
}

/// See [`AGENTS`].
pub fn agents_by(case: &Case, driver: Driver) -> Result<()> {
    let (pod, asker) = cross_all(case, driver, &OF_AGENTS, 2, 3)?;
    drop(asker);
    all_retired(case, &pod)
}

fn controller(case: &Case) -> Result<()> {
    let (pod, asker) = cross_all(case, Driver::Anchor, &OF_CONTROLLER, 0, 4)?;
    let faults = ["controller.anchored.ended", "controller.anchored.gone"].map(|point| case.fault_of_controller(point, Order::Crash));
    drop(asker);
    all_retired(case, &pod)?;
    for fault in faults {
        ensure!(fault?.fired()?, "no anchor was retired while the controller was killed");
    }
    renew(case)
}

/// Crosses all points, at least so many times taken back and moved, and then restarts the agents. Returns the pod that runs then, and the connection.
fn cross_all(case: &Case, driver: Driver, faults: &[(&str, Order)], least_back: usize, least_moved: usize) -> Result<(String, Asker)> {
    let stage = Stage::set(case)?;
    let (mut pod, mut asker) = (stage.pod.clone(), Asker::new(stage.server)?);
    let (mut moved, mut back) = (0, Vec::new());
    for (point, order) in faults {
        match cross(case, driver, &pod, point, *order, &mut asker).with_context(|| format!("{order:?} at {point}"))? {
            Crossed::Moved(to) => (pod, moved) = (to, moved + 1),
            Crossed::Back(why) => back.push(format!("{point}: {why}")),
        }
    }
    case.note(format!("{moved} times moved, {} times taken back", back.len()));
    ensure!(
        back.len() >= least_back && moved >= least_moved,
        "only {moved} times moved, and {} times taken back ({}); it must be {least_moved} and {least_back}",
        back.len(),
        back.join("; ")
    );
    replace(case, |pod| pods::name(pod).contains("agent"))?;
    asker.ask().context("after a restart of the agents")?;
    Ok((pod, asker))
}

/// Where the pod is in the end.
enum Crossed {
    /// The new pod's name.
    Moved(String),
    /// What the record says.
    Back(String),
}

fn cross(case: &Case, driver: Driver, pod: &str, point: &str, order: Order, asker: &mut Asker) -> Result<Crossed> {
    let node = pods::node(&case.pod(pod)?).to_owned();
    let target = case.pair.other(&node).to_owned();
    // An anchor is begun only for an address that a connection uses, and the pod has had several by now.
    let here = if point.starts_with("controller.") { Some(Asker::new(address(case, pod)?)?) } else { None };
    let fault = case.fault_on_way(&node, point, order)?;
    let ended = migrate::migrate_with(&case.lab, &case.namespace, &[pod, "--to", &target, "--network", driver.option()])?;
    ensure!(fault.fired()?, "nobody passed {point}; the command said:\n{}", ended.text());
    drop(fault);
    let record = migrate::wait_final(&case.lab, &case.namespace, pods::name(ended.record.as_ref().context("no PodMigration was made")?))?;
    drop(here);
    asker.ask().with_context(|| format!("the connection; the command said:\n{}", ended.text()))?;
    let crossed = match migrate::phase(&record) {
        "Succeeded" => Crossed::Moved(record["status"]["targetPod"].as_str().context("no target pod in the record")?.to_owned()),
        phase => Crossed::Back(format!("{phase}, {}", record["status"]["failure"])),
    };
    case.ready(if let Crossed::Moved(to) = &crossed { to } else { pod })?;
    renew(case)?;
    Ok(crossed)
}
