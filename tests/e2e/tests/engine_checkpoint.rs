//! `--engine checkpoint`: a pod comes with no runtime handler, by the container runtime's own import of a checkpoint image. The same gate, the same hand-over, the same way back.

use anyhow::{Result, ensure};
use godwit_demo::shell::wait_until;
use godwit_demo::{pods, pulse};
use godwit_e2e::case::{ALIVE, MINUTE};
use godwit_e2e::faults::Order;
use godwit_e2e::{Case, Scenario};
use serde_json::Value;

use crate::agents_crash::every_point;
use crate::{files, redis};

pub const SCENARIO: Scenario = Scenario::new("engine-checkpoint", "Without a runtime handler a pod comes by the runtime's own import, and back.", run);
pub const CRASH: Scenario = Scenario::new("engine-checkpoint-crash", "An agent killed at any point of that road never leaves two runners, nor none.", crash);

const OPTIONS: [&str; 2] = ["--engine", "checkpoint"];
/// Fault points of the source's agent and of the target's on this road, before the freeze, in it and after the commit.
const POINTS: [&str; 11] = [
    "agent.source.prepare",
    "agent.target.open",
    "agent.source.opened",
    "agent.source.frozen",
    "agent.source.sealed",
    "agent.target.restore",
    "agent.target.verify",
    "agent.target.swap",
    "agent.target.swapped",
    "agent.target.gate",
    "agent.target.running",
];

fn run(case: &Case) -> Result<()> {
    let (witness, mut pod) = case.start_pulse("stock")?;
    for _ in 0..2 {
        let before = witness.wait_for_ticks(ALIVE, MINUTE)?;
        pod = case.move_over_by(&pod, &OPTIONS)?;
        witness.wait_for_ticks(ALIVE, MINUTE)?;
        witness.exactly_one_runner()?;
        case.note(format!("the process saw {} ms", witness.longest_gap_after(before.n).as_millis()));
        let spec = case.pod(&pod)?["spec"].clone();
        ensure!(spec["runtimeClassName"] != "godwit", "it came by the handler: {spec}");
        ensure!(image(&spec).starts_with("127.0.0.1:"), "it came by no checkpoint image: {spec}");
        ensure!(case.exec(&pod, pulse::CONTAINER, &["cat", "/proc/1/comm"])?.trim() == "python3", "exec sees another process");
        ensure!(case.lab.kubectl(&["logs", "-n", &case.namespace, &pod, "--tail=1"])?.contains("pulse"), "its log does not go on");
    }
    starts_afresh(case, &pod, pulse::CONTAINER)?;
    // What it runs now is its own image: either engine moves it on.
    let before = witness.wait_for_ticks(ALIVE, MINUTE)?;
    pod = case.move_over_by(&pod, &["--engine", "live"])?;
    let after = witness.wait_for_ticks(ALIVE, MINUTE)?;
    ensure!(after.identity == before.identity && after.n > before.n, "{before:?} does not go on: {after:?}");
    ensure!(!image(&case.pod(&pod)?["spec"]).starts_with("127.0.0.1:"), "the handler's pod names a checkpoint image");
    files::travels(case, &OPTIONS)?;
    // Those that come next look whether anything of them stays.
    case.lab.kubectl(&["delete", "pods", "--all", "-n", &case.namespace, "--timeout=55s"])?;
    redis::under_load(case, &OPTIONS)
}

/// A container that ends is started from its own image, not from the checkpoint once more.
pub fn starts_afresh(case: &Case, pod: &str, container: &str) -> Result<()> {
    case.end(pod, container)?;
    wait_until("started afresh by the kubelet", 2 * MINUTE, || {
        let now = case.pod(pod)?;
        Ok((pods::restarts(&now) == 1 && pods::is_ready(&now)).then_some(()))
    })?;
    let spec = case.pod(pod)?["spec"].clone();
    ensure!(!image(&spec).starts_with("127.0.0.1:"), "it was not given its own image: {spec}");
    Ok(())
}

pub fn image(spec: &Value) -> &str {
    spec["containers"][0]["image"].as_str().unwrap_or_default()
}

fn crash(case: &Case) -> Result<()> {
    every_point(case, &POINTS, &OPTIONS, Order::Crash, |_, _| Ok(()))
}
