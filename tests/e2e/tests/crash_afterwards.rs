//! A restored container that crashes later is restarted afresh, like any other, and can be moved again.

use anyhow::{Result, ensure};
use godwit_demo::shell::wait_until;
use godwit_demo::{pods, pulse};
use godwit_e2e::case::{ALIVE, MINUTE};
use godwit_e2e::{Case, OnMachines, Scenario};

pub const SCENARIO: Scenario =
    Scenario::new("crash-afterwards", "What crashes after a move is restarted afresh, and moves again.", run).each_class().machines(OnMachines::All);

fn run(case: &Case) -> Result<()> {
    let (witness, pod) = case.start_pulse("fragile")?;
    let pod = case.move_over(&pod)?;
    let before = witness.wait_for_ticks(ALIVE, MINUTE)?;
    case.end(&pod, pulse::CONTAINER)?;
    let status = wait_until("restarted by the kubelet", MINUTE, || {
        let status = case.pod(&pod)?["status"]["containerStatuses"][0].clone();
        Ok((status["restartCount"] == 1 && status["ready"] == true).then_some(status))
    })?;
    ensure!(status["lastState"]["terminated"]["exitCode"] == 7, "it ended otherwise: {}", status["lastState"]);
    let after = witness.wait_for_ticks(ALIVE, MINUTE)?;
    ensure!(after.identity != before.identity && after.n < before.n, "it was not started afresh: {after:?}");

    // The second life moves too. Its restart count begins again, as its pod is a new one.
    let moved = case.migrate(&pod, &case.pair.a)?.moved()?;
    let arrived = case.ready(&moved.target_pod()?)?;
    ensure!(pods::node(&arrived) == case.pair.a, "it is on {}", pods::node(&arrived));
    let last = witness.wait_for_ticks(ALIVE, MINUTE)?;
    ensure!(last.identity == after.identity && last.n > after.n, "{after:?} does not go on: {last:?}");
    let history = witness.history()?;
    ensure!(history.lives.len() == 2, "not two lives: {history}");
    Ok(())
}
