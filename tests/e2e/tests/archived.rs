//! `kubectl migrate run ARCHIVE`: what the kubelet's checkpoint API has written is restored on another node by its runtime alone, over CRI.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::lab::Lab;
use godwit_demo::objects::{Pod, container};
use godwit_demo::shell::wait_until;
use godwit_e2e::case::{Good, MINUTE};
use godwit_e2e::{Case, Scenario};
use serde_json::{Value, json};

use crate::checkpoint::COUNTER;
use crate::unfit_targets::wait_ready_is;

pub const SCENARIO: Scenario =
    Scenario::new("archive-over-cri", "An archive of the kubelet's is restored by the runtime of a node without a kubelet; a damaged one is not.", run).alone();

/// The plugin, in the root of the node's agent.
const PLUGIN: &str = "/proc/$(pgrep -o -x godwit-agent)/root/usr/local/bin/kubectl-migrate";
const LIMIT: Duration = Duration::from_secs(120);

fn run(case: &Case) -> Result<()> {
    if case.pair.runtime != "crio" {
        case.note("not tried: containerd pulls the container's image by its name before, and the lab's are in no registry");
        return Ok(());
    }
    let pod = case.start(Pod::new("archived", [container("main", &["sh", "-c", COUNTER])]).with("automountServiceAccountToken", json!(false)))?;
    let before = case.good(&pod, "main", 0)?;
    let call = format!("/api/v1/nodes/{}/proxy/checkpoint/{}/{pod}/main", case.pair.a, case.namespace);
    let answer = case.lab.command(&["kubectl", "create", "--raw", &call, "-f", "/dev/null"], LIMIT)?;
    let archive = serde_json::from_str::<Value>(&answer)?["items"][0].as_str().context("the kubelet names no archive")?.to_owned();
    let shared = format!("/srv/shared/{}.tar", case.namespace);
    case.lab.script_on_node(&case.pair.a, &format!("mv {archive} {shared}"))?;
    let node = &case.pair.b;
    let refused = migrate(&case.lab, node, &format!("run {shared}"))?;
    ensure!(refused.contains("exit code 5") && refused.contains("kubelet runs on this node"), "beside a kubelet it says:\n{refused}");
    case.lab.command(&["node", "stop", node, "kubelet"], MINUTE)?;
    let gone =
        || wait_until("the kubelet has ended", MINUTE, || Ok(case.lab.script_on_node(node, "pgrep -x kubelet || true")?.trim().is_empty().then_some(())));
    let restored = gone().and_then(|()| restored(case, node, &shared, &before));
    case.lab.command(&["node", "resume", node, "kubelet"], MINUTE)?;
    case.lab.script_on_node(node, &format!("rm -f {shared} {shared}.cut"))?;
    wait_ready_is(case, node, true)?;
    restored
}

fn restored(case: &Case, node: &str, archive: &str, before: &Good) -> Result<()> {
    case.lab.script_on_node(node, &format!("head -c -70000 {archive} > {archive}.cut"))?;
    let damaged = migrate(&case.lab, node, &format!("run {archive}.cut"))?;
    ensure!(damaged.contains("exit code 5") && damaged.contains("cannot read"), "of a damaged archive it says:\n{damaged}");
    let said = migrate(&case.lab, node, &format!("run {archive} --name over-cri"))?;
    ensure!(said.contains("exit code 0") && said.contains("restored from"), "it says:\n{said}");
    let sandbox = said.split_whitespace().skip_while(|word| *word != "--remove").nth(1).context("it names no sandbox")?.to_owned();
    let log = said.lines().find_map(|line| line.trim().strip_prefix("log: ")).context("it names no log")?.to_owned();
    let goes_on = wait_until("the counter goes on", MINUTE, || {
        let log = case.lab.script_on_node(node, &format!("tail -n 5 {log}"))?;
        let last = log.lines().rev().find_map(|line| line.split_once(" F ").and_then(|(_, line)| Good::read(line)));
        Ok(last.filter(|good| good.turn > before.turn))
    });
    let removed = migrate(&case.lab, node, &format!("run --remove {sandbox}"))?;
    ensure!(removed.contains("exit code 0"), "it is not removed:\n{removed}");
    let after = goes_on?;
    ensure!(after.rest == before.rest, "it is another process: {before:?}, now {after:?}");
    Ok(())
}

/// Runs it as root of a node; its exit code is in the last line.
fn migrate(lab: &Lab, node: &str, words: &str) -> Result<String> {
    lab.command(&["node", "exec", node, "--", "bash", "-uc", &format!("{PLUGIN} {words} 2>&1; echo \"exit code $?\"")], LIMIT)
}
