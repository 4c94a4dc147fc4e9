//! A Redis moves there and back while a client writes and reads over one connection: it lives on, and no acknowledged write is missing.

use anyhow::{Result, ensure};
use godwit_demo::load::Load;
use godwit_demo::objects::{Pod, container, service};
use godwit_demo::pods;
use godwit_e2e::case::MINUTE;
use godwit_e2e::{Case, OnMachines, Scenario};

pub const SCENARIO: Scenario =
    Scenario::new("redis", "A Redis moves while a client writes; no acknowledged write is missing.", run).each_class().machines(OnMachines::All);

const KEYS: u32 = 20_000;
const ROUNDS: u64 = 200;

fn run(case: &Case) -> Result<()> {
    under_load(case, &[])
}

/// A Redis goes there and back under load, with these options of `kubectl migrate`.
pub fn under_load(case: &Case, options: &[&str]) -> Result<()> {
    let command = ["redis-server", "--protected-mode", "no", "--save", ""];
    let mut pod = case.start(Pod::new("redis", [container("redis", &command)]))?;
    case.apply(&[service("redis", 6379)])?;
    let load = Load::start(pods::service_address(&case.lab, &case.namespace, "redis")?, KEYS)?;
    for _ in 0..2 {
        load.wait_for_rounds(ROUNDS, MINUTE)?;
        load.reset();
        pod = case.move_kept_by(&pod, options)?;
        load.wait_for_rounds(ROUNDS, MINUTE)?;
        case.note(format!("the client waited {} ms", load.seen().stall.as_millis()));
    }
    let (proof, seen) = load.finish()?;
    ensure!(seen.reconnects == 0, "the client's connection was lost {} times", seen.reconnects);
    case.note(format!("{} writes", proof.acknowledged));
    ensure!(proof.missing == 0 && proof.damaged == 0, "{proof:?}");
    godwit_e2e::contract::all_retired(case, &pod)?;
    ensure!(proof.acknowledged as u64 > 3 * ROUNDS, "too few writes to prove anything: {proof:?}");
    Ok(())
}
