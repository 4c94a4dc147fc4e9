//! Agents and controller are killed, or a step fails, while a connection lives on: it does, on whichever side the pod is in the end.

use anyhow::{Context, Result, bail, ensure};
use godwit_demo::install;
use godwit_demo::migrate;
use godwit_demo::pods;
use godwit_demo::talker::Asker;
use godwit_e2e::case::MINUTE;
use godwit_e2e::faults::{Fault, Order};
use godwit_e2e::{Case, Scenario};

use crate::connections::{address, all_retired, start};

pub const SCENARIO: Scenario =
    Scenario::new("anchor-crash", "A connection lives on whatever is killed or fails meanwhile; when it is taken back, at the source.", run).alone();

/// What happens where. What fails before the commit is taken back.
const FAULTS: [(&str, Order); 12] = [
    ("agent.source.frozen", Order::Fail),
    ("agent.target.restore", Order::Fail),
    ("agent.target.anchored", Order::Crash),
    ("agent.source.frozen", Order::Crash),
    ("agent.source.sealed", Order::Crash),
    ("agent.target.verify", Order::Crash),
    ("agent.target.swapped", Order::Crash),
    ("agent.target.gate", Order::Crash),
    ("agent.target.running", Order::Crash),
    ("controller.settling.shared", Order::Crash),
    ("controller.settling.anchored", Order::Crash),
    ("controller.settling.emptied", Order::Crash),
    ("controller.switching.outcome", Order::Crash),
];

fn run(case: &Case) -> Result<()> {
    let (mut pod, server) = start(case)?;
    let mut asker = Asker::new(server)?;
    let (mut moved, mut back) = (0, 0);
    for (point, order) in FAULTS {
        let crossed = cross(case, &pod, point, order, &mut asker).with_context(|| format!("{order:?} at {point}"))?;
        if crossed == pod {
            back += 1
        } else {
            moved += 1
        }
        pod = crossed;
    }
    case.note(format!("{moved} times moved, {back} times taken back"));
    ensure!(back >= 2, "what fails before the commit is taken back");
    agents_restart(case)?;
    asker.ask().context("after a restart of all agents")?;
    let nodes: Vec<&str> = case.lab.nodes().iter().map(|node| node.name.as_str()).collect();
    let faults = ["controller.anchored.ended", "controller.anchored.gone"].map(|point| Fault::set(&case.lab, &nodes, point, Order::Crash));
    drop(asker);
    all_retired(case, &pod)?;
    for fault in faults {
        ensure!(fault?.fired()?, "no anchor was retired while the controller was killed");
    }
    renew(case)
}

/// Returns the name of the pod that runs then.
fn cross(case: &Case, pod: &str, point: &str, order: Order, asker: &mut Asker) -> Result<String> {
    let node = pods::node(&case.pod(pod)?).to_owned();
    let target = case.pair.other(&node).to_owned();
    let nodes: Vec<&str> = match point.split('.').nth(1) {
        _ if point.starts_with("controller.") => case.lab.nodes().iter().map(|node| node.name.as_str()).collect(),
        Some("source") => vec![&node],
        _ => vec![&target],
    };
    // An anchor is begun only for an address that a connection uses, and the pod has had several by now.
    let here = if point.starts_with("controller.") { Some(Asker::new(address(case, pod)?)?) } else { None };
    let fault = Fault::set(&case.lab, &nodes, point, order)?;
    let ended = case.migrate(pod, &target)?;
    ensure!(fault.fired()?, "nobody passed {point}; the command said:\n{}", ended.text());
    drop(fault);
    let record = migrate::wait_final(&case.lab, &case.namespace, pods::name(ended.record.as_ref().context("no PodMigration was made")?))?;
    drop(here);
    let now = match migrate::phase(&record) {
        "Succeeded" => record["status"]["targetPod"].as_str().context("no target pod in the record")?.to_owned(),
        _ => pod.to_owned(),
    };
    asker.ask().with_context(|| format!("the connection; the command said:\n{}", ended.text()))?;
    case.ready(&now)?;
    renew(case)?;
    Ok(now)
}

fn agents_restart(case: &Case) -> Result<()> {
    let old: Vec<String> =
        pods::all(&case.lab, install::NAMESPACE)?.iter().map(|pod| pods::name(pod).to_owned()).filter(|name| name.contains("agent")).collect();
    if old.is_empty() {
        bail!("there are no agents");
    }
    for name in &old {
        case.lab.kubectl(&["delete", "pod", "-n", install::NAMESPACE, name, "--wait=false"])?;
    }
    for name in &old {
        pods::wait_gone(&case.lab, install::NAMESPACE, name, MINUTE)?;
    }
    install::wait_ready(&case.lab)
}

/// Gives every controller and agent that was killed a new pod: the kubelet waits longer before each restart of the same one.
fn renew(case: &Case) -> Result<()> {
    let killed: Vec<String> =
        pods::all(&case.lab, install::NAMESPACE)?.iter().filter(|pod| pods::restarts(pod) > 0).map(|pod| pods::name(pod).to_owned()).collect();
    for name in &killed {
        case.lab.kubectl(&["delete", "pod", "-n", install::NAMESPACE, name, "--wait=false"])?;
    }
    for name in &killed {
        pods::wait_gone(&case.lab, install::NAMESPACE, name, MINUTE)?;
    }
    install::wait_ready(&case.lab)
}
