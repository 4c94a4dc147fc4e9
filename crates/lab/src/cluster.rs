//! The cluster as a whole. `up` compares what runs with what is wanted and does only what is missing:
//!
//! ```text
//!  up:  ingredients ─▶ images ─▶ switch ─▶ control plane ─────────────────────┐
//!                                  └─▶ nodes ─▶ runtimes ─▶ images ─┐         ▼
//!                                                  kubelets ◀───────┴── API server ready ─▶ objects ─▶ nodes Ready
//! ```
//! A node that runs is not disturbed: a service of it is restarted only when its files or its program have changed.
//! Only when the nodes' root, the pods' network or the switch must be made anew is everything swept away first.

use std::thread;

use anyhow::{Result, anyhow, bail};

use crate::cache::{digest, remove};
use crate::cgroups::{self, Cgroups};
use crate::client::{apply, kubectl, wait_until};
use crate::fabric::{self, Fabric};
use crate::images::{self, Image};
use crate::ingredients::Ingredients;
use crate::machine::{self, Machine};
use crate::pki::{Authority, kubeconfig, write_private};
use crate::progress::Progress;
use crate::record::Record;
use crate::settings::Settings;
use crate::topology::{Node, SWITCH, Topology};
use crate::vm::disks;
use crate::{bird, kubelet, loading, network, owner, prerequisites, runtimes, six, switch, trash};

/// Raised when machines change in a way that running ones cannot follow.
const REVISION: &str = "3";

/// Objects of every lab.
const OBJECTS: [&str; 3] =
    [include_str!("../../../lab/runtimeclasses.yaml"), include_str!("../../../lab/coredns/coredns.yaml"), include_str!("../../../lab/cni/cni.yaml")];

/// Fills the cache with what these nodes need, or the standard ones, and with the tests' services if they are wanted.
pub fn prepare(settings: &Settings, wanted: Option<Topology>, services: bool, progress: &Progress) -> Result<()> {
    let topology = wanted.unwrap_or_else(|| Topology::standard(false));
    let needed = Ingredients::of(settings, &topology)?;
    let ingredients = if services { needed.with_services(settings) } else { needed };
    // The nodes of a running cluster stand on this root.
    if !ingredients.is_node_fresh() && Record::read(settings).is_some() {
        progress.step("lab down: its nodes' root is made anew", || down(settings))?;
    }
    ingredients.ensure(progress)?;
    let images = images::ensure(settings, &ingredients)?;
    seed_disks(settings, &ingredients, &topology, &images, progress)?;
    progress.line("✔ the cache is filled");
    Ok(())
}

/// What the disks of virtual machines begin with.
fn seed_disks(settings: &Settings, ingredients: &Ingredients, topology: &Topology, images: &[Image], progress: &Progress) -> Result<()> {
    topology.vm_runtimes().into_iter().try_for_each(|runtime| disks::ensure_seed(settings, ingredients, runtime, images, progress))
}

/// What is to be brought up.
struct Plan {
    settings: Settings,
    ingredients: Ingredients,
    /// The lab as it was brought up last, if it was not taken down.
    known: Option<Record>,
    topology: Topology,
}

fn plan(settings: &Settings, wanted: Option<Topology>, fabric: Option<Fabric>) -> Result<Plan> {
    let known = Record::read(settings);
    let mut settings = settings.clone();
    settings.crio = settings.crio.or_else(|| known.as_ref().and_then(|record| record.crio.clone()));
    let mut topology = wanted.unwrap_or_else(|| {
        let standard = Topology::standard(settings.crio.is_some());
        match &known {
            Some(record) => record.topology.clone().joined(&standard),
            None => standard,
        }
    });
    let running = known.as_ref().map(|record| record.topology.fabric);
    topology.fabric = Fabric::choose(fabric, std::env::var(fabric::VARIABLE).ok().as_deref(), running)?;
    let machine = topology.nodes.iter().find(|node| node.vm.is_some());
    if let (Fabric::Routed, Some(node)) = (topology.fabric, machine) {
        bail!("{} is a virtual machine, and these are on the bridge network only: leave it out, or take --network bridge", node.name);
    }
    Ok(Plan { ingredients: Ingredients::of(&settings, &topology)?, settings, known, topology })
}

/// Whether this machine can run that; changes nothing.
pub fn check(settings: &Settings, wanted: Option<Topology>, fabric: Option<Fabric>) -> Result<()> {
    let plan = plan(settings, wanted, fabric)?;
    prerequisites::check(&plan.settings, &plan.topology, !plan.ingredients.are_fresh())
}

