//! Godwit's agent: one on every node. It installs the runtime handler, then serves the controller, the other agents and the node's keepers.
//!
//! ```text
//!   controller ──mTLS──▶ service::control ─┐
//!   other agent ─mTLS──▶ service::handoff ─┼──▶ registry ──▶ source::session   (the pod leaves)
//!   keepers ──unix────▶ socket, desk ──────┘           └───▶ target::session   (the pod comes)
//! ```

mod anchor;
mod arbiter;
mod check;
mod checkpoint;
mod clock;
mod convert;
mod durable;
mod events;
mod failure;
mod heap;
mod import;
mod inspect;
mod install;
mod journal;
mod node;
mod packing;
mod registry;
mod service;
mod slots;
mod socket;
mod source;
mod target;
mod task;
mod trace;
mod uninstall;
mod wishes;

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use anyhow::Context;
use clap::Parser;
use godwit_api::names;
use godwit_node::{cri::Kind, host::Host};
use godwit_rpc::{
    Identity, certificates, logs, tls,
    v1::{agent_server::AgentServer, handoff_server::HandoffServer},
};
use godwit_runtime::protocol::{CONSUMED, CONTAINERS, SOCKET};
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Largest message of the contract, in bytes.
const MESSAGE: usize = 8 << 20;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Why there is no handler where there shall be none.
const NO_HANDLER: &str = "the installation has no runtime handler (the chart's value engines.live)";

/// What is counted.
static METRICS: std::sync::LazyLock<godwit_metrics::Agent> = std::sync::LazyLock::new(godwit_metrics::Agent::default);

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Name of this node in the cluster.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Address of this node on which the agent serves.
    #[arg(long, env = "NODE_IP")]
    node_ip: IpAddr,
    /// Namespace of Godwit's own pods.
    #[arg(long, env = "POD_NAMESPACE", default_value = "godwit-system")]
    namespace: String,
    /// Port on which the agent serves.
    #[arg(long, default_value_t = names::AGENT_PORT)]
    port: u16,
    /// Port of the page that Prometheus reads, on the node's address; none without it.
    #[arg(long, env = "GODWIT_METRICS_PORT")]
    metrics_port: Option<u16>,
    /// Where the journal is, on the node.
    #[arg(long, default_value = "/var/lib/godwit/journal")]
    journal: PathBuf,
    /// Where checkpoints are kept, on every node the same: a directory of a shared file system. None without it.
    #[arg(long, env = "GODWIT_CHECKPOINTS")]
    checkpoints: Option<PathBuf>,
    /// Whether pods may come to this node by Godwit's runtime handler, which is installed for that.
    #[arg(long, env = "GODWIT_ENGINE_LIVE", default_value_t = true, action = clap::ArgAction::Set)]
    live: bool,
    /// Whether pods may come to this node by the container runtime's own import of checkpoint images.
    #[arg(long, env = "GODWIT_ENGINE_CHECKPOINT", default_value_t = false, action = clap::ArgAction::Set)]
    import: bool,
    #[command(flatten)]
    registries: checkpoint::registries::Registries,
}

/// How long the certificate is waited for before anything else is begun.
const SIGNED_WITHIN: std::time::Duration = std::time::Duration::from_secs(3);
/// Between two attempts to label the node.
const ANNOUNCE: std::time::Duration = std::time::Duration::from_secs(1);

/// Threads for the agent's tasks: on a node with a single CPU too, one that digests a stream must not keep the others from answering.
const MIN_WORKERS: usize = 2;

