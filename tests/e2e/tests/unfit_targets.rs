//! A target that is full, cordoned, without agent or not Ready is refused by name.

use std::time::Duration;

use anyhow::{Context, Result};
use godwit_demo::install::{self, NAMESPACE};
use godwit_demo::objects::{Pod, container};
use godwit_demo::pods;
use godwit_demo::pulse;
use godwit_demo::shell::wait_until;
use godwit_e2e::case::{ALIVE, MINUTE};
use godwit_e2e::{Case, Scenario};
use serde_json::{Value, json};

use crate::refusals::explained;

pub const SCENARIO: Scenario = Scenario::new("unfit-targets", "A target that is full, cordoned, without agent or away is refused.", run).alone();

/// How long Kubernetes takes to find out that a kubelet is away, and some more.
const AWAY: Duration = Duration::from_secs(120);

fn run(case: &Case) -> Result<()> {
    let witness = case.witness()?;
    let pod = pulse::pod("settled", witness.address()).first("resources", json!({"requests": {"cpu": "300m"}}));
    let pod = case.start(pod)?;
    witness.wait_for_ticks(ALIVE, MINUTE)?;
    let target = case.pair.b.clone();
    let refused = |reason: &str| case.untouched(&witness, &pod, || case.migrate(&pod, &target)?.refused(reason).and_then(explained)).map(drop);

    let filler = fill(case, &target)?;
    refused("NodeFull")?;
    case.lab.kubectl(&["delete", "pod", "-n", &case.namespace, &filler])?;

    case.lab.kubectl(&["cordon", &target])?;
    let cordoned = refused("NodeUnschedulable");
    case.lab.kubectl(&["uncordon", &target])?;
    cordoned?;

    // The others are replaced at the same time, and the source's is asked first.
    let rolled_out = || case.lab.kubectl(&["rollout", "status", "daemonset/godwit-agent", "-n", NAMESPACE, "--timeout=50s"]).map(drop);
    let without = without_agent(case, &target).and_then(|()| rolled_out()).and_then(|()| refused("NoAgent"));
    case.lab.kubectl(&["label", "node", &target, "godwit.e2e/away-"])?;
    case.lab.kubectl(&[
        "patch",
        "daemonset",
        "godwit-agent",
        "-n",
        NAMESPACE,
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/spec/template/spec/affinity"}]"#,
    ])?;
    install::wait_ready(&case.lab)?;
    without?;

    case.lab.command(&["node", "stop", &target, "kubelet"], MINUTE)?;
    let away = wait_ready_is(case, &target, false).and_then(|()| refused("NodeNotReady"));
    case.lab.command(&["node", "resume", &target, "kubelet"], MINUTE)?;
    wait_ready_is(case, &target, true)?;
    away?;
    install::wait_ready(&case.lab)?;
    witness.exactly_one_runner().map(drop)
}

/// A pod that asks for all but a tenth of a CPU of a node.
fn fill(case: &Case, node: &str) -> Result<String> {
    let object = case.lab.get(&["node", node])?;
    let all = millis(&object["status"]["allocatable"]["cpu"]).context("the node says nothing about its CPUs")?;
    let taken: i64 = case.lab.get(&["pods", "-A", "--field-selector", &format!("spec.nodeName={node}")])?["items"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|pod| pod["spec"]["containers"].as_array().cloned().unwrap_or_default())
        .filter_map(|container| millis(&container["resources"]["requests"]["cpu"]))
        .sum();
    let rest = format!("{}m", all - taken - 100);
    let filler = Pod::new("filler", [container("main", &["sleep", "infinity"])]).first("resources", json!({"requests": {"cpu": rest}}));
    case.start_on(filler, node)
}

/// Thousandths of a CPU.
fn millis(quantity: &Value) -> Option<i64> {
    let text = quantity.as_str()?;
    match text.strip_suffix('m') {
        Some(number) => number.parse().ok(),
        None => Some(text.parse::<i64>().ok()? * 1000),
    }
}

/// Keeps the DaemonSet away from a node.
fn without_agent(case: &Case, node: &str) -> Result<()> {
    case.lab.kubectl(&["label", "node", node, "godwit.e2e/away=true"])?;
    let term = json!({"matchExpressions": [{"key": "godwit.e2e/away", "operator": "DoesNotExist"}]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}});
    let patch = json!({"spec": {"template": {"spec": {"affinity": affinity}}}});
    case.lab.kubectl(&["patch", "daemonset", "godwit-agent", "-n", NAMESPACE, "--type=merge", "-p", &patch.to_string()])?;
    wait_until(&format!("no agent on {node}"), MINUTE, || {
        let agents = pods::all(&case.lab, NAMESPACE)?;
        let there = |pod: &&Value| pods::node(pod) == node && pods::name(pod).starts_with("godwit-agent");
        Ok(agents.iter().find(there).is_none().then_some(()))
    })
}

/// Waits until the cluster sees a node so.
pub fn wait_ready_is(case: &Case, node: &str, wanted: bool) -> Result<()> {
    wait_until(&format!("node {node} Ready={wanted}"), AWAY, || {
        let conditions = case.lab.get(&["node", node])?["status"]["conditions"].take();
        let ready = conditions.as_array().is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"));
        Ok((ready == wanted).then_some(()))
    })
}
