//! Nodes that are too different: another cgroup version, a CPU without what the pod may use. Named in the plan, the pod untouched, in both directions.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use godwit_demo::migrate::migrate_with;
use godwit_demo::{pods, pulse};
use godwit_e2e::case::{ALIVE, MINUTE};
use godwit_e2e::{Case, OnMachines, Scenario};

use crate::refusals::explained;

pub const SCENARIO: Scenario =
    Scenario::new("strangers", "Between a virtual machine and another node no pod moves, and the plan says why.", run).machines(OnMachines::Only);

/// Features that a CPU of the lab may have and another not: enough to know whether the plan must name some.
const FEATURES: [&str; 6] = ["3dnow", "sse4a", "avx512f", "avx512bw", "avx512_vnni", "amx_tile"];

/// What of a node matters here.
struct About {
    cgroup: String,
    features: BTreeSet<String>,
    kernel: String,
}

impl About {
    fn of(case: &Case, node: &str) -> Result<Self> {
        let text = case.lab.script_on_node(node, "stat -fc %T /sys/fs/cgroup; uname -r; grep -m 1 ^flags /proc/cpuinfo")?;
        let mut lines = text.lines();
        let cgroup = if lines.next().context("no file system")? == "cgroup2fs" { "v2" } else { "v1" }.to_owned();
        let kernel = lines.next().context("no kernel")?.to_owned();
        let has: Vec<&str> = lines.next().context("no flags")?.split_whitespace().collect();
        let features = FEATURES.iter().filter(|feature| has.contains(feature)).map(|feature| (*feature).to_owned()).collect();
        Ok(Self { cgroup, features, kernel })
    }

    /// What a plan must name when a pod is to leave this node for another.
    fn in_the_way(&self, target: &Self) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        if self.cgroup != target.cgroup {
            reasons.push("CgroupVersionDiffers");
        }
        if !self.features.is_subset(&target.features) {
            reasons.push("CpuFeaturesMissing");
        }
        reasons
    }
}

fn run(case: &Case) -> Result<()> {
    let machine = &case.pair.a;
    let other = case.lab.nodes().iter().find(|node| node.vm.is_none()).context("the lab has virtual machines only")?.name.clone();
    let (inside, outside) = (About::of(case, machine)?, About::of(case, &other)?);
    refused(case, machine, &other, &inside.in_the_way(&outside), |pod| another_kernel(case, pod, &inside))?;
    refused(case, &other, machine, &outside.in_the_way(&inside), |_| Ok(()))
}

/// A pod on `from` may not go to `to`, for all these reasons.
fn refused(case: &Case, from: &str, to: &str, reasons: &[&str], besides: impl Fn(&str) -> Result<()>) -> Result<()> {
    let witness = case.witness()?;
    let pod = case.start_on(pulse::pod(&format!("on-{from}"), witness.address()), from)?;
    witness.wait_for_ticks(ALIVE, MINUTE)?;
    case.untouched(&witness, &pod, || {
        besides(&pod)?;
        let Some(first) = reasons.first() else {
            case.note(format!("{from} and {to} are alike"));
            return Ok(());
        };
        let moved = explained(case.migrate(&pod, to)?.refused(first)?)?;
        ensure!(reasons.iter().all(|reason| moved.text().contains(reason)), "not all of {reasons:?} are in:\n{}", moved.text());
        case.note(format!("{from} → {to}: {}", reasons.join(", ")));
        Ok(())
    })?;
    case.lab.kubectl(&["delete", "pod", "-n", &case.namespace, &pod])?;
    pods::wait_gone(&case.lab, &case.namespace, &pod, case.patience())
}

/// Another kernel alone is no obstacle: it is said.
fn another_kernel(case: &Case, pod: &str, here: &About) -> Result<()> {
    let there = About::of(case, &case.pair.b)?;
    ensure!(here.kernel != there.kernel, "both virtual machines have the kernel {}", here.kernel);
    let planned = migrate_with(&case.lab, &case.namespace, &[pod, "--to", &case.pair.b, "--dry-run"])?.moved()?;
    let warning = format!("the kernel changes from {} to {}", here.kernel, there.kernel);
    ensure!(planned.text().contains(&warning), "{warning:?} is not in:\n{}", planned.text());
    Ok(())
}
