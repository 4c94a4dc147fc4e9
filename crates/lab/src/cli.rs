//! The commands of `godwit-lab`.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use nix::fcntl::{Flock, FlockArg};

use crate::control::Request;
use crate::fabric::Fabric;
use crate::ingredients::Ingredients;
use crate::machine::Machine;
use crate::progress::Progress;
use crate::record::Record;
use crate::settings::{Settings, own_folder};
use crate::topology::{Node, SWITCH, Topology};
use crate::vm::{guest, host};
use crate::{client, cluster, images, init, loading, namespaces, status};

/// A real Kubernetes cluster of several nodes on this machine.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Brings the cluster up, or mends it; what runs as it should is not disturbed.
    Up {
        /// Nodes as `NAME[:containerd|:crio][:vm=trixie|:vm=sid]`, such as `a,b:crio,v:containerd:vm=trixie`; others are
        /// taken away. Default: the nodes that there are, a and b on containerd, and with GODWIT_CRIO also c and d on CRI-O.
        #[arg(long)]
        nodes: Option<Topology>,
        /// The pods' network. Another one than the running lab has makes everything anew. Default: GODWIT_LAB_NETWORK, else
        /// what the running lab has, else bridge.
        #[arg(long)]
        network: Option<Fabric>,
    },
    /// Makes what clusters are made of, in the cache; starts nothing.
    Prepare {
        /// For these nodes, as for `up`; virtual machines need more than others. Default: the standard ones.
        #[arg(long)]
        nodes: Option<Topology>,
        /// Also what some end-to-end tests talk to: an OpenTelemetry collector and an OCI registry.
        #[arg(long)]
        services: bool,
    },
    /// Takes the cluster away; the cache stays.
    Down,
    /// Shows machines, services and nodes.
    Status {
        /// How it is printed.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Runs kubectl as the cluster's administrator.
    #[command(disable_help_flag = true)]
    Kubectl {
        /// Arguments of kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Runs helm as the cluster's administrator.
    #[command(disable_help_flag = true)]
    Helm {
        /// Arguments of helm.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Runs a command in the clients' network with KUBECONFIG set.
    Run {
        /// The command.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Works on one node.
    #[command(subcommand)]
    Node(NodeAction),
    /// Loads an OCI image archive into every node.
    LoadImage {
        /// The archive.
        archive: PathBuf,
    },
    /// Builds localhost/godwit:dev from the built programs and loads it into every node.
    Image {
        /// Folder with the built programs (default: that of godwit-lab).
        #[arg(long)]
        programs: Option<PathBuf>,
    },
    /// Prints the folders and addresses of the lab as KEY=VALUE.
    Paths,
    #[command(hide = true)]
    MachineStart { spec: PathBuf },
    #[command(hide = true)]
    MachineInit { spec: PathBuf },
    #[command(hide = true)]
    VmStart { spec: PathBuf, network: i32 },
    #[command(hide = true)]
    VmInit,
    #[command(hide = true)]
    VmDoor,
    #[command(hide = true)]
    InNetwork {
        pid: i32,
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Subcommand)]
enum NodeAction {
    /// Adds nodes to those that there are; waits until they are Ready.
    Add {
        /// As for `up --nodes`.
        nodes: Topology,
    },
    /// Takes nodes away.
    Remove {
        /// Their names.
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Runs a command inside a node (or the switch, `godwit-lab`).
    Exec {
        /// The node.
        node: String,
        /// The command.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Ends a service by SIGTERM; it starts again.
    Restart { node: String, service: String },
    /// Ends a service by SIGTERM and leaves it stopped.
    Stop { node: String, service: String },
    /// Starts a stopped service again.
    Resume { node: String, service: String },
    /// Cuts a node's power: every process in it dies at once, what it has on disk stays.
    Kill { node: String },
    /// Boots a node whose power is off; does not wait until it is Ready.
    Start { node: String },
}

/// Runs the command line.
pub fn run() -> Result<ExitCode> {
    let settings = Settings::from_env();
    match Cli::parse().command {
        Action::Up { nodes, network } => {
            cluster::check(&settings, nodes.clone(), network)?;
            let _lock = lock(&settings)?;
            cluster::up(&settings, nodes, network, &Progress::new())?;
        }
        Action::Prepare { nodes, services } => {
            cluster::check(&settings, Some(nodes.clone().unwrap_or_else(|| Topology::standard(false))), None)?;
            let _lock = lock(&settings)?;
            cluster::prepare(&settings, nodes, services, &Progress::new())?;
        }
        Action::Down => {
            let _lock = lock(&settings)?;
            Progress::new().step("lab down", || cluster::down(&settings))?;
        }
        Action::Status { output } => return status::print(&settings, output == Output::Json),
        Action::Kubectl { arguments } => return run_client(&settings, "kubectl".into(), &arguments),
        Action::Helm { arguments } => return run_client(&settings, "helm".into(), &arguments),
        Action::Run { command } => {
            if let Some((program, arguments)) = command.split_first() {
                return run_client(&settings, program.clone(), arguments);
            }
        }
        Action::Node(action) => return on_node(&settings, action),
        Action::LoadImage { archive } => {
            let _lock = lock(&settings)?;
            on_all(&settings, |node, machine| loading::load_archive(node, machine, &archive))?;
        }
        Action::Image { programs } => {
            let _lock = lock(&settings)?;
            let programs = programs.or_else(own_folder).context("the programs' folder is unknown; name it by --programs")?;
            let ingredients = Ingredients::of(&settings, &Topology::standard(false))?;
            let progress = Progress::new();
            ingredients.ensure_app(&progress)?;
            let image = progress.step(&format!("image {}", images::GODWIT), || images::build_godwit(&settings, &ingredients, &programs))?;
            progress.step("loaded into every node that runs", || {
                on_running(&settings, |node, machine| loading::load_missing(node, machine, std::slice::from_ref(&image)))
            })?;
        }
        Action::Paths => paths(&settings),
        Action::MachineStart { spec } => init::machine_start(&spec)?,
        Action::MachineInit { spec } => init::machine_init(&spec)?,
        Action::VmStart { spec, network } => host::vm_start(&settings, &spec, network)?,
        Action::VmInit => guest::vm_init()?,
        Action::VmDoor => guest::vm_door()?,
        Action::InNetwork { pid, command } => {
            if let Some((program, arguments)) = command.split_first() {
                namespaces::exec_in_network(pid, Command::new(program).args(arguments))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn lock(settings: &Settings) -> Result<Flock<File>> {
    let path = settings.state.join("lock");
    std::fs::create_dir_all(&settings.state).with_context(|| format!("{} cannot be made", settings.state.display()))?;
    let file = File::create(&path).with_context(|| format!("{} cannot be opened", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| anyhow!("{} cannot be locked: {error}", path.display()))
}

fn run_client(settings: &Settings, program: OsString, arguments: &[OsString]) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt as _;
    let error = client::command(settings, &program)?.args(arguments).exec();
    Err(error.into())
}

fn machine(settings: &Settings, name: &str) -> Result<Machine> {
    Machine::find(settings, name).ok_or_else(|| {
        let names = Record::read(settings).map_or_else(String::new, |record| {
            let names: Vec<String> = record.topology.nodes.into_iter().map(|n| n.name).collect();
            format!("; there are: {}, {SWITCH}", names.join(", "))
        });
        anyhow!("no node {name:?} runs{names}")
    })
}

fn on_node(settings: &Settings, action: NodeAction) -> Result<ExitCode> {
    let (node, request) = match action {
        NodeAction::Add { nodes } => {
            let topology = record(settings)?.topology.joined(&nodes);
            cluster::check(settings, Some(topology), None)?;
            let _lock = lock(settings)?;
            let topology = record(settings)?.topology.joined(&nodes);
            cluster::up(settings, Some(topology), None, &Progress::new())?;
            return Ok(ExitCode::SUCCESS);
        }
        NodeAction::Remove { nodes } => {
            let _lock = lock(settings)?;
            let topology = record(settings)?.topology.without(&nodes)?;
            cluster::up(settings, Some(topology), None, &Progress::new())?;
            return Ok(ExitCode::SUCCESS);
        }
        NodeAction::Exec { node, command } => {
            let machine = machine(settings, &node)?;
            let code = machine.run(&command)?;
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(255)));
        }
        NodeAction::Restart { node, service } => (node, Request::Restart(service)),
        NodeAction::Stop { node, service } => (node, Request::Stop(service)),
        NodeAction::Resume { node, service } => (node, Request::Resume(service)),
        NodeAction::Kill { node } => {
            let _lock = lock(settings)?;
            cluster::kill_node(settings, &known_node(settings, &node)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        NodeAction::Start { node } => {
            let _lock = lock(settings)?;
            let node = known_node(settings, &node)?;
            cluster::boot_node(settings, &node, &Progress::new())?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    machine(settings, &node)?.ask(&request)?;
    Ok(ExitCode::SUCCESS)
}

fn record(settings: &Settings) -> Result<Record> {
    Record::read(settings).ok_or_else(|| anyhow!("the lab is not up; start it with: godwit-lab up"))
}

fn known_node(settings: &Settings, name: &str) -> Result<Node> {
    Record::read(settings).and_then(|record| record.topology.node(name).cloned()).ok_or_else(|| anyhow!("the lab has no node {name:?}; see: godwit-lab status"))
}

/// Does something on the nodes that run, at once. The others are ended or were killed; `up` gives them what they lack.
fn on_running(settings: &Settings, work: impl Fn(&Node, &Machine) -> Result<()> + Sync) -> Result<()> {
    let nodes = Record::read(settings).map_or_else(Vec::new, |record| record.topology.nodes);
    let running: Vec<_> = nodes.iter().filter_map(|node| Some((node, Machine::find(settings, &node.name)?))).collect();
    at_once(&running, |(node, machine)| work(node, machine))
}

/// Does something on all nodes at once.
fn on_all(settings: &Settings, work: impl Fn(&Node, &Machine) -> Result<()> + Sync) -> Result<()> {
    let record = record(settings)?;
    at_once(&record.topology.nodes, |node| work(node, &machine(settings, &node.name)?))
}

fn at_once<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(move || work(item))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread of the lab ended early"))?)
    })
}

fn paths(settings: &Settings) {
    println!("GODWIT_LAB={}", settings.state.display());
    println!("GODWIT_CACHE={}", settings.cache.display());
    println!("KUBECONFIG={}", settings.kubeconfig().display());
    println!("SERVER={}", crate::switch::server());
    println!("NETNS={SWITCH}");
    let Some(record) = Record::read(settings) else {
        return;
    };
    println!("NETWORK={}", record.topology.fabric.name());
    for node in record.topology.nodes {
        let kernel = node.vm.map_or_else(String::new, |kernel| format!(" vm={}", kernel.suite()));
        println!("NODE={} {} {}{kernel}", node.name, node.runtime.name(), node.address());
    }
}
