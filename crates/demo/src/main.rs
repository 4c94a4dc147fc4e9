//! `make demo`: a Redis with 100,000 keys moves to another node and back while a client writes and reads over one connection, which lives on.
//!
//! The last line is for machines too: `demo: there and back · freeze A ms, B ms · acknowledged writes N, missing 0`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::ledger::Proof;
use godwit_demo::load::{Load, Seen};
use godwit_demo::migrate::{Move, migrate};
use godwit_demo::notice::{line, step};
use godwit_demo::objects::{Pod, container, service};
use godwit_demo::{NAMESPACE, clear, install, pods};

const POD: &str = "redis";
const PORT: u16 = 6379;
const KEYS: u32 = 100_000;
/// Answered rounds of write and read that are waited for before and after a move.
const ROUNDS: u64 = 500;
const MINUTE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            line(&format!("✘ {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// One way, as both sides saw it.
struct Leg {
    moved: Move,
    stall: Duration,
}

fn run() -> Result<bool> {
    let lab = Lab::enter()?;
    let pair = lab.pairs().into_iter().next().context("the lab has no two nodes of one runtime")?;
    step("Godwit installed by its Helm chart", || install::install(&lab, false))?;
    step("Redis on the first node, behind a Service", || start_redis(&lab, &pair))?;
    let server = pods::service_address(&lab, NAMESPACE, POD)?;
    let load = step(&format!("{KEYS} keys loaded; the client writes and reads from now on"), || Load::start(server, KEYS))?;

    let there = leg(&lab, &load, POD, &pair.b)?;
    let back = leg(&lab, &load, &there.moved.target_pod()?, &pair.a)?;
    let (proof, seen) = step("every acknowledged write looked for", || load.finish())?;

    report(&[("there", &there), ("back", &back)], &proof, seen);
    try_next(&back.moved.target_pod()?, &pair.b);
    line(&format!(
        "demo: there and back · freeze {} ms, {} ms · acknowledged writes {}, missing {}",
        there.stall.as_millis(),
        back.stall.as_millis(),
        proof.acknowledged,
        proof.missing
    ));
    Ok(proof.missing == 0 && proof.damaged == 0 && seen.reconnects == 0)
}

fn start_redis(lab: &Lab, pair: &Pair) -> Result<()> {
    clear(lab)?;
    lab.kubectl(&["create", "namespace", NAMESPACE])?;
    let command = ["redis-server", "--protected-mode", "no", "--save", ""];
    let pod = Pod::new(POD, [container(POD, &command)]).on(&pair.a);
    for mut object in [pod.object(), service(POD, PORT)] {
        object["metadata"]["namespace"] = NAMESPACE.into();
        lab.apply(&[object])?;
    }
    pods::wait_ready(lab, NAMESPACE, POD, MINUTE).map(drop)
}

fn leg(lab: &Lab, load: &Load, pod: &str, node: &str) -> Result<Leg> {
    load.wait_for_rounds(ROUNDS, MINUTE)?;
    load.reset();
    let moved = step(&format!("kubectl migrate {pod} --to {node}"), || migrate(lab, NAMESPACE, pod, node)?.moved())?;
    load.wait_for_rounds(ROUNDS, MINUTE)?;
    let now = pods::wait_ready(lab, NAMESPACE, &moved.target_pod()?, MINUTE)?;
    if pods::node(&now) != node {
        bail!("{} runs on {}, not on {node}", pods::name(&now), pods::node(&now));
    }
    Ok(Leg { moved, stall: load.seen().stall })
}

fn report(legs: &[(&str, &Leg)], proof: &Proof, seen: Seen) {
    line("");
    for (name, leg) in legs {
        let part = |name: &str| leg.moved.status(&format!("/freeze/{name}Ms")).as_u64().unwrap_or(0);
        line(&format!(
            "  {name:<6} the client waited {} ms at most; the pod stood still for {} ms (dump {} · delta {} · restore {} · verify {} · commit {})",
            leg.stall.as_millis(),
            leg.moved.freeze_ms().unwrap_or(0),
            part("dump"),
            part("delta"),
            part("restore"),
            part("verify"),
            part("commit"),
        ));
    }
    line(&format!(
        "  ledger {} writes acknowledged, {} of them missing; {} never answered; {} damaged values; the connection {}",
        proof.acknowledged,
        proof.missing,
        proof.in_doubt,
        proof.damaged,
        if seen.reconnects == 0 { "lived on".to_owned() } else { format!("was lost {} times", seen.reconnects) }
    ));
}

fn try_next(pod: &str, node: &str) {
    line("");
    line("The lab is still up. Try next:");
    line("  godwit-lab kubectl get pods -A -o wide");
    line(&format!("  godwit-lab run -- kubectl migrate {pod} -n {NAMESPACE} --to {node} --dry-run"));
    line(&format!("  godwit-lab run -- kubectl migrate {pod} -n {NAMESPACE} --to {node}"));
    line(&format!("  godwit-lab kubectl get podmigrations -n {NAMESPACE}"));
    line("  make clean        # takes the lab away");
    line("");
}
