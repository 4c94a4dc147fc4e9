//! The cluster as a whole: up, down, health.
//!
//! ```text
//!  up:  ingredients ─▶ sweep leftovers ─▶ switch ─▶ control plane ────────────┐
//!                                    └─▶ nodes ─▶ runtimes ─▶ images ─┐       ▼
//!                                                   kubelets ◀────────┴── API server ready ─▶ nodes Ready ─▶ base objects
//! ```

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::cache::{digest, remove};
use crate::cgroups::{self, Cgroups};
use crate::control::Request;
use crate::images::{self, Image};
use crate::ingredients::Ingredients;
use crate::machine::{Machine, MachineSpec};
use crate::pki::{Authority, kubeconfig, write_private};
use crate::progress::Progress;
use crate::settings::Settings;
use crate::topology::{Node, SWITCH, Topology};
use crate::{kubelet, network, prerequisites, runtimes, switch};

/// Raised whenever the lab's own configuration changes in a way that a running cluster does not follow.
const REVISION: &str = "1";

/// What `up` wrote down about the running cluster.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// Digest of all that the cluster was made from.
    pub made_from: String,
    /// Its nodes.
    pub topology: Topology,
    /// Whether this lab mounted the hugetlb hierarchy.
    pub mounted_hugetlb: bool,
    /// Whether it came up wholly.
    pub complete: bool,
}

