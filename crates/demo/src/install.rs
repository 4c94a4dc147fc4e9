//! Godwit installed on the lab as a user would: its image loaded, its Helm chart installed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::shell::wait_until;

/// Namespace of controller and agents.
pub const NAMESPACE: &str = "godwit-system";
/// Name of the Helm release.
pub const RELEASE: &str = "godwit";
/// Label of nodes whose agent is ready.
const READY: &str = "godwit.dev/agent";
/// Folder on every node where tests put orders for fault points.
pub const FAULTS: &str = "/var/lib/godwit/faults";
/// How long image, chart and agents may take each.
const LIMIT: Duration = Duration::from_secs(240);

/// The chart of this repository.
///
/// # Errors
/// When it is not there.
pub fn chart() -> Result<PathBuf> {
    let given = std::env::var_os("GODWIT_CHART").map(PathBuf::from);
    let chart = given.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/chart/godwit")));
    ensure!(chart.join("Chart.yaml").is_file(), "there is no Helm chart in {}", chart.display());
    Ok(chart)
}

/// Loads the image into the nodes and installs the chart; returns when every node's agent is ready. Parts that run an older image are started anew.
///
/// # Errors
/// When one of these steps fails.
pub fn install(lab: &Lab, faults: bool) -> Result<()> {
    install_with(lab, faults, &[])
}

/// The same with other values of the chart (`name=value`).
///
/// # Errors
/// As there.
pub fn install_with(lab: &Lab, faults: bool, values: &[&str]) -> Result<()> {
    let chart = chart()?;
    lab.command(&["image"], LIMIT).context("Godwit's image was not built")?;
    // Helm installs definitions once and never changes them.
    let crds = chart.join("crds");
    lab.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &crds.to_string_lossy()]).context("the definitions were not taken")?;
    let known = lab.try_kubectl(&["get", "namespace", NAMESPACE])?.code == 0;
    let switch = format!("faults.directory={}", if faults { FAULTS } else { "" });
    let chart = chart.to_string_lossy();
    let authority = format!("checkpoints.registries.ca={}", lab.authority()[0].display());
    let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/../../lab/godwit/values.yaml");
    let mut arguments = vec![
        "helm",
        "upgrade",
        "--install",
        RELEASE,
        &chart,
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--wait",
        "--timeout",
        "180s",
        "-f",
        ours,
        "--set",
        &switch,
        "--set-file",
        &authority,
    ];
    values.iter().for_each(|value| arguments.extend(["--set", value]));
    lab.command(&arguments, LIMIT).context("the chart was not installed")?;
    if known {
        // The image keeps its name, so Kubernetes does not see that it has changed.
        lab.kubectl(&["rollout", "restart", "-n", NAMESPACE, "daemonset,deployment"])?;
    }
    wait_ready(lab)
}

/// Changes values of what is installed (`name=value`) and keeps the others; returns when controller and agents are there again.
///
/// # Errors
/// When Helm does not succeed, or they do not come.
pub fn configure(lab: &Lab, values: &[&str]) -> Result<()> {
    let chart = chart()?;
    let chart = chart.to_string_lossy();
    let mut arguments = vec!["helm", "upgrade", RELEASE, &chart, "--namespace", NAMESPACE, "--reset-then-reuse-values", "--wait", "--timeout", "180s"];
    values.iter().for_each(|value| arguments.extend(["--set", value]));
    lab.command(&arguments, LIMIT).context("the values were not taken")?;
    wait_ready(lab)
}

/// Whether what is installed listens to orders for fault points.
///
/// # Errors
/// When kubectl does not succeed.
pub fn has_faults(lab: &Lab) -> Result<bool> {
    let agents = lab.kubectl(&["get", "daemonset", "-n", NAMESPACE, "-o", "json"])?;
    Ok(agents.contains(FAULTS))
}

/// Waits until controller and agents are there in the wanted numbers and all nodes are marked.
///
/// # Errors
/// When they are not in time.
pub fn wait_ready(lab: &Lab) -> Result<()> {
    for kind in ["daemonset", "deployment"] {
        for name in lab.kubectl(&["get", kind, "-n", NAMESPACE, "-o", "name"])?.lines() {
            lab.command(&["kubectl", "rollout", "status", "-n", NAMESPACE, name, "--timeout=150s"], LIMIT)?;
        }
    }
    wait_until("an agent on every node", LIMIT, || {
        let marked = lab.kubectl(&["get", "nodes", "-l", READY, "-o", "name"])?;
        Ok((marked.lines().count() == lab.nodes().len()).then_some(()))
    })
}

/// Takes Godwit away again.
///
/// # Errors
/// When Helm does not succeed.
pub fn uninstall(lab: &Lab) -> Result<()> {
    lab.command(&["helm", "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", "120s"], LIMIT).map(drop)
}
