//! There and back ten times: nothing grows, neither at the nodes nor in the pod.

use anyhow::{Result, ensure};
use godwit_demo::shell::wait_until;
use godwit_e2e::case::{ALIVE, MINUTE};
use godwit_e2e::footprint::Footprint;
use godwit_e2e::leftovers::Things;
use godwit_e2e::{Case, OnMachines, Scenario};

pub const SCENARIO: Scenario = Scenario::new("there-and-back", "After ten trips there and back nothing has grown.", run).machines(OnMachines::All);

const TRIPS: usize = 10;

fn run(case: &Case) -> Result<()> {
    let (witness, mut pod) = case.start_pulse("commuter")?;
    // What the first trip makes once and for all is not growth.
    pod = round_trip(case, pod)?;
    let (before, fds) = (measure(case)?, descriptors(case, &pod)?);
    for _ in 0..TRIPS {
        pod = round_trip(case, pod)?;
    }
    witness.wait_for_ticks(ALIVE, MINUTE)?;
    witness.exactly_one_runner()?;
    let now = descriptors(case, &pod)?;
    ensure!(now == fds, "the process had the descriptors {fds:?}, now {now:?}");
    // The kubelet and the runtime take the last sandbox away in their own time: what goes by itself has not grown.
    let mut grown = None;
    let same = wait_until("the nodes to be as after the first trip", MINUTE, || {
        grown = growth(&before, &measure(case)?).err();
        Ok(grown.is_none().then_some(()))
    });
    grown.map_or(same, Err)
}

/// A node, its agent's figures, and what is on it.
type Measured = (String, Footprint, Things);

fn growth(before: &[Measured], after: &[Measured]) -> Result<()> {
    before.iter().zip(after).try_for_each(|((node, figures, things), (_, figures_now, things_now))| {
        let mut grown = figures_now.grown(figures);
        grown.extend(things_now.beyond(things));
        ensure!(grown.is_empty(), "grown on {node}: {}", grown.join(", "));
        Ok(())
    })
}

fn round_trip(case: &Case, pod: String) -> Result<String> {
    let away = case.move_over(&pod)?;
    case.move_over(&away)
}

fn measure(case: &Case) -> Result<Vec<Measured>> {
    [&case.pair.a, &case.pair.b].into_iter().map(|node| Ok((node.clone(), Footprint::of(&case.lab, node)?, Things::on(&case.lab, node)?))).collect()
}

fn descriptors(case: &Case, pod: &str) -> Result<String> {
    case.exec(pod, godwit_demo::pulse::CONTAINER, &["sh", "-c", "ls /proc/1/fd"])
}
