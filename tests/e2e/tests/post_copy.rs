//! Memory that changes faster than it travels comes after the switch: every page as it was, whatever agent or controller is killed meanwhile. If the source is lost before, so is the
//! pod, and everybody is told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::migrate::{self, Move, migrate_with};
use godwit_demo::shell::wait_until;
use godwit_demo::{install, pages, pods};
use godwit_e2e::case::MINUTE;
use godwit_e2e::faults::{Fault, Order};
use godwit_e2e::road::{renew, replace};
use godwit_e2e::{Case, Scenario};
use serde_json::Value;

use crate::menagerie;
use crate::refusals::explained;

pub const SCENARIO: Scenario =
    Scenario::new("post-copy", "Memory comes after the switch, on request and when a pod does not converge; agents and controller are killed meanwhile.", run);
pub const LOST: Scenario =
    Scenario::new("post-copy-lost", "A pod whose source is lost before all of its memory has come ends, and does not go on with less.", lost).alone();

/// MiB of the heap, MB of it that change every second, and MiB that travel in one.
const HEAP: u32 = 96;
const RATE: u32 = 200;
const TRICKLE: &str = "20";
const REBOOT: Duration = Duration::from_secs(120);
/// Passed by the controller while memory is still to come.
const FILLING: &str = "controller.settling.filling";

fn run(case: &Case) -> Result<()> {
    let mut pod = case.start(pages::family("pages", HEAP, RATE))?;
    let mut before = case.good(&pod, "main", 0)?;
    for (wish, killed) in [(["--memory", "post-copy"], true), (["--if-not-converging", "post-copy"], false)] {
        let node = pods::node(&case.pod(&pod)?).to_owned();
        let moved = if killed { with_everybody_killed(case, &pod, &node, &wish)? } else { trickle(case, &pod, &node, &wish)? }.moved()?;
        let name = moved.target_pod()?;
        let record = migrate::wait_final(&case.lab, &case.namespace, pods::name(moved.record.as_ref().context("no record")?))?;
        let came = condition(&record, "MemoryComplete").context("the record does not say that all memory has come")?;
        ensure!(came["status"] == "True" && came["reason"] == "AllIsHere", "the record says of the memory: {came}");
        let after = case.ready(&name)?;
        ensure!(pods::restarts(&after) == 0, "containers of {name} were restarted: {:?}", pods::marks(&after));
        // One turn may have been half done before the move; the second is of what arrived only.
        let first = case.goes_on(&name, "main", &before)?;
        before = case.goes_on(&name, "main", &first)?;
        let gap = pages::gap(&case.logs(&name, "main")?).context("the program does not say that it stood still")?;
        let (wish, came) = (wish.join(" "), came["message"].as_str().unwrap_or_default().to_owned());
        case.note(format!("{wish}: freeze {} ms, {gap} ms by its own clock, {came}", moved.freeze_ms().unwrap_or_default()));
        if name != pod {
            pods::wait_gone(&case.lab, &case.namespace, &pod, MINUTE)?;
        }
        pod = name;
    }
    // With threads, whose own pages CRIU touches before anything has run.
    menagerie::there_and_back(case, &["--memory", "post-copy"])
}

/// So long nothing comes. What the pod waits for is sent without a limit, and it soon waits for everything.
fn slowly(case: &Case, source: &str) -> Result<Fault> {
    case.fault_on_way(source, "agent.target.fetch", Order::Delay(Duration::from_secs(20)))
}

/// While memory comes, the controller and both agents end and are started anew.
fn with_everybody_killed(case: &Case, pod: &str, node: &str, wish: &[&str]) -> Result<Move> {
    let delay = slowly(case, node)?;
    let crashed = case.fault_of_controller(FILLING, Order::Crash)?;
    let moved = std::thread::scope(|scope| {
        let moving = scope.spawn(|| trickle(case, pod, node, wish));
        crashed.wait(MINUTE)?;
        replace(case, |pod| pods::name(pod).contains("agent"))?;
        moving.join().map_err(|_| anyhow::anyhow!("it panicked"))?
    })?;
    ensure!(delay.fired()?, "nothing was fetched");
    renew(case)?;
    Ok(moved)
}

fn trickle(case: &Case, pod: &str, node: &str, wish: &[&str]) -> Result<Move> {
    let words = [&[pod, "--to", case.pair.other(node), "--bandwidth", TRICKLE, "--compression", "never"], wish].concat();
    migrate_with(&case.lab, &case.namespace, &words)
}

fn condition(record: &Value, kind: &str) -> Option<Value> {
    record["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == kind).cloned()
}

fn lost(case: &Case) -> Result<()> {
    let pod = case.start(pages::pod("pages", HEAP, RATE))?;
    let before = case.good(&pod, "main", 0)?;
    let _delay = slowly(case, &case.pair.a)?;
    let held = case.fault_of_controller(FILLING, Order::Delay(Duration::from_millis(1)))?;
    let ended = std::thread::scope(|scope| {
        let moving = scope.spawn(|| trickle(case, &pod, &case.pair.a, &["--memory", "post-copy"]));
        held.wait(MINUTE)?;
        case.lab.command(&["node", "kill", &case.pair.a], MINUTE)?;
        case.lab.command(&["node", "start", &case.pair.a], REBOOT)?;
        install::wait_ready(&case.lab)?;
        moving.join().map_err(|_| anyhow::anyhow!("it panicked"))?
    })?;
    ensure!(ended.output.code == 7 && ended.text().contains("PodLost"), "the command ended with {} and said:\n{}", ended.output.code, ended.text());
    let name = ended.target_pod()?;
    explained(ended)?;
    // Killed, and started afresh: nothing of what it was is left.
    let after = wait_until("the container runs again", MINUTE, || {
        let pod = case.pod(&name)?;
        Ok((pods::restarts(&pod) > 0 && pods::is_ready(&pod)).then_some(pod))
    })?;
    let code = after.pointer("/status/containerStatuses/0/lastState/terminated/exitCode");
    ensure!(code == Some(&137.into()), "the container ended with {code:?}");
    let anew = case.good(&name, "main", 0)?;
    ensure!(anew.rest != before.rest, "the program has gone on although memory of it is lost");
    pods::wait_gone(&case.lab, &case.namespace, &pod, MINUTE)
}
