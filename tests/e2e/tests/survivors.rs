//! The report's exit code 137: every restored container was killed soon after. Here programs of several kinds are restored in every place where that can be done, by every road, and
//! each is looked at when the kubelet, the runtime and the kernel have had time to do what they would. The classes and pairs of nodes are the other columns of the matrix.
//!
//! ```text
//!                    on the other node          beside the original         on its node, without it
//!   each program     moved; from a checkpoint   from a checkpoint           from a checkpoint
//! ```
//! The same once more without Godwit's runtime handler, for pods of one container.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use godwit_demo::migrate::migrate_with;
use godwit_demo::objects::{Pod, container, python};
use godwit_demo::pods;
use godwit_demo::shell::wait_until;
use godwit_e2e::case::MINUTE;
use godwit_e2e::{Case, Scenario};
use serde_json::{Value, json};

use crate::checkpoint::{expect, ok, store};
use crate::dies_afterwards::healthy;
use crate::http_server;

pub const SCENARIO: Scenario =
    Scenario::new("survivors", "No restored pod dies afterwards: five kinds of programs, on the other node, beside the original and without it.", run)
        .each_class();
pub const WITHOUT_HANDLER: Scenario = Scenario::new(
    "survivors-by-import",
    "Nor does one that the container runtime itself restores: four kinds of programs in the same places.",
    without_handler,
)
.each_class();

/// The kubelet has looked at every pod by then, probes have failed if they fail, and the controller has judged.
const SETTLED: Duration = Duration::from_secs(15);

/// What is restored.
fn programs() -> Vec<Pod> {
    let port = ["7000"];
    let loopback = [python("server", include_str!("programs/loopback_server.py"), &port), python("client", include_str!("programs/loopback_client.py"), &port)];
    let mut all = single_programs();
    all.push(Pod::new("loopback", loopback));
    all
}

/// Those of one container.
fn single_programs() -> Vec<Pod> {
    let limits = json!({"cpu": "300m", "memory": "96Mi"});
    vec![
        Pod::new("crowd", [python("main", include_str!("programs/menagerie.py"), &[])]),
        Pod::new("web", [http_server::server()]),
        Pod::new("redis", [container("redis", &["redis-server", "--protected-mode", "no", "--save", ""])]),
        Pod::new("glutton", [python("main", include_str!("programs/glutton.py"), &[])])
            .first("resources", json!({"limits": limits, "requests": {"cpu": "50m"}})),
    ]
}

/// So many programs at a time: other scenarios run beside this one, and each program becomes four pods.
const AT_A_TIME: usize = 2;

fn run(case: &Case) -> Result<()> {
    all_live(case, programs(), &[])
}

fn without_handler(case: &Case) -> Result<()> {
    if case.pair.runtime == "containerd" && case.class == Some("crun") {
        return refused(case);
    }
    all_live(case, single_programs(), &["--engine", "checkpoint"])
}

/// containerd cannot restore what crun runs: that is told before anything is touched.
fn refused(case: &Case) -> Result<()> {
    store(case)?;
    let Some(pod) = single_programs().into_iter().next() else { return Ok(()) };
    let origin = case.start(pod)?;
    migrate_with(&case.lab, &case.namespace, &[&origin, "--to", &case.pair.b, "--engine", "checkpoint"])?.refused("NoImport")?;
    ok(case.kubectl_migrate(&["checkpoint", &origin, "--name", &origin])?)?;
    expect(&case.kubectl_migrate(&["restore", &origin, "--name", "never", "--engine", "checkpoint"])?, "NoImport")?;
    alive(&case.pod(&origin)?)
}

/// `options` are those of each move and restore.
fn all_live(case: &Case, mut programs: Vec<Pod>, options: &[&str]) -> Result<()> {
    store(case)?;
    let mut count = 0;
    while !programs.is_empty() {
        let some: Vec<Pod> = programs.drain(..AT_A_TIME.min(programs.len())).collect();
        let restored: Vec<Vec<String>> = thread::scope(|scope| {
            let under_way: Vec<_> = some.into_iter().map(|pod| scope.spawn(|| everywhere(case, pod, options))).collect();
            under_way.into_iter().map(|one| one.join().unwrap_or_else(|_| Err(anyhow!("a program's thread panicked")))).collect::<Result<_>>()
        })?;
        thread::sleep(SETTLED);
        let all: Vec<String> = restored.into_iter().flatten().collect();
        for name in &all {
            alive(&case.pod(name)?)?;
        }
        said_to_run(case)?;
        case.lab.kubectl(&["delete", "pods", "--all", "-n", &case.namespace, "--timeout=55s"])?;
        count += all.len();
    }
    case.note(format!("{count} pods"));
    Ok(())
}

/// Every record says so of its pod.
fn said_to_run(case: &Case) -> Result<()> {
    for kind in ["podmigrations", "podrestores"] {
        wait_until(&format!("all {kind} say that their pods run"), MINUTE, || {
            let records = case.lab.get(&[kind, "-n", &case.namespace])?;
            let verdicts: Vec<&Value> = records["items"].as_array().into_iter().flatten().filter_map(healthy).collect();
            let bad = verdicts.iter().find(|verdict| verdict["reason"] != "Runs");
            ensure!(bad.is_none(), "{kind}: {bad:?}");
            Ok((Some(verdicts.len()) == records["items"].as_array().map(Vec::len)).then_some(()))
        })?;
    }
    Ok(())
}

/// Restores a program in all places. Returns the names of the pods.
fn everywhere(case: &Case, pod: Pod, options: &[&str]) -> Result<Vec<String>> {
    let origin = case.start(pod)?;
    ok(case.kubectl_migrate(&["checkpoint", &origin, "--name", &origin])?)?;
    let restore = |place: &str, node: &str| -> Result<String> {
        let name = format!("{origin}-{place}");
        ok(case.kubectl_migrate(&[&["restore", &origin, "--name", &name, "--node", node], options].concat())?)?;
        case.ready(&name)?;
        Ok(name)
    };
    let beside = restore("beside", &case.pair.a)?;
    let other = restore("other", &case.pair.b)?;
    let moved = migrate_with(&case.lab, &case.namespace, &[&[origin.as_str(), "--to", &case.pair.b], options].concat())?.moved()?.target_pod()?;
    pods::wait_gone(&case.lab, &case.namespace, &origin, case.patience())?;
    let without = restore("without", &case.pair.a)?;
    Ok(vec![beside, other, moved, without])
}

/// Every container runs, and has never been started a second time.
fn alive(pod: &Value) -> Result<()> {
    let containers = pod["status"]["containerStatuses"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(!containers.is_empty(), "{} has no containers", pods::name(pod));
    for container in containers {
        let runs = container["state"]["running"].is_object()
            && container["restartCount"] == 0
            && container["lastState"].as_object().is_none_or(|last| last.is_empty());
        ensure!(runs, "container {} of {} did not live: {container}", container["name"], pods::name(pod));
    }
    Ok(())
}
