//! What the other scenarios measure with, tried without any migration: the witness knows a restart, the ledger a lost write, the watch a lost endpoint.

use std::time::Duration;

use anyhow::{Result, ensure};
use godwit_demo::load::Load;
use godwit_demo::objects::{Pod, container, service};
use godwit_demo::redis::Connection;
use godwit_demo::shell::wait_until;
use godwit_demo::{pods, pulse};
use godwit_e2e::case::{ALIVE, MINUTE};
use godwit_e2e::watch::{Asker, Watch};
use godwit_e2e::{Case, Scenario};

use crate::http_server::{PORT, server};

pub const SCENARIO: Scenario =
    Scenario::new("instruments", "The witness knows a restart, the ledger a lost write, the watch a lost endpoint.", run).each_class();

fn run(case: &Case) -> Result<()> {
    witness(case)?;
    ledger(case)?;
    watch(case)
}

fn witness(case: &Case) -> Result<()> {
    let (witness, pod) = case.start_pulse("counter")?;
    let before = witness.exactly_one_runner()?;
    ensure!(before.lives[0].stretches.len() == 1, "{before}");
    case.end(&pod, pulse::CONTAINER)?;
    wait_until("restarted", MINUTE, || Ok((pods::restarts(&case.pod(&pod)?) == 1).then_some(())))?;
    wait_until("a second life", MINUTE, || Ok(witness.history().is_ok_and(|history| history.lives.len() == 2).then_some(())))?;
    ensure!(witness.exactly_one_runner().is_err(), "a restart was not noticed");
    witness.wait_for_ticks(ALIVE, MINUTE)?;
    case.lab.kubectl(&["delete", "pod", "-n", &case.namespace, &pod])?;
    witness.expect_silence(Duration::from_millis(300))?;
    let after = witness.history()?;
    ensure!(after.lives.len() == 2, "the deleted pod's log was lost: {after}");
    Ok(())
}

fn ledger(case: &Case) -> Result<()> {
    case.start(Pod::new("redis", [container("redis", &["redis-server", "--protected-mode", "no", "--save", ""])]))?;
    case.apply(&[service("redis", 6379)])?;
    let address = pods::service_address(&case.lab, &case.namespace, "redis")?;
    let load = Load::start(address, 2000)?;
    load.wait_for_rounds(200, MINUTE)?;
    let mut thief = Connection::insist(address, MINUTE, MINUTE)?;
    thief.command(&[b"LREM", b"ledger", b"1", b"7"])?;
    thief.command(&[b"SET", b"key:000003", b"0:forged"])?;
    let (proof, seen) = load.finish()?;
    case.note(format!("{} writes over a Service, {} reconnects, longest wait {} ms", proof.acknowledged, seen.reconnects, seen.stall.as_millis()));
    ensure!(proof.missing >= 1 && proof.damaged == 1, "a stolen and a forged write were not noticed: {proof:?}");
    Ok(())
}

fn watch(case: &Case) -> Result<()> {
    case.start(Pod::new("web", [server()]))?;
    case.apply(&[service("web", PORT)])?;
    let endpoints = Watch::start(case, "endpointslices", "kubernetes.io/service-name=web")?;
    endpoints.settle(1, MINUTE)?;
    let asker = Asker::start(pods::service_address(&case.lab, &case.namespace, "web")?);
    wait_until("answers", MINUTE, || Ok((asker.seen().answers > 5).then_some(())))?;
    case.lab.kubectl(&["delete", "pod", "-n", &case.namespace, "web"])?;
    wait_until("the watch saw the endpoint go", MINUTE, || Ok((endpoints.seen().fewest == 0).then_some(())))?;
    ensure!(asker.seen().failures > 0, "the client noticed nothing");
    Ok(())
}
