//! An agent is killed, or a step of it fails, at every point of the road: the pod always ends up running exactly once, with its memory.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use godwit_demo::shell::wait_until;
use godwit_demo::{install, migrate, pods};
use godwit_e2e::case::MINUTE;
use godwit_e2e::faults::Order;
use godwit_e2e::road::{Road, renew};
use godwit_e2e::{Case, Scenario};
use serde_json::json;

pub const CRASH: Scenario = Scenario::new("agents-crash", "An agent killed at any point never leaves two runners, nor none.", crash);
pub const MEMORY_CRASH: Scenario =
    Scenario::new("memory-crash", "An agent killed while memory travels, or while it is filled, never loses a page.", memory_crash);
pub const OUTLIVED: Scenario =
    Scenario::new("criu-outlives", "An agent that comes back thaws nothing while a CRIU of the one before has its hands in the pod.", outlived);
pub const FAIL: Scenario = Scenario::new("steps-fail", "A step that fails before the commit is taken back, one after it is made good.", fail);

/// Every fault point of the source's agent and of the target's, in the order of the road.
const POINTS: [&str; 16] = [
    "agent.target.files",
    "agent.source.prepare",
    "agent.target.open",
    "agent.source.opened",
    "agent.source.journaled",
    "agent.source.shut-traffic",
    "agent.source.freeze",
    "agent.source.frozen",
    "agent.source.dumped",
    "agent.source.sealed",
    "agent.target.restore",
    "agent.target.verify",
    "agent.target.swap",
    "agent.target.swapped",
    "agent.target.gate",
    "agent.target.running",
];
/// Points of a pod whose memory travels while it runs: in the rounds, and where its pages are between the nodes.
const MEMORY: [&str; 9] = [
    "agent.source.round",
    "agent.target.pages",
    "agent.target.open",
    "agent.source.opened",
    "agent.source.frozen",
    "agent.source.sealed",
    "agent.target.restore",
    "agent.target.swapped",
    "agent.target.running",
];
/// From here on the target owns the pod.
const COMMITTED: [&str; 3] = ["agent.target.swapped", "agent.target.gate", "agent.target.running"];

fn crash(case: &Case) -> Result<()> {
    every_point(case, &POINTS, &[], Order::Crash, |_, _| Ok(()))
}

fn memory_crash(case: &Case) -> Result<()> {
    every_point(case, &MEMORY, &["--memory", "pre-copy"], Order::Crash, |_, _| Ok(()))
}

fn fail(case: &Case) -> Result<()> {
    every_point(case, &POINTS, &[], Order::Fail, |point, code| {
        let wanted: &[i32] = if COMMITTED.contains(&point) { &[0] } else { &[1, 2] };
        ensure!(wanted.contains(&code), "after a failure at {point} the command exited with {code}");
        Ok(())
    })
}

/// One pod through all points; after a failure a new one goes on, so that all failures are seen.
pub fn every_point(case: &Case, points: &[&str], options: &[&str], order: Order, check: impl Fn(&str, i32) -> Result<()>) -> Result<()> {
    let (mut failures, mut moved, mut back) = (Vec::new(), 0, 0);
    let start = || {
        let road = Road::start(case)?;
        Ok::<_, anyhow::Error>(Road { options: options.iter().map(|word| (*word).to_owned()).collect(), ..road })
    };
    let mut road = Some(start()?);
    for point in points {
        let mut traveller = match road.take() {
            Some(road) => road,
            None => {
                case.lab.kubectl(&["delete", "podmigrations,pods", "--all", "-n", &case.namespace, "--timeout=55s"])?;
                start()?
            }
        };
        let crossed = traveller.cross(point, order).and_then(|done| check(point, done.output.code).map(|()| done.output.code));
        match crossed {
            Ok(0) => moved += 1,
            Ok(_) => back += 1,
            Err(error) => failures.push(format!("{point}: {error:#}")),
        }
        renew(traveller.case)?;
        if failures.last().is_none_or(|last| !last.starts_with(&format!("{point}:"))) {
            road = Some(traveller);
        }
    }
    case.note(format!("{moved} times moved, {back} times taken back"));
    if !failures.is_empty() {
        bail!("{} of {} points:\n  {}", failures.len(), points.len(), failures.join("\n  "));
    }
    Ok(())
}

/// The CRIUs of a node that dump do not get on while this lives. (Not by SIGSTOP: the kernel ends stopped processes whose parent goes.)
struct Stopped<'a> {
    case: &'a Case,
    node: &'a str,
}

impl<'a> Stopped<'a> {
    fn new(case: &'a Case, node: &'a str) -> Result<Self> {
        let stopped = Self { case, node };
        stopped.freezer("FROZEN", "1").map(|()| stopped)
    }

    /// Writes to the freezer of the cgroup that they are in (crates/criu/src/shield.rs), of cgroup v1 or v2.
    fn freezer(&self, v1: &str, v2: &str) -> Result<()> {
        let (old, new) = ("/sys/fs/cgroup/freezer/godwit/freezer.state", "/sys/fs/cgroup/godwit/cgroup.freeze");
        self.case.lab.script_on_node(self.node, &format!("if [ -e {old} ]; then echo {v1} > {old}; else echo {v2} > {new}; fi")).map(drop)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _ = self.freezer("THAWED", "0");
    }
}

/// CRIU is stopped when it waits to be let go, so that its dump takes as long as is needed here.
fn outlived(case: &Case) -> Result<()> {
    const NAME: &str = "outlived";
    let mut road = Road::start(case)?;
    let source = road.node.clone();
    let held = road.at("agent.source.opened", Order::Delay(Duration::from_secs(4)))?;
    migrate::order(&case.lab, &case.namespace, NAME, &road.pod, &road.target(), &json!({}))?;
    held.wait(MINUTE)?;
    let stopped = Stopped::new(case, &source)?;
    wait_until("the pod stands still", MINUTE, || Ok(road.witness.expect_silence(Duration::from_secs(1)).ok()))?;
    case.lab.script_on_node(&source, "pkill -KILL -x godwit-agent")?;
    wait_until("the agent is back", MINUTE * 2, || {
        let agents = pods::all(&case.lab, install::NAMESPACE)?;
        let ours = |pod: &&serde_json::Value| pods::name(pod).starts_with("godwit-agent") && pods::node(pod) == source;
        Ok(agents.iter().find(ours).filter(|pod| pods::restarts(pod) > 0 && pods::is_ready(pod)).map(|_| ()))
    })?;
    road.witness.expect_silence(Duration::from_secs(3)).context("the pod runs while CRIU still has its hands in it")?;
    drop(stopped);
    let phase = road.settled(NAME)?;
    ensure!(phase != "Succeeded", "the dump of an agent that is gone led to a move");
    renew(case)
}