impl Record {
    /// The record of the current lab, if there is one.
    pub fn read(settings: &Settings) -> Option<Self> {
        let text = fs::read(settings.state.join("lab.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn write(&self, settings: &Settings) -> Result<()> {
        let temporary = settings.state.join("lab.json.new");
        fs::write(&temporary, serde_json::to_vec_pretty(self)?)?;
        Ok(fs::rename(&temporary, settings.state.join("lab.json"))?)
    }
}

/// Brings the cluster up, or leaves it as it is when it is the wanted one and healthy.
pub fn up(settings: &Settings, topology: &Topology, progress: &Progress) -> Result<()> {
    let ingredients = Ingredients::of(settings)?;
    let fresh = ingredients.are_fresh();
    prerequisites::check(settings, topology, !fresh)?;
    let mut parts = vec![REVISION.to_owned(), serde_json::to_string(topology)?];
    parts.extend(ingredients.keys().into_iter().map(str::to_owned));
    let made_from = digest(&parts.iter().map(String::as_str).collect::<Vec<_>>());
    let known = Record::read(settings);
    let same = known
        .as_ref()
        .is_some_and(|record| record.complete && record.made_from == made_from);
    if same && fresh && is_healthy(settings, topology) {
        progress.line("✔ the lab is up already");
        return Ok(());
    }
    if known.is_some() || Cgroups::detect()?.any() {
        progress.step("sweep what an earlier lab left", || sweep(settings))?;
    }
    ingredients.ensure(progress)?;
    let images = progress.step("container images", || {
        images::ensure(settings, ingredients.app_key(), ingredients.pause_key())
    })?;
    let mut record = Record {
        made_from,
        topology: topology.clone(),
        mounted_hugetlb: false,
        complete: false,
    };
    record.write(settings)?;
    record.mounted_hugetlb = cgroups::mount_hugetlb(&Cgroups::detect()?)?;
    record.write(settings)?;
    start(settings, topology, &images, progress)?;
    record.complete = true;
    record.write(settings)?;
    progress.line(&format!(
        "✔ {} nodes are Ready after {:.1} s; try: godwit-lab kubectl get nodes",
        topology.nodes.len(),
        progress.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn start(
    settings: &Settings,
    topology: &Topology,
    images: &[Image],
    progress: &Progress,
) -> Result<()> {
    let authority = Authority::new()?;
    let admin = authority.client("godwit-lab-admin", Some("system:masters"))?;
    write_private(
        &settings.kubeconfig(),
        &kubeconfig(&switch::server(), &authority.ca.cert, &admin),
    )?;
    let control = switch::prepare(settings, &authority)?.start()?;
    network::wire_switch(&control)?;
    switch::start_api(&control)?;
    thread::scope(|scope| {
        let ready = scope.spawn(|| {
            progress.step("control plane", || {
                wait_until(120, "the API server is not ready; see its log", || {
                    kubectl(settings, &["get", "--raw", "/readyz"]).is_ok()
                })?;
                switch::start_controllers(&control)
            })
        });
        let mut nodes = Vec::new();
        for node in &topology.nodes {
            let (authority, control) = (&authority, &control);
            nodes.push(scope.spawn(move || -> Result<(Node, Machine)> {
                let machine = progress.step(
                    &format!("{} with {}", node.name, node.runtime.name()),
                    || {
                        let spec = kubelet::prepare(settings, topology, node, authority)?;
                        start_node(&spec, node, control, images)
                    },
                )?;
                Ok((node.clone(), machine))
            }));
        }
        let nodes: Vec<(Node, Machine)> = nodes.into_iter().map(join).collect::<Result<_>>()?;
        join(ready)?;
        for (node, machine) in &nodes {
            kubelet::start(node, machine)?;
        }
        if let Some((node, _)) = nodes.first() {
            network::route_services(&control, node)?;
        }
        apply(settings, &base_objects())?;
        progress.step("nodes Ready", || {
            wait_until(
                60,
                "the controllers made no default service account",
                || kubectl(settings, &["get", "serviceaccount", "default"]).is_ok(),
            )?;
            wait_until(
                120,
                "not all nodes became Ready; see their kubelet.log",
                || nodes_ready(settings, topology),
            )
        })
    })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle
        .join()
        .map_err(|_| anyhow!("a thread of the lab ended early"))?
}

fn start_node(
    spec: &MachineSpec,
    node: &Node,
    control: &Machine,
    images: &[Image],
) -> Result<Machine> {
    let machine = spec.start()?;
    network::wire_node(control, node, &machine)?;
    runtimes::start(node, &machine)?;
    let socket = machine.path(node.runtime.socket());
    wait_until(
        30,
        &format!("{} does not answer", node.runtime.name()),
        || std::os::unix::net::UnixStream::connect(&socket).is_ok(),
    )?;
    images::load_missing(node, &machine, images)?;
    Ok(machine)
}

/// RuntimeClass for the plain second handler.
fn base_objects() -> String {
    serde_json::json!({
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "crun"},
        "handler": "crun",
    })
    .to_string()
}

/// Takes the lab away; the cache stays.
pub fn down(settings: &Settings) -> Result<()> {
    sweep(settings)?;
    remove(&settings.state.join("machines"))?;
    remove(&settings.kubeconfig())?;
    remove(&settings.state.join("lab.json"))
}

/// Ends every process of the lab and removes its cgroups, namespaces' name and mounts, and what a cluster wrote.
fn sweep(settings: &Settings) -> Result<()> {
    let record = Record::read(settings);
    Cgroups::detect()?.clear()?;
    network::unname_switch();
    if record.is_some_and(|record| record.mounted_hugetlb) {
        cgroups::unmount_hugetlb();
    }
    let machines = settings.state.join("machines");
    let deadline = Instant::now() + Duration::from_secs(10);
    // Mount namespaces are torn down a moment after their last process.
    while let Err(error) = remove(&machines) {
        if Instant::now() > deadline {
            return Err(error);
        }
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Whether the recorded cluster runs and answers.
pub fn is_healthy(settings: &Settings, topology: &Topology) -> bool {
    let names = topology.nodes.iter().map(|node| node.name.as_str());
    names.chain([SWITCH]).all(|name| {
        Machine::find(settings, name)
            .and_then(|machine| machine.ask(&Request::Status).ok())
            .is_some_and(|services| {
                !services.is_empty() && services.iter().all(|service| service.pid.is_some())
            })
    }) && nodes_ready(settings, topology)
}

fn nodes_ready(settings: &Settings, topology: &Topology) -> bool {
    let path =
        r#"jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
    kubectl(settings, &["get", "nodes", "-o", path]).is_ok_and(|text| {
        text.lines().filter(|line| *line == "True").count() == topology.nodes.len()
    })
}

/// A command in the clients' network, with KUBECONFIG and PATH set.
pub fn client_command(settings: &Settings, program: &std::ffi::OsStr) -> Result<Command> {
    let machine = Machine::find(settings, SWITCH)
        .ok_or_else(|| anyhow!("the lab is not up; start it with: godwit-lab up"))?;
    let mut command = Command::new(std::env::current_exe()?);
    let mut path = settings.client_path();
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    command
        .args(["in-network", &machine.pid.to_string(), "--"])
        .arg(program)
        .env("KUBECONFIG", settings.kubeconfig())
        .env("GODWIT_LAB", &settings.state)
        .env("GODWIT_CACHE", &settings.cache)
        .env("PATH", std::env::join_paths(path)?);
    Ok(command)
}

/// Runs kubectl and returns what it printed.
pub fn kubectl(settings: &Settings, arguments: &[&str]) -> Result<String> {
    let output = client_command(settings, "kubectl".as_ref())?
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("kubectl cannot be run")?;
    if !output.status.success() {
        bail!(
            "kubectl: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Applies manifests given as text.
pub fn apply(settings: &Settings, manifests: &str) -> Result<()> {
    let mut child = client_command(settings, "kubectl".as_ref())?
        .args(["apply", "--server-side", "--force-conflicts", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("kubectl cannot be run")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(manifests.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "kubectl apply: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn wait_until(seconds: u64, otherwise: &str, done: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !done() {
        if Instant::now() > deadline {
            bail!("{otherwise} (waited {seconds} s)");
        }
        sleep(Duration::from_millis(100));
    }
    Ok(())
}
