//! A stream that is corrupted, cut or stalled, and a target whose memory file system is full: the pod is taken back and goes on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use godwit_demo::migrate;
use godwit_e2e::faults::Order;
use godwit_e2e::road::Road;
use godwit_e2e::{Case, Scenario};
use serde_json::json;

pub const SCENARIO: Scenario = Scenario::new("bad-streams", "Corrupted, cut and stalled streams and a full target are taken back.", run);

/// Where a target keeps images on their way.
const IMAGES: &str = "/run/godwit/images";
/// How long a test may take to do its mischief.
const HOLD: Duration = Duration::from_secs(6);
const LIMIT: Duration = Duration::from_secs(60);
/// For how long a pod that stands still before a network that takes nothing is left so.
const STILL: Duration = Duration::from_millis(3500);
/// How soon it goes on when the migration is cancelled then: before the network is given up.
const SOON: Duration = Duration::from_secs(3);
/// For so long the test holds a frozen pod, to take its network away.
const FROZEN: Duration = Duration::from_secs(3);
/// The longest that a pod may stand still for a network that is gone: [`FROZEN`], then 5 s until the kernel gives a silent peer up, and as long again on a machine that is busy.
const GIVEN_UP: Duration = Duration::from_secs(16);

fn run(case: &Case) -> Result<()> {
    let mut road = Road::start(case)?;
    corrupted(&mut road, "corrupted", "printf X | dd of=$f bs=1 seek=$(($(stat -c %s $f) / 2)) conv=notrunc 2>/dev/null")?;
    corrupted(&mut road, "truncated", "truncate -s -1 $f")?;
    network(&mut road, "cut", "reject with tcp reset")?;
    network(&mut road, "stalled", "drop")?;
    cancelled(&mut road)?;
    full(&mut road)
}

/// Images are changed between their arrival and their verification.
fn corrupted(road: &mut Road<'_>, name: &str, mischief: &str) -> Result<()> {
    let held = road.at("agent.target.restore", Order::Delay(HOLD))?;
    start(road, name)?;
    held.wait(LIMIT)?;
    let script = format!("f=$(find {IMAGES} -type f -name 'pages-*.img' -size +0 | head -n 1); test -n \"$f\"; {mischief}");
    road.case.lab.script_on_node(&road.target(), &script).context("no image to corrupt")?;
    taken_back(road, name)
}

fn network(road: &mut Road<'_>, name: &str, verdict: &str) -> Result<()> {
    let before = road.witness.latest()?;
    let phase = cut_off(road, name, verdict, |road| end(road, name))?;
    let still = road.witness.longest_gap_after(before.n);
    ensure!(still < GIVEN_UP, "a pod stood still for {still:?} when the network was {name}");
    is_taken_back(name, &phase)
}

/// Whoever cancels a migration does not wait for the network.
fn cancelled(road: &mut Road<'_>) -> Result<()> {
    let name = "cancelled";
    let phase = cut_off(road, name, "drop", |road| {
        road.witness.expect_silence(STILL)?;
        let asked = Instant::now();
        migrate::cancel(&road.case.lab, &road.case.namespace, name)?;
        road.witness.wait_for_ticks(1, SOON).context("the pod waits for the network")?;
        road.case.note(format!("cancelled: went on after {} ms", asked.elapsed().as_millis()));
        road.settled(name)
    })?;
    is_taken_back(name, &phase)
}

/// Nothing more passes between the agents once the pod is frozen, until this has happened.
fn cut_off(road: &mut Road<'_>, name: &str, verdict: &str, then: impl FnOnce(&mut Road<'_>) -> Result<String>) -> Result<String> {
    let (node, held) = (road.node.clone(), road.at("agent.source.frozen", Order::Delay(FROZEN))?);
    start(road, name)?;
    held.wait(LIMIT)?;
    let rules = format!(
        "nft add table inet e2e; nft add chain inet e2e out '{{ type filter hook output priority 0; }}'; nft add rule inet e2e out tcp dport 7410 {verdict}; \
         nft add chain inet e2e in '{{ type filter hook input priority 0; }}'; nft add rule inet e2e in tcp sport 7410 'tcp flags & rst == 0' {verdict}"
    );
    road.case.lab.script_on_node(&node, &rules)?;
    let ended = then(road);
    road.case.lab.script_on_node(&node, "nft delete table inet e2e")?;
    ended
}

/// The target's memory file system takes no more than two megabytes.
fn full(road: &mut Road<'_>) -> Result<()> {
    let target = road.target();
    let held = road.at("agent.source.opened", Order::Delay(HOLD))?;
    start(road, "full")?;
    held.wait(LIMIT)?;
    road.case.lab.script_on_node(&target, &format!("for d in {IMAGES}/*; do mount -t tmpfs -o size=2m tmpfs \"$d\"; done"))?;
    let ended = end(road, "full");
    road.case.lab.script_on_node(
        &target,
        &format!("for d in {IMAGES}/*; do umount \"$d\" 2>/dev/null || true; done; find {IMAGES} -mindepth 1 -delete 2>/dev/null || true"),
    )?;
    ended.and_then(|phase| is_taken_back("full", &phase))
}

fn start(road: &Road<'_>, name: &str) -> Result<()> {
    migrate::order(&road.case.lab, &road.case.namespace, name, &road.pod, &road.target(), &json!({"deadlineSeconds": 40}))
}

fn end(road: &mut Road<'_>, name: &str) -> Result<String> {
    let before = road.witness.latest()?;
    let phase = road.settled(name)?;
    road.case.note(format!("{name}: stood still for {} ms", road.witness.longest_gap_after(before.n).as_millis()));
    Ok(phase)
}

fn taken_back(road: &mut Road<'_>, name: &str) -> Result<()> {
    let phase = end(road, name)?;
    is_taken_back(name, &phase)
}

fn is_taken_back(name: &str, phase: &str) -> Result<()> {
    ensure!(phase == "RolledBack" || phase == "Failed", "a {name} stream ended as {phase}");
    Ok(())
}
