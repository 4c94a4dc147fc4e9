//! Godwit is uninstalled and installed again: no running pod is disturbed. The runtime handler goes from every node on which no pod needs it, and stays, for
//! restarts too, where one has come by migration. In between it is installed without a handler. A checkpoint can be deleted meanwhile, and one that stays is Godwit's again afterwards.

use anyhow::{Context, Result, ensure};
use godwit_demo::objects::{Pod, container};
use godwit_demo::shell::wait_until;
use godwit_demo::{install, pods, pulse};
use godwit_e2e::case::{ALIVE, MINUTE};
use godwit_e2e::{Case, Scenario};

use crate::checkpoint::{STORE, ok, store};

pub const SCENARIO: Scenario = Scenario::new("uninstall", "Uninstalled, Godwit takes its handler along but where a pod needs it.", run).alone();

/// The checkpoint that is deleted while there is no Godwit, and the one that is deleted when it is back.
const ORPHAN: &str = "orphan";
const KEPT: &str = "kept";
/// What is Godwit's on a node: the drop-ins, the wrapper.
const LOOK: &str = "ls -d /etc/containerd/conf.d/godwit.toml /etc/crio/crio.conf.d/50-godwit.conf /opt/godwit 2>/dev/null || true";

fn run(case: &Case) -> Result<()> {
    let (witness, pod) = case.start_pulse("came")?;
    let came = case.move_over(&pod)?;
    store(case)?;
    for name in [ORPHAN, KEPT] {
        ok(case.kubectl_migrate(&["checkpoint", &came, "--name", name])?)?;
    }
    let (kept, cleared) = (&case.pair.b, &case.pair.a);
    let uninstalled = case.untouched(&witness, &came, || install::uninstall(&case.lab));
    let checked = uninstalled.and_then(|()| {
        let left = look(case, kept)?;
        ensure!(left.len() == 3, "a pod on {kept} needs the handler, but there is only: {left:?}");
        wait_until(&format!("nothing of Godwit on {cleared}"), MINUTE, || Ok(look(case, cleared)?.is_empty().then_some(())))?;
        ensure!(case.lab.kubectl(&["get", "nodes", "-l", "godwit.dev/agent", "-o", "name"])?.is_empty(), "a node is still marked");
        delete_checkpoint(case, ORPHAN).context("without a controller")?;
        restarted_by_the_kubelet(case, &came)?;
        witness.wait_for_ticks(ALIVE, MINUTE)?;
        without_handler(case, kept, cleared)
    });
    install::install(&case.lab, true)?;
    checked?;
    case.move_over(&came).context("after Godwit was installed again")?;
    owned_again(case)?;
    let last = witness.wait_for_ticks(ALIVE, MINUTE)?;
    let history = witness.history()?;
    ensure!(history.lives.len() == 2, "not two lives, up to {last:?}: {history}");
    Ok(())
}

/// Installed with no handler at all: where none is, pods come by the runtime's own import, and nothing of a handler is put there.
fn without_handler(case: &Case, from: &str, to: &str) -> Result<()> {
    install::install_with(&case.lab, true, &["engines.live=false"])?;
    let pod = case.start_on(Pod::new("plain", [container("main", &["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done"])]), from)?;
    let moved = case.migrate(&pod, to)?.moved()?;
    let engine = moved.record.as_ref().map(|record| record["status"]["plan"]["engine"].clone()).unwrap_or_default();
    ensure!(engine == "Checkpoint", "it was planned by engine {engine}");
    let now = case.ready(&moved.target_pod()?)?;
    ensure!(pods::node(&now) == to && pods::restarts(&now) == 0, "it did not come: {now}");
    let there = look(case, to)?;
    ensure!(there == ["/opt/godwit"], "more is on {to} than Godwit's own files: {there:?}");
    case.lab.kubectl(&["delete", "pod", "-n", &case.namespace, pods::name(&now), "--timeout=55s"]).map(drop)
}

/// Files, and the handler as the kubelet hears of it from the runtime.
fn look(case: &Case, node: &str) -> Result<Vec<String>> {
    let mut found: Vec<String> = case.lab.script_on_node(node, LOOK)?.lines().map(str::to_owned).collect();
    let handlers = case.lab.kubectl(&["get", "node", node, "-o", "jsonpath={.status.runtimeHandlers[*].name}"])?;
    found.extend(handlers.split_whitespace().filter(|name| *name == "godwit").map(str::to_owned));
    Ok(found)
}

fn delete_checkpoint(case: &Case, name: &str) -> Result<()> {
    case.lab.kubectl(&["delete", "podcheckpoint", "-n", &case.namespace, name, "--timeout=30s"]).map(drop)
}

/// What is stored goes with the checkpoint that stayed, not with the one that nobody was there for.
fn owned_again(case: &Case) -> Result<()> {
    wait_until("the finalizer is there again", MINUTE, || {
        let object = case.lab.get(&["podcheckpoint", "-n", &case.namespace, KEPT])?;
        Ok(object["metadata"]["finalizers"].is_array().then_some(()))
    })?;
    delete_checkpoint(case, KEPT)?;
    let stored = case.lab.script_on_node(&case.pair.a, &format!("cd {STORE}/{}; ls; rm -r {ORPHAN}-*", case.namespace))?;
    ensure!(stored.lines().count() == 1, "the store has other than what nobody deleted: {stored}");
    Ok(())
}

/// A container under the handler ends and is started afresh, though there is no agent any more.
fn restarted_by_the_kubelet(case: &Case, pod: &str) -> Result<()> {
    case.end(pod, pulse::CONTAINER)?;
    wait_until("restarted without an agent", MINUTE, || {
        let now = case.pod(pod)?;
        Ok((pods::restarts(&now) == 1 && pods::is_ready(&now)).then_some(()))
    })
}
