//! `kubectl migrate restore --engine checkpoint`: a pod is made of a checkpoint with no runtime handler, by the container runtime's own import.

use anyhow::{Result, ensure};
use godwit_demo::objects::{Pod, container};
use godwit_demo::pods;
use godwit_e2e::case::{Good, MINUTE};
use godwit_e2e::faults::Order;
use godwit_e2e::road::renew;
use godwit_e2e::{Case, Scenario};

use crate::checkpoint::{COUNTER, expect, ok, store};
use crate::engine_checkpoint::{image, starts_afresh};

pub const SCENARIO: Scenario =
    Scenario::new("restore-by-import", "Without a runtime handler a pod is made of a checkpoint, many times; or not at all, whatever dies.", run);

const OPTIONS: [&str; 2] = ["--engine", "checkpoint"];
/// Fault points of a restore, in their order.
const POINTS: [&str; 5] = ["agent.restore.images", "agent.restore.files", "agent.restore.rights", "agent.restore.restore", "agent.restore.verify"];

fn run(case: &Case) -> Result<()> {
    store(case)?;
    let origin = case.start(Pod::new("steady", [container("counter", &["sh", "-c", COUNTER])]))?;
    case.exec(&origin, "counter", &["sh", "-c", "echo then > /root/word"])?;
    let kept = case.good(&origin, "counter", 0)?;
    ok(case.kubectl_migrate(&["checkpoint", &origin, "--name", "kept"])?)?;
    case.goes_on(&origin, "counter", &kept)?;
    // Twice of one checkpoint, while the original runs; and once by the handler, of the same images.
    restored(case, "beside", &case.pair.a, &OPTIONS, &kept)?;
    restored(case, "other", &case.pair.b, &OPTIONS, &kept)?;
    restored(case, "handled", &case.pair.b, &["--engine", "live"], &kept)?;
    starts_afresh(case, "other", "counter")?;
    // What was restored so is moved on, and kept once more.
    let moved = case.move_over_by("beside", &OPTIONS)?;
    let again = case.goes_on(&moved, "counter", &kept)?;
    ok(case.kubectl_migrate(&["checkpoint", &moved, "--name", "again"])?)?;
    ok(case.kubectl_migrate(&["restore", "again", "--name", "twice", "--node", &case.pair.b, "--engine", "checkpoint"])?)?;
    case.goes_on("twice", "counter", &again)?;
    refused(case)?;
    crashes(case, &kept)
}

/// A pod is made of the checkpoint and goes on from there.
fn restored(case: &Case, name: &str, node: &str, options: &[&str], kept: &Good) -> Result<()> {
    ok(case.kubectl_migrate(&[&["restore", "kept", "--name", name, "--node", node], options].concat())?)?;
    let object = case.ready(name)?;
    let by_import = image(&object["spec"]).starts_with("127.0.0.1:");
    ensure!(by_import == (options == OPTIONS), "{name} came by another engine: {}", object["spec"]);
    case.goes_on(name, "counter", kept)?;
    ensure!(case.exec(name, "counter", &["cat", "/root/word"])?.trim() == "then", "a file of {name} did not come");
    ensure!(pods::restarts(&case.pod(name)?) == 0, "{name} was restarted");
    Ok(())
}

/// What cannot be restored so is told beforehand, and no pod is made.
fn refused(case: &Case) -> Result<()> {
    let two = ["one", "two"].map(|name| container(name, &["sh", "-c", COUNTER]));
    let pod = case.start(Pod::new("several", two))?;
    ok(case.kubectl_migrate(&["checkpoint", &pod, "--name", "several"])?)?;
    let order = ["restore", "several", "--name", "never", "--engine", "checkpoint"];
    expect(&case.kubectl_migrate(&order)?, "SeveralContainers")?;
    ensure!(case.lab.find(&["pod", "-n", &case.namespace, "never"])?.is_none(), "a pod was made of what is refused");
    Ok(())
}

/// An agent that is killed on the way: its next one begins anew or gives it up; then no pod stays.
fn crashes(case: &Case, kept: &Good) -> Result<()> {
    for point in POINTS {
        let fault = case.fault(&case.pair.b, point, Order::Crash)?;
        let name = format!("after-{}", point.rsplit('.').next().unwrap_or_default());
        let output = case.kubectl_migrate(&["restore", "kept", "--name", &name, "--node", &case.pair.b, "--engine", "checkpoint"])?;
        fault.wait(MINUTE)?;
        match output.code {
            0 => drop(case.goes_on(&name, "counter", kept)?),
            1 => pods::wait_gone(&case.lab, &case.namespace, &name, case.patience())?,
            code => anyhow::bail!("after {point} the command ended with {code}:\n{}{}", output.stdout, output.stderr),
        }
        case.note(format!("{name}: exit code {}", output.code));
        renew(case)?;
    }
    Ok(())
}
