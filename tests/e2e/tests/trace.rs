//! `kubectl migrate trace`: one stream from both nodes and the controller, before, during and after a migration, and only what concerns it.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use godwit_demo::shell::{self, Output, wait_until};
use godwit_demo::{migrate, pods};
use godwit_e2e::case::{ALIVE, MINUTE};
use godwit_e2e::user::User;
use godwit_e2e::{Case, OnMachines, Scenario};
use serde_json::{Value, json};

pub const SCENARIO: Scenario = Scenario::new("trace", "Both nodes and the controller tell of a migration in one ordered stream, and of nothing else.", run);

pub const MACHINES: Scenario =
    Scenario::new("trace-machines", "On real kernels the trace tells who sent a signal, and which program started which.", machines).machines(OnMachines::Only);

/// What an agent logs to CRI-O's settings while `--raise` lasts.
const RAISED: &str = "/etc/crio/crio.conf.d/99-godwit-trace.conf";
const LIMIT: Duration = Duration::from_secs(120);

fn run(case: &Case) -> Result<()> {
    let (witness, pod) = case.start_pulse("traced")?;
    // A second pod, moved at the same time, of which nothing must be heard.
    let (other_witness, other) = case.start_pulse("other")?;

    // Before there is anything to tell, until it has ended; the kubelets and CRI-O log more meanwhile.
    let (told, moved) = beside(case, &["trace", &pod, "--next", "--raise", "-v", "-o", "json"], || {
        let (first, second) = thread::scope(|scope| {
            let second = scope.spawn(|| case.migrate(&other, &case.pair.b));
            (case.migrate(&pod, &case.pair.b), second.join())
        });
        second.map_err(|_| anyhow!("the other migration panicked"))??.moved()?;
        first?.moved()
    })?;
    let record = moved.record.clone().context("no record")?;
    let name = pods::name(&record).to_owned();
    let live = lines(&told.stdout)?;
    complete(case, &live)?;
    concerns(&live)?;
    raised(case, &told, &live)?;
    witness.wait_for_ticks(ALIVE, MINUTE)?;
    other_witness.wait_for_ticks(ALIVE, MINUTE)?;

    // Afterwards: the same, in order.
    let after = trace(case, &[&name])?;
    complete(case, &after)?;
    concerns(&after)?;
    let times: Vec<i64> = after.iter().filter_map(|line| line["atUs"].as_i64()).collect();
    ensure!(times.len() == after.len() && times.is_sorted(), "lines of the past are not in order");
    ensure!(after.iter().all(|line| line["level"] != "debug"), "lines for -v were told without it");
    let more = trace(case, &[&name, "-v"])?;
    ensure!(more.len() > after.len(), "-v tells no more: {} and {} lines", more.len(), after.len());
    case.note(format!("{} lines live, {} after, {} with -v", live.len(), after.len(), more.len()));

    // Only a part of it.
    let criu = trace(case, &[&name, "--source", "criu", "--grep", "Dumping finished|Restore finished"])?;
    let criu: Vec<&Value> = criu.iter().filter(|line| line["source"] != "trace").collect();
    ensure!(criu.len() == 2 && criu.iter().all(|line| line["source"] == "criu"), "not the two ends of CRIU's work: {criu:#?}");
    ensure!(criu[0]["node"] == case.pair.a.as_str() && criu[1]["node"] == case.pair.b.as_str(), "CRIU did not dump and then restore: {criu:#?}");
    let recent = trace(case, &[&name, "--since", "1s"])?;
    ensure!(recent.len() < after.len(), "--since leaves nothing out");
    let text = case.kubectl_migrate(&["trace", &name])?.success()?;
    for words in ["controller", "Switching begins", "kubelet", "its clock is", "Succeeded"] {
        ensure!(text.contains(words), "{words:?} is not in:\n{text}");
    }

    taken_back(case)?;
    let user = User::with(case, "curious", &json!([{"apiGroups": ["godwit.dev"], "resources": ["podmigrations"], "verbs": ["get", "list", "watch"]}]))?;
    let refused = case.kubectl_migrate(&["trace", &name, "--kubeconfig", &user.kubeconfig()])?;
    ensure!(refused.code == 5 && refused.stderr.contains(user.name()), "{} may trace: {} {}", user.name(), refused.code, refused.stderr);
    let left = case.lab.kubectl(&["get", "migrationtraces", "-n", &case.namespace, "-o", "name"])?;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    Ok(())
}

/// What only a node in the first PID namespace of its kernel can tell.
fn machines(case: &Case) -> Result<()> {
    let (witness, pod) = case.start_pulse("traced")?;
    let (told, _) = beside(case, &["trace", &pod, "--next", "-v", "-o", "json"], || case.migrate(&pod, &case.pair.b)?.moved())?;
    let live = lines(&told.stdout)?;
    let has = |source: &str, node: &str, words: &[&str]| {
        let fits = |line: &&Value| line["source"] == source && line["node"] == node;
        live.iter().filter(fits).any(|line| line["text"].as_str().is_some_and(|text| words.iter().all(|word| text.contains(word))))
    };
    let told_of = |source: &str| live.iter().filter(|line| line["source"] == source).map(|line| line["text"].to_string()).collect::<Vec<_>>().join("\n");
    // The sealed source's tasks are ended by the agent.
    ensure!(has("signal", &case.pair.a, &["SIGKILL", "godwit-agent"]), "it is not told who ended the source's tasks:\n{}", told_of("signal"));
    ensure!(has("exec", &case.pair.b, &["→ runc["]) && has("exec", &case.pair.b, &["criu"]), "the way to CRIU is not told:\n{}", told_of("exec"));
    witness.wait_for_ticks(ALIVE, MINUTE).map(drop)
}

