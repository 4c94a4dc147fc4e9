//! `kubectl migrate doctor`: every node is looked at, what is broken is named with the way to mend it, and what is ours is mended on demand. `doctor POD` plans.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::objects::{Pod, container};
use godwit_demo::shell::wait_until;
use godwit_e2e::case::{ALIVE, MINUTE};
use godwit_e2e::user::User;
use godwit_e2e::{Case, Scenario};
use serde_json::{Value, json};

pub const SCENARIO: Scenario = Scenario::new("doctor", "What a node lacks is named with the way to mend it; whether a pod could move, and where to.", run);

/// What must be looked at on every node.
const LOOKED_AT: [&str; 16] = [
    "Ready",
    "version",
    "checkpoint/restore",
    "userfaultfd WP async",
    "time namespaces",
    "criu check",
    "CAP_SYS_RESOURCE",
    "runc",
    "crun",
    "nftables",
    "VXLAN",
    "CNI",
    "/run",
    "runtime handler",
    "certificate",
    "clock",
];
/// How long a question about a node may take.
const ASKED: Duration = Duration::from_secs(15);
const WRAPPER: &str = "/opt/godwit/bin/godwit-runtime";

fn run(case: &Case) -> Result<()> {
    let node = &case.pair.b;
    let (code, healthy) = doctor(case, &["--node", node])?;
    ensure!(code == 0 && healthy["ok"] == true, "{node} is not well: {:#}", failed(&healthy));
    let checks = of(&healthy, node)?;
    for name in LOOKED_AT {
        ensure!(checks.iter().any(|check| check["name"] == name), "{name} was not looked at");
    }
    let mute = checks.iter().find(|check| check["state"] != "Ok" && check["fix"].as_str().is_none_or(str::is_empty));
    ensure!(mute.is_none(), "no way out in {mute:?}");
    // Another scenario may just have killed an agent somewhere.
    let text = wait_until("all nodes are well", MINUTE, || {
        let text = case.kubectl_migrate(&["doctor"])?;
        for words in [case.pair.a.as_str(), node, "✔ pods can move", "userfaultfd WP async", "cluster"] {
            ensure!(text.stdout.contains(words), "{words:?} is not in:\n{}{}", text.stdout, text.stderr);
        }
        Ok(Some(text))
    })?;
    case.note(text.stdout.lines().last().unwrap_or_default().trim_start_matches(['✔', ' ']).to_owned());

    broken(case, node)?;
    let of_node = || -> Result<BTreeSet<String>> {
        Ok(case.lab.kubectl(&["get", "nodechecks", "-o", "name"])?.lines().filter(|name| name.contains(node.as_str())).map(str::to_owned).collect())
    };
    // Another scenario may just be asking about this node: what it made goes soon.
    let there = of_node()?;
    wait_until("no NodeCheck is left", ASKED, || Ok(of_node()?.is_disjoint(&there).then_some(())))?;

    let user = User::with(case, "curious", &json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]))?;
    let refused = case.kubectl_migrate(&["doctor", "--kubeconfig", &user.kubeconfig()])?;
    ensure!(refused.code == 5 && refused.stderr.contains(user.name()), "{} may look at nodes: {} {}", user.name(), refused.code, refused.stderr);
    of_pods(case)
}

/// Our own file is damaged: named, and mended by `--fix` only.
fn broken(case: &Case, node: &str) -> Result<()> {
    let damage = format!("cp {WRAPPER} {WRAPPER}.e2e && echo damaged >> {WRAPPER}.e2e && mv {WRAPPER}.e2e {WRAPPER}");
    case.lab.script_on_node(node, &damage)?;
    let look = doctor(case, &["--node", node]);
    let mended = doctor(case, &["--node", node, "--fix"]);
    let (code, sick) = look?;
    let wrapper = of(&sick, node)?.into_iter().find(|check| check["name"] == "wrapper").context("the wrapper was not looked at")?;
    ensure!(code == 1 && sick["ok"] == false && wrapper["state"] == "Failed", "a damaged wrapper was not noticed: {wrapper}");
    ensure!(wrapper["fix"] == "kubectl migrate doctor --fix", "{wrapper}");
    let (code, well) = mended?;
    ensure!(code == 0 && well["ok"] == true, "--fix did not mend it: {:#}", failed(&well));
    Ok(())
}

/// Could this pod move?
fn of_pods(case: &Case) -> Result<()> {
    let (witness, pod) = case.start_pulse("patient")?;
    case.untouched(&witness, &pod, || {
        let text = case.kubectl_migrate(&["doctor", &pod])?.success()?;
        ensure!(text.contains(&format!("✔ {pod} can be moved to")) && text.contains(&case.pair.b), "{text}");
        let verdict: Value = serde_json::from_str(&case.kubectl_migrate(&["doctor", &pod, "-o", "json"])?.success()?)?;
        let places = verdict["places"].as_array().context("no places")?;
        ensure!(places.len() + 1 == case.lab.nodes().len(), "not every other node was asked: {verdict}");
        ensure!(places.iter().any(|place| place["node"] == case.pair.b.as_str() && place["can"] == true), "{verdict}");
        Ok(())
    })?;
    witness.wait_for_ticks(ALIVE, MINUTE)?;
    let rooted = Pod::new("rooted", [container("main", &["sleep", "3600"])]).with("volumes", json!([{"name": "v", "hostPath": {"path": "/tmp"}}]));
    case.start(rooted)?;
    let refused = case.kubectl_migrate(&["doctor", "rooted"])?;
    ensure!(
        refused.code == 1 && refused.stdout.contains("✘ rooted cannot be moved") && refused.stdout.contains("HostPath"),
        "{}{}",
        refused.stdout,
        refused.stderr
    );
    ensure!(case.lab.get(&["podmigrations", "-n", &case.namespace])?["items"].as_array().is_some_and(Vec::is_empty), "a dry run left its record");
    Ok(())
}

fn doctor(case: &Case, words: &[&str]) -> Result<(i32, Value)> {
    let mut all = vec!["doctor", "-o", "json"];
    all.extend(words);
    let output = case.kubectl_migrate(&all)?;
    let report = serde_json::from_str(&output.stdout).with_context(|| format!("no report: {}{}", output.stdout, output.stderr))?;
    Ok((output.code, report))
}

fn of(report: &Value, node: &str) -> Result<Vec<Value>> {
    let subject = report["subjects"].as_array().into_iter().flatten().find(|subject| subject["name"] == node);
    subject.and_then(|subject| subject["checks"].as_array().cloned()).with_context(|| format!("{node} is not in {report}"))
}

fn failed(report: &Value) -> Value {
    let checks = report["subjects"].as_array().into_iter().flatten().flat_map(|subject| subject["checks"].as_array().into_iter().flatten());
    checks.filter(|check| check["state"] == "Failed").cloned().collect()
}
