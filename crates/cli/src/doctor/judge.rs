//! What the nodes' answers mean together, and what the kubelet's settings mean. Pure.

use std::collections::BTreeMap;

use godwit_api::check::{Check, CheckState};
use godwit_migration::plan::{Needs, Node, compare};
use serde_json::Value;

use super::{Subject, check};

/// What keeps pods from moving between two nodes.
pub fn differences(nodes: &[Subject]) -> Vec<Check> {
    let known: Vec<Node> = nodes.iter().filter_map(node).collect();
    let mut checks = Vec::new();
    if known.len() < 2 {
        checks.push(check(
            "cluster",
            "nodes",
            CheckState::Warning,
            format!("{} with an agent that answers", known.len()),
            "a pod needs another node to go to: see the nodes above",
        ));
        return checks;
    }
    // Many pairs of nodes say the same: each reason is told once, with the pairs.
    let mut found: BTreeMap<String, (Vec<String>, String, String)> = BTreeMap::new();
    for (from, to) in known.iter().flat_map(|from| known.iter().map(move |to| (from, to))).filter(|(from, to)| from.name != to.name) {
        for blocker in compare(from, to, Needs::default()).blockers.into_iter().filter(|blocker| !blocker.reason.starts_with("Criu")) {
            let entry = found.entry(blocker.reason).or_insert_with(|| (Vec::new(), blocker.message, blocker.remedy));
            entry.0.push(format!("{} → {}", from.name, to.name));
        }
    }
    for (reason, (pairs, message, remedy)) in found {
        let shown = pairs.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        let more = if pairs.len() > 4 { format!(" and {} more", pairs.len() - 4) } else { String::new() };
        checks.push(check("cluster", &reason, CheckState::Warning, format!("{message}; pods cannot go {shown}{more}"), remedy));
    }
    if checks.is_empty() {
        checks.push(check("cluster", "nodes match", CheckState::Ok, format!("pods can go from any of {} nodes to any other", known.len()), ""));
    }
    checks
}

fn node(subject: &Subject) -> Option<Node> {
    let facts = subject.facts.as_ref()?;
    Some(Node {
        name: subject.name.clone(),
        architecture: facts.architecture.clone(),
        cpu_flags: facts.cpu_flags.clone(),
        kernel: facts.kernel.clone(),
        criu: facts.criu.clone(),
        cgroup: facts.cgroup.clone(),
        agent: facts.agent.clone(),
    })
}

/// The kubelet's settings, as `/configz` tells them.
pub fn kubelet(configz: &Value) -> Vec<Check> {
    let config = &configz["kubeletconfig"];
    if !config.is_object() {
        return vec![check("kubelet", "settings", CheckState::Unknown, "/configz holds no settings", "enable the kubelet's debugging handlers")];
    }
    let mut checks = Vec::new();
    let timeout = config["runtimeRequestTimeout"].as_str().and_then(seconds);
    checks.push(match timeout {
        Some(seconds) if seconds < 120 => check(
            "kubelet",
            "runtimeRequestTimeout",
            CheckState::Warning,
            format!("{seconds} s: a slow sandbox at the target is given up early"),
            "set runtimeRequestTimeout: 2m in the kubelet's configuration",
        ),
        Some(seconds) => check("kubelet", "runtimeRequestTimeout", CheckState::Ok, format!("{seconds} s"), ""),
        None => check("kubelet", "runtimeRequestTimeout", CheckState::Unknown, "not told", "look at the kubelet's configuration"),
    });
    let driver = config["cgroupDriver"].as_str().unwrap_or("unknown");
    checks.push(check("kubelet", "cgroupDriver", CheckState::Ok, driver, ""));
    let gate = &config["featureGates"]["ContainerCheckpoint"];
    let found = match gate.as_bool() {
        Some(true) => "on (not needed for live migration)",
        Some(false) => "off (not needed for live migration)",
        None => "as by default (not needed for live migration)",
    };
    checks.push(check("kubelet", "ContainerCheckpoint", CheckState::Ok, found, ""));
    checks
}

/// Seconds of `2m0s`, `15m`, `1h0m0s`.
fn seconds(text: &str) -> Option<i64> {
    text.parse::<jiff::SignedDuration>().ok().map(|time| time.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use godwit_api::check::Facts;
    use serde_json::json;

    fn subject(name: &str, flags: &[&str], cgroup: &str) -> Subject {
        let facts = Facts {
            architecture: "x86_64".into(),
            cpu_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            kernel: "6.18".into(),
            criu: "4.2".into(),
            cgroup: cgroup.into(),
            agent: "0.1.0".into(),
            runtime: "containerd 2".into(),
        };
        Subject { name: name.into(), facts: Some(facts), checks: Vec::new() }
    }

    #[test]
    fn nodes_that_match() {
        let checks = differences(&[subject("a", &["avx"], "v2"), subject("b", &["avx"], "v2")]);
        assert_eq!((checks.len(), checks[0].state), (1, CheckState::Ok));
    }

    #[test]
    fn differences_are_told_once_with_the_pairs() {
        let checks = differences(&[subject("a", &["avx", "avx512f"], "v2"), subject("b", &["avx"], "v2"), subject("c", &["avx"], "v1")]);
        let named: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
        assert_eq!(named, ["CgroupVersionDiffers", "CpuFeaturesMissing"]);
        assert!(checks[1].found.contains("a → b, a → c") && checks[1].found.contains("avx512f"), "{}", checks[1].found);
        assert_eq!(differences(&[subject("a", &[], "v2")])[0].state, CheckState::Warning);
    }

    #[test]
    fn kubelets_are_judged() {
        let checks = kubelet(&json!({"kubeletconfig": {"runtimeRequestTimeout": "2m0s", "cgroupDriver": "systemd"}}));
        assert!(checks.iter().all(|check| check.state == CheckState::Ok), "{checks:?}");
        assert_eq!(kubelet(&json!({"kubeletconfig": {"runtimeRequestTimeout": "30s"}}))[0].state, CheckState::Warning);
        assert_eq!(kubelet(&json!(null))[0].state, CheckState::Unknown);
    }
}