fn main() -> anyhow::Result<()> {
    heap::keep();
    raise_files();
    let workers = std::thread::available_parallelism().map_or(MIN_WORKERS, |cpus| cpus.get().max(MIN_WORKERS));
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build().context("no threads for the agent")?.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    // The log for people, and what is kept for `kubectl migrate trace`: of Godwit's own, and more of it.
    let own = Targets::new().with_target("godwit", tracing::Level::DEBUG);
    let wanted = tracing_subscriber::EnvFilter::try_from_env("GODWIT_LOG").unwrap_or_else(|_| "info".into());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if logs::json() { lines.json().boxed() } else { lines.boxed() };
    tracing_subscriber::registry().with(lines.with_filter(wanted)).with(trace::memory::Ear.with_filter(own)).init();
    let arguments = Arguments::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let host = Host::detect();
    trace::undo_leftovers(&host);
    let kube = godwit_rpc::api_server::client().await.context("no API server")?;
    let cri = install::install(&host, arguments.live).await.context("cannot install what pods need on this node")?;
    install::images(&host, &cri, arguments.import).context("cannot have the runtime pull from the agent")?;
    let credentials = certificates::placeholder(&Identity::Agent(arguments.node_name.clone())).context("cannot make a key")?;
    let mut signed = tokio::spawn(certificates::obtain(kube.clone(), arguments.namespace.clone(), credentials.clone()));
    // It comes at once where a controller runs. What has been decided about pods of this node does not wait for one.
    let is_signed = tokio::time::timeout(SIGNED_WITHIN, &mut signed).await.is_ok();
    let journal = journal::Journal::open(host.path(&arguments.journal)).context("cannot open the journal")?;
    let no_anchor = anchor::probe::why_not();
    if !no_anchor.is_empty() {
        tracing::warn!(why = no_anchor, "this node can have no anchor: connections of pods that leave it or come to it end");
    }
    let no_segment = anchor::segment::why_not();
    let node = Arc::new(node::Node {
        name: arguments.node_name.clone(),
        ip: arguments.node_ip,
        address: std::net::SocketAddr::new(arguments.node_ip, arguments.port).to_string(),
        no_anchor,
        no_segment,
        wireguard: anchor::wireguard::WireGuard::open(),
        anchors: anchor::holder::Holder::load(journal.clone(), host.clone()).context("cannot read the journal")?,
        mirrors: anchor::mirrors::Mirrors::load(&journal).context("cannot read the journal")?,
        deaths: target::deaths::Deaths::default(),
        no_handler: if arguments.live { String::new() } else { NO_HANDLER.into() },
        may_import: arguments.import,
        imports: import::Imports::default(),
        journal,
        host,
        cri,
        kube,
        checkpoints: arguments.checkpoints.filter(|path| !path.as_os_str().is_empty()),
        registries: arguments.registries,
        credentials: credentials.clone(),
    });
    for directory in [CONTAINERS, CONSUMED, source::pod::IMAGES, target::pod::IMAGES, import::FOLDER] {
        std::fs::create_dir_all(node.host.path(directory)).with_context(|| format!("cannot make {directory}"))?;
    }
    import::conf::unlink(&node.host);
    checkpoint::place::sweep(&node.host).context("cannot remove what was on its way to a registry")?;
    let registry = registry::Registry::load(node.clone()).context("cannot take up what the journal holds")?;
    checkpoint::grip::recover(&node).await.context("cannot take up what the journal holds")?;
    // The port is taken now, and answers only when the node is marked: that it answers is the pod's readiness.
    let port = reserve(std::net::SocketAddr::new(arguments.node_ip, arguments.port)).context("cannot take the port")?;
    let serve = |listener| {
        tls::server()
            .add_service(AgentServer::new(service::control::Control::new(registry.clone())).max_decoding_message_size(MESSAGE))
            .add_service(HandoffServer::new(service::handoff::Peer::new(registry.clone())).max_decoding_message_size(MESSAGE))
            .serve_with_incoming(tls::incoming(listener, credentials))
    };
    if let Some(port) = arguments.metrics_port {
        let address = std::net::SocketAddr::new(arguments.node_ip, port);
        tokio::spawn(async move {
            if let Err(error) = METRICS.page().serve(address).await {
                tracing::error!(%error, %address, "no metrics");
            }
        });
    }
    let socket_path = node.host.path(SOCKET);
    let socket = socket::serve(&socket_path, node.host.path(CONTAINERS), registry.desk.clone());
    if node.may_import {
        tokio::spawn(import::server::keep_serving(node.clone()));
        if node.cri.kind() == Kind::Containerd {
            tokio::spawn(import::leftovers::keep_swept(node.clone()));
        }
    }
    tokio::spawn(target::keep_swept(node.host.clone()));
    tokio::spawn(node.clone().sweep_mirrors());
    let busy = registry.clone();
    tokio::spawn(heap::give_back(move || busy.is_busy()));
    // What waits at the node's socket is answered meanwhile: a pod that has been decided about needs no API server to run.
    let serving = async {
        if !is_signed {
            signed.await.context("nobody asks for a certificate any more")?;
        }
        announce(&node).await;
        let listener = port.listen(BACKLOG).context("cannot listen")?;
        tracing::info!(node = node.name, runtime = node.cri.runtime_name(), "serving");
        serve(listener).await.context("the server ended")
    };
    let outcome = tokio::select! {
        outcome = serving => outcome,
        outcome = socket => outcome.context("the node's socket ended"),
        _ = tokio::signal::ctrl_c() => Ok(()),
        () = terminated() => match uninstall::is_wanted(&node, &arguments.namespace).await {
            true => uninstall::uninstall(&node, &registry).await,
            false => Ok(()),
        },
    };
    if node.deaths.end() {
        tokio::time::sleep(2 * target::deaths::LOOK).await;
    }
    outcome
}

/// As many open files as may be: the page store of a pod with many processes has some for each.
fn raise_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
}

/// Takes a port that nobody can connect to yet.
fn reserve(address: std::net::SocketAddr) -> std::io::Result<tokio::net::TcpSocket> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Says on the node object that pods can come here and leave; returns when that is said.
async fn announce(node: &node::Node) {
    let nodes: Api<KubeNode> = Api::all(node.kube.clone());
    let patch = serde_json::json!({"metadata": {"labels": {names::NODE_LABEL_READY: "ready"}}});
    while let Err(error) = nodes.patch_metadata(&node.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        tracing::warn!(%error, "the node cannot be labelled; trying again");
        tokio::time::sleep(ANNOUNCE).await;
    }
}

async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}
