//! A move that has succeeded may still end badly: a container that dies soon after it is told in the record, with what killed it as far as anybody knows, and one that
//! runs but logs nothing any more.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use godwit_demo::objects::{Pod, python};
use godwit_demo::shell::wait_until;
use godwit_demo::{migrate, pods};
use godwit_e2e::case::MINUTE;
use godwit_e2e::{Case, OnMachines, Scenario};
use serde_json::{Value, json};

use crate::checkpoint::{ok, store};

pub const SCENARIO: Scenario = Scenario::new("dies-afterwards", "What dies soon after its move is told in the record, with what killed it.", run).each_class();

pub const MACHINES: Scenario =
    Scenario::new("killer", "On real kernels it is told who sent SIGKILL to a pod that had just come.", machines).machines(OnMachines::Only).each_class();

/// Writes to its log until it is told to be quiet.
const CHATTER: &str = "import os, time\nwhile True:\n    os.path.exists('/tmp/quiet') or print('here', flush=True)\n    time.sleep(0.2)\n";
/// For how long it must have done so.
const STEADY: Duration = Duration::from_secs(22);
/// Runs until it is told to crash, or shot.
const PROGRAM: &str = include_str!("programs/mortal.py");

fn run(case: &Case) -> Result<()> {
    let probe = json!({"exec": {"command": ["test", "!", "-e", "/tmp/ill"]}, "periodSeconds": 1, "failureThreshold": 1});
    let pod = |name| Pod::new(name, [python("main", PROGRAM, &[])]);
    store(case)?;
    for name in ["quiet", "chatting"] {
        case.start(Pod::new(name, [python("main", CHATTER, &[])]))?;
    }
    let chatting_since = Instant::now();
    case.start(pod("well"))?;
    case.start(pod("killed"))?;
    case.start(pod("ill").first("readinessProbe", probe))?;

    let well = case.migrate("well", &case.pair.b)?.moved()?;
    let killed = case.migrate("killed", &case.pair.b)?.moved()?;
    case.end(&killed.target_pod()?, "main")?;
    let shot = shoot(case)?;
    ok(case.kubectl_migrate(&["checkpoint", "ill", "--name", "kept"])?)?;
    ok(case.kubectl_migrate(&["restore", "kept", "--name", "copy", "--node", &case.pair.b])?)?;
    case.end("copy", "main")?;
    std::thread::sleep(STEADY.saturating_sub(chatting_since.elapsed()));
    let quiet = case.migrate("quiet", &case.pair.b)?.moved()?;
    case.exec(&quiet.target_pod()?, "main", &["touch", "/tmp/quiet"])?;
    let chatting = case.migrate("chatting", &case.pair.b)?.moved()?;
    let ill = case.migrate("ill", &case.pair.b)?.moved()?;
    case.exec(&ill.target_pod()?, "main", &["touch", "/tmp/ill"])?;

    let (told, message) = verdict_on(case, "podrestore", &restore_of(case, "copy")?)?;
    ensure!(told == "ContainerDied" && message.contains("SIGSEGV"), "a program that has crashed after a restore is told as {told}: {message}");
    let (told, message) = verdict(case, &well)?;
    ensure!(told == "Runs", "a pod that runs is told as {told}: {message}");
    let (told, message) = verdict(case, &killed)?;
    ensure!(told == "ContainerDied" && message.contains("SIGSEGV"), "a program that has crashed is told as {told}: {message}");
    let (told, message) = verdict(case, &shot)?;
    // These nodes are sets of namespaces.
    let blind = ["exit code 137: SIGKILL, and nobody that Kubernetes knows of", "not in the first pid namespace"];
    ensure!(told == "ContainerDied" && blind.iter().all(|part| message.contains(part)), "a program that was shot is told as {told}: {message}");
    let (told, message) = verdict(case, &ill)?;
    ensure!(told == "NotReady" && message.contains("Readiness probe failed"), "a failing probe is told as {told}: {message}");

    let (told, message) = verdict(case, &chatting)?;
    ensure!(told == "Runs", "a pod that logs as before is told as {told}: {message}");
    let (told, message) = verdict(case, &quiet)?;
    ensure!(told == "LogSilent" && message.contains("container main"), "a pod that has fallen silent is told as {told}: {message}");

    let status = case.kubectl_migrate(&["status", name(&killed)?])?.success()?;
    ensure!(status.contains("SIGSEGV"), "kubectl migrate status does not tell:\n{status}");
    let events = case.lab.kubectl(&["get", "events", "-n", &case.namespace, "--field-selector", "reason=DiedAfterMove", "-o", "name"])?;
    ensure!(!events.trim().is_empty(), "no event tells of it");
    Ok(())
}

fn machines(case: &Case) -> Result<()> {
    let shot = shoot(case)?;
    let (told, message) = verdict(case, &shot)?;
    let sender = ["exit code 137: SIGKILL to python3[", "sent by sh[", "a process of the node"];
    ensure!(told == "ContainerDied" && sender.iter().all(|part| message.contains(part)), "a program that was shot is told as {told}: {message}");
    let trace = case.kubectl_migrate(&["trace", name(&shot)?])?.success()?;
    ensure!(
        trace.lines().any(|line| line.contains("SIGKILL to python3[") && line.contains(sender[1])),
        "the trace does not tell who has sent SIGKILL:\n{trace}"
    );
    Ok(())
}

/// Starts a pod, moves it, and kills it from the node.
fn shoot(case: &Case) -> Result<migrate::Move> {
    let mark = &case.namespace;
    case.start(Pod::new("shot", [python("main", PROGRAM, &[&format!("to-be-shot-in-{mark}")])]))?;
    let shot = case.migrate("shot", &case.pair.b)?.moved()?;
    // The shell is not to find itself, and stays for a moment, so that it can be named.
    case.lab.script_on_node(&case.pair.b, &format!("kill -KILL $(pgrep -f '[t]o-be-shot-in-{mark}'); sleep 0.5; :"))?;
    Ok(shot)
}

/// Name of the record.
fn name(moved: &migrate::Move) -> Result<&str> {
    moved.record.as_ref().map(pods::name).context("no record")
}

/// Reason and message of the condition `Healthy`, once it is there.
fn verdict(case: &Case, moved: &migrate::Move) -> Result<(String, String)> {
    verdict_on(case, "podmigration", name(moved)?)
}

fn verdict_on(case: &Case, kind: &str, name: &str) -> Result<(String, String)> {
    wait_until(&format!("a verdict on the pod of {kind} {name}"), MINUTE, || {
        let record = case.lab.get(&[kind, "-n", &case.namespace, name])?;
        let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
        Ok(healthy(&record).map(|one| (text(one, "reason"), text(one, "message"))))
    })
}

/// The condition `Healthy` of a record, once it is there.
pub fn healthy(record: &Value) -> Option<&Value> {
    record["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == "Healthy")
}

/// Name of the PodRestore that has made a pod.
fn restore_of(case: &Case, pod: &str) -> Result<String> {
    let all = case.lab.get(&["podrestores", "-n", &case.namespace])?;
    let items = all["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().find(|one| one["status"]["pod"] == pod).map(|one| pods::name(one).to_owned()).with_context(|| format!("no PodRestore of {pod}"))
}