/// Brings the cluster up: the wanted nodes, or else those that it has and the standard ones; the wanted network of pods, see [`Fabric::choose`].
pub fn up(settings: &Settings, wanted: Option<Topology>, fabric: Option<Fabric>, progress: &Progress) -> Result<()> {
    let Plan { settings, ingredients, known, topology } = plan(settings, wanted, fabric)?;
    let (settings, fabric) = (&settings, topology.fabric);
    owner::check(settings)?;
    trash::go_on(settings)?;
    let base = match fabric {
        Fabric::Bridge => digest(&[REVISION, ingredients.node_key()]),
        Fabric::Routed => digest(&[REVISION, ingredients.node_key(), fabric.name()]),
    };
    let kept =
        known.filter(|record| record.base == base && ingredients.is_node_fresh() && Machine::find(settings, SWITCH).is_some_and(|switch| switch.is_complete()));
    if kept.is_none() && (Record::read(settings).is_some() || Cgroups::detect()?.any()) {
        let why = match Record::read(settings).map(|record| record.topology.fabric) {
            Some(old) if old != fabric => format!("sweep the lab: its network was {}, {} is wanted", old.name(), fabric.name()),
            _ => "sweep what an earlier lab left".to_owned(),
        };
        progress.step(&why, || sweep(settings))?;
    }
    ingredients.ensure(progress)?;
    let images = images::ensure(settings, &ingredients)?;
    seed_disks(settings, &ingredients, &topology, &images, progress)?;
    if let Some(record) = &kept {
        remove_others(settings, record, &topology, progress)?;
    }
    let mut record = Record {
        base,
        topology: topology.clone(),
        crio: settings.crio.clone(),
        mounted_hugetlb: kept.as_ref().is_some_and(|record| record.mounted_hugetlb),
        objects: kept.map_or_else(String::new, |record| record.objects),
    };
    // Written down before it is done: whoever is killed in between leaves a note of it.
    let lacks_hugetlb = cgroups::lacks_hugetlb(&Cgroups::detect()?);
    record.mounted_hugetlb |= lacks_hugetlb;
    record.write(settings)?;
    owner::claim(settings)?;
    if lacks_hugetlb {
        cgroups::mount_hugetlb()?;
    }
    reconcile(settings, &mut record, &images, progress)?;
    progress.line(&format!(
        "✔ {} nodes are Ready on the {} network ({}) after {:.1} s; try: godwit-lab kubectl get nodes",
        topology.nodes.len(),
        fabric.name(),
        six::said(),
        progress.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn reconcile(settings: &Settings, record: &mut Record, images: &[Image], progress: &Progress) -> Result<()> {
    let topology = &record.topology.clone();
    let authority = Authority::open(&settings.pki())?;
    let admin = authority.client("godwit-lab-admin", Some("system:masters"))?;
    write_private(&settings.kubeconfig(), &kubeconfig(&switch::server(), &authority.ca.cert, &admin))?;
    let control = switch_machine(settings, topology.fabric, &authority)?;
    switch::start_api(&control)?;
    let nodes = thread::scope(|scope| {
        let ready = scope.spawn(|| {
            wait_for_api(settings, progress)?;
            switch::start_controllers(&control)
        });
        let mut nodes = Vec::new();
        for node in &topology.nodes {
            let (authority, control) = (&authority, &control);
            nodes.push(scope.spawn(move || start_node(settings, topology, node, authority, control, images, progress)));
        }
        let nodes: Vec<Machine> = nodes.into_iter().map(join).collect::<Result<_>>()?;
        join(ready)?;
        Ok::<_, anyhow::Error>(nodes)
    })?;
    for (node, machine) in topology.nodes.iter().zip(&nodes) {
        kubelet::start(node, machine)?;
    }
    if let Some(node) = topology.nodes.first() {
        network::route_services(&control, node)?;
    }
    if topology.fabric == Fabric::Routed {
        bird::start(&control)?;
        wait_until(60, "the clients have no route to some node's pods; see bird.log of that node", || network::is_routed(&control, topology))?;
    }
    let objects = digest(&OBJECTS);
    if record.objects != objects {
        OBJECTS.iter().try_for_each(|objects| apply(settings, objects))?;
        record.objects = objects;
        record.write(settings)?;
    }
    wait_for_nodes(settings, topology, progress)
}

fn wait_for_api(settings: &Settings, progress: &Progress) -> Result<()> {
    let ready = || kubectl(settings, &["get", "--raw", "/readyz"]).is_ok();
    if ready() {
        return Ok(());
    }
    progress.step("control plane", || wait_until(120, "the API server is not ready; see its log", ready))
}

fn wait_for_nodes(settings: &Settings, topology: &Topology, progress: &Progress) -> Result<()> {
    let ready = || nodes_ready(settings, topology) && is_served(settings);
    if ready() {
        return Ok(());
    }
    progress.step("nodes Ready, cluster DNS answers", || {
        let patience = if topology.kernels().is_empty() { 120 } else { 300 };
        wait_until(patience, "not all nodes became Ready; see their kubelet.log", || nodes_ready(settings, topology))?;
        wait_until(60, "no DNS server or no default service account: see kubectl -n kube-system get pods", || is_served(settings))
    })
}

/// Whether cluster DNS answers and pods can be made.
fn is_served(settings: &Settings) -> bool {
    let path = "jsonpath={.status.readyReplicas}";
    let arguments = ["-n", "kube-system", "get", "deployment", "coredns", "-o", path];
    kubectl(settings, &arguments).is_ok_and(|ready| !matches!(ready.as_str(), "" | "0")) && kubectl(settings, &["get", "serviceaccount", "default"]).is_ok()
}

fn switch_machine(settings: &Settings, fabric: Fabric, authority: &Authority) -> Result<Machine> {
    let spec = switch::prepare(settings, fabric, authority)?;
    if let Some(machine) = spec.running() {
        return Ok(machine);
    }
    let machine = spec.start()?;
    network::wire_switch(&machine)?;
    machine.completed()?;
    Ok(machine)
}

fn start_node(
    settings: &Settings,
    topology: &Topology,
    node: &Node,
    authority: &Authority,
    control: &Machine,
    images: &[Image],
    progress: &Progress,
) -> Result<Machine> {
    let spec = kubelet::prepare(settings, topology, node, authority)?;
    let runtime = |machine: &Machine| {
        if topology.fabric == Fabric::Routed {
            bird::start(machine)?;
        }
        runtimes::start(node, machine)?;
        runtimes::wait(node, machine)?;
        loading::load_missing(node, machine, images)
    };
    if let Some(machine) = spec.running() {
        runtime(&machine)?;
        return Ok(machine);
    }
    let title = match node.vm {
        None => format!("{} with {}", node.name, node.runtime.name()),
        Some(kernel) => format!("{}, a virtual machine of {}, with {}", node.name, kernel.suite(), node.runtime.name()),
    };
    progress.step(&title, || {
        if node.vm.is_some() {
            disks::provide(settings, node.runtime, &spec.disk())?;
        }
        let machine = spec.start()?;
        network::wire_node(control, topology.fabric, node, &machine)?;
        runtime(&machine)?;
        machine.completed()?;
        Ok(machine)
    })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().map_err(|_| anyhow!("a thread of the lab ended early"))?
}

/// Takes away the nodes that are not wanted any more, or not as they are.
fn remove_others(settings: &Settings, record: &Record, wanted: &Topology, progress: &Progress) -> Result<()> {
    for node in &record.topology.nodes {
        if wanted.node(&node.name) == Some(node) {
            continue;
        }
        progress.step(&format!("{} taken away", node.name), || {
            // An API server that does not answer is started by what follows; the object is then only stale.
            let _ = kubectl(settings, &["delete", "node", &node.name, "--ignore-not-found"]);
            machine::power_off(&settings.machine(&node.name), &node.name)?;
            trash::throw(settings, &settings.machine(&node.name))
        })?;
    }
    Ok(())
}

/// Cuts a node's power: every process in it dies at once, its disk stays.
pub fn kill_node(settings: &Settings, node: &Node) -> Result<()> {
    machine::power_off(&settings.machine(&node.name), &node.name)?;
    let alive = Record::read(settings).into_iter().flat_map(|record| record.topology.nodes).find(|node| Machine::find(settings, &node.name).is_some());
    match (Machine::find(settings, SWITCH), alive) {
        (Some(switch), Some(alive)) => network::route_services(&switch, &alive),
        _ => Ok(()),
    }
}

/// Boots a node whose power is off; a running one is left alone.
pub fn boot_node(settings: &Settings, node: &Node, progress: &Progress) -> Result<()> {
    let record = Record::read(settings).ok_or_else(|| anyhow!("the lab is not up; start it with: godwit-lab up"))?;
    let control = Machine::find(settings, SWITCH).ok_or_else(|| anyhow!("the switch is dead; start the lab with: godwit-lab up"))?;
    let mut settings = settings.clone();
    settings.crio = settings.crio.or(record.crio);
    let settings = &settings;
    let topology = &record.topology;
    let images = images::ensure(settings, &Ingredients::of(settings, topology)?)?;
    let authority = Authority::open(&settings.pki())?;
    let machine = start_node(settings, topology, node, &authority, &control, &images, progress)?;
    kubelet::start(node, &machine)
}

/// Takes the lab away; the cache stays.
pub fn down(settings: &Settings) -> Result<()> {
    sweep(settings)?;
    trash::empty(settings)?;
    remove(&settings.pki())?;
    remove(&settings.kubeconfig())?;
    remove(&settings.state.join("lab.json"))
}

/// Ends every process of the lab and removes its cgroups, namespaces' name and mounts, and what a cluster wrote.
fn sweep(settings: &Settings) -> Result<()> {
    owner::check(settings)?;
    let record = Record::read(settings);
    Cgroups::detect()?.clear(None)?;
    network::unname_switch();
    if record.is_some_and(|record| record.mounted_hugetlb) {
        cgroups::unmount_hugetlb();
    }
    trash::throw(settings, &settings.state.join("machines"))?;
    trash::throw(settings, &settings.shared())?;
    owner::release()
}

/// Whether as many nodes are Ready as there should be.
pub fn nodes_ready(settings: &Settings, topology: &Topology) -> bool {
    let path = r#"jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
    kubectl(settings, &["get", "nodes", "-o", path]).is_ok_and(|text| {
        topology.nodes.iter().all(|node| {
            let ready = format!("{}=True", node.name);
            text.lines().any(|line| line == ready)
        })
    })
}