/// Runs a trace while something else is done. Both must end well.
fn beside<T: Send>(case: &Case, words: &[&str], work: impl FnOnce() -> Result<T> + Send) -> Result<(Output, T)> {
    thread::scope(|scope| {
        let trace = scope.spawn(|| {
            let mut all = vec!["migrate"];
            all.extend(words);
            all.extend(["-n", &case.namespace]);
            shell::run("kubectl", &all, None, LIMIT)
        });
        // It has to be waiting; one that is ordered before that is not the next one.
        thread::sleep(Duration::from_secs(2));
        let done = work();
        let told = trace.join().map_err(|_| anyhow!("the trace panicked"))??;
        let done = done?;
        ensure!(told.code == 0, "the trace ended with {}: {}\n{}", told.code, told.stderr, told.stdout);
        Ok((told, done))
    })
}

fn trace(case: &Case, words: &[&str]) -> Result<Vec<Value>> {
    let mut all = vec!["trace", "-o", "json"];
    all.extend(words);
    lines(&case.kubectl_migrate(&all)?.success()?)
}

fn lines(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))).collect()
}

/// Everybody who had a part in it has said something, on the right node.
fn complete(case: &Case, told: &[Value]) -> Result<()> {
    let said = |node: &str, source: &str| told.iter().any(|line| line["node"] == node && line["source"] == source);
    for node in [&case.pair.a, &case.pair.b] {
        for source in ["kubelet", "runtime", "agent", "criu"] {
            ensure!(said(node, source), "the {source} of {node} is not heard; there are {:?}", heard(told));
        }
    }
    for source in ["wrapper", "oci", "gate", "exec"] {
        ensure!(said(&case.pair.b, source), "{source} of the target is not heard; there are {:?}", heard(told));
    }
    ensure!(said(&case.pair.a, "network"), "the traffic gate of the source is not heard; there are {:?}", heard(told));
    let has = |source: &str, words: &str| told.iter().any(|line| line["source"] == source && line["text"].as_str().is_some_and(|text| text.contains(words)));
    for (source, words) in [
        ("controller", "ordered"),
        ("controller", "Switching begins"),
        ("controller", "Succeeded"),
        ("agent", "commit took"),
        ("criu", "Dumping finished successfully"),
        ("criu", "Restore finished successfully"),
        ("gate", "stands at the gate"),
        ("exec", "→ runc["),
    ] {
        ensure!(has(source, words), "{source} does not say {words:?}");
    }
    Ok(())
}

fn heard(told: &[Value]) -> BTreeSet<String> {
    told.iter().map(|line| format!("{}/{}", line["node"].as_str().unwrap_or("-"), line["source"].as_str().unwrap_or("?"))).collect()
}

/// Nobody speaks of another pod, but where all of a node's are listed.
fn concerns(told: &[Value]) -> Result<()> {
    let of_another = |text: &str| text.contains("/other") && !text.contains("/traced");
    let stranger = told.iter().find(|line| line["text"].as_str().is_some_and(of_another));
    ensure!(stranger.is_none(), "this is about another pod: {stranger:?}");
    Ok(())
}

/// What was raised was raised, and is as before.
fn raised(case: &Case, told: &Output, live: &[Value]) -> Result<()> {
    let kubelet = format!("kubelet of {}: level 2 → 4", case.pair.a);
    ensure!(told.stderr.contains(&kubelet), "{kubelet:?} is not in: {}", told.stderr);
    ensure!(!told.stderr.contains("could not be put back"), "{}", told.stderr);
    let runtime = |level: &str| live.iter().any(|line| line["source"] == "runtime" && line["level"] == level);
    let said = |words: &str| live.iter().any(|line| line["source"] == "trace" && line["text"].as_str().is_some_and(|text| text.contains(words)));
    if case.pair.runtime == "crio" {
        ensure!(said("CRI-O logs more") && runtime("debug"), "CRI-O logs no more than before");
    } else {
        ensure!(said("containerd logs no more than before"), "it is not said that containerd's level cannot be raised");
    }
    for node in [&case.pair.a, &case.pair.b] {
        wait_until("CRI-O's level is as before", MINUTE, || {
            Ok(case.lab.try_on_node(node, &["test", "-e", RAISED])?.code).map(|code| (code != 0).then_some(()))
        })?;
    }
    Ok(())
}

/// One that was taken back says why.
fn taken_back(case: &Case) -> Result<()> {
    let record = case.taken_back("sleeper")?.record.context("no record")?;
    ensure!(migrate::phase(&record) == "RolledBack", "it ended as {}", migrate::phase(&record));
    let told = trace(case, &[pods::name(&record)])?;
    let end = told.iter().rev().find(|line| line["source"] == "controller").context("the controller is not heard")?;
    let reason = record["status"]["failure"]["reason"].as_str().context("no reason")?;
    ensure!(end["level"] == "error" && end["text"].as_str().is_some_and(|text| text.contains(reason)), "the end does not name {reason}: {end}");
    Ok(())
}
