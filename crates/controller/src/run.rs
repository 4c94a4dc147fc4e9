//! The process: wait to lead, lead until the Lease is lost or a signal comes, end.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};

use godwit_api::{MigrationTrace, NodeCheck, PodCheckpoint, PodMigration, PodRestore, names};
use godwit_migration::catalogue::ENTRIES;
use godwit_otlp::{Exporter, Settings};

use crate::agents::Agents;
use crate::context::Context;
use crate::lease::Election;
use crate::reconcile::{reconcile, retry};
use crate::{authority, checkpoint, checks, imported, lpm, signer, trace};

/// What is counted.
pub static METRICS: LazyLock<godwit_metrics::Controller> = LazyLock::new(|| godwit_metrics::Controller::expecting(ENTRIES.iter().map(|entry| entry.reason)));

/// For how long a controller that ends waits for a collector.
const FLUSH: Duration = Duration::from_secs(3);

/// Command line.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Namespace of Godwit's own pods.
    #[arg(long, env = "POD_NAMESPACE", default_value = "godwit-system")]
    namespace: String,
    /// Name of this replica.
    #[arg(long, env = "POD_NAME", default_value = names::CONTROLLER)]
    identity: String,
    /// Service account of the agents.
    #[arg(long, env = "GODWIT_AGENT_ACCOUNT", default_value = "godwit-agent")]
    agent_account: String,
    /// Address of the page that Prometheus reads, e.g. 0.0.0.0:7412; none without it.
    #[arg(long, env = "GODWIT_METRICS")]
    metrics: Option<std::net::SocketAddr>,
    /// Migrations that may be in flight from or to one node.
    #[arg(long, env = "GODWIT_PER_NODE", default_value_t = 2)]
    per_node: usize,
    /// Carry out PodMigrations of lpm.my.domain too. Their definition has to be there.
    #[arg(long, env = "GODWIT_LPM")]
    lpm: bool,
    /// Memory may travel after the switch, where a migration asks for it.
    #[arg(long, env = "GODWIT_POST_COPY")]
    post_copy: bool,
    /// Where spans of migrations are exported to: http://HOST:PORT or https://HOST:PORT of an OTLP receiver for gRPC. Without it none are.
    #[arg(long, env = "GODWIT_OTLP_ENDPOINT", default_value = "")]
    otlp_endpoint: String,
    /// Sent to the OTLP receiver with every request: name=value, several with commas between.
    #[arg(long, env = "GODWIT_OTLP_HEADERS", default_value = "", hide_env_values = true)]
    otlp_headers: String,
    /// File with the authorities (PEM) whose certificates are trusted at an https endpoint; without it those that the system trusts.
    #[arg(long, env = "GODWIT_OTLP_CA")]
    otlp_ca: Option<std::path::PathBuf>,
}

impl Options {
    /// The way to the collector, if there is one.
    fn traces(&self) -> anyhow::Result<Exporter> {
        if self.otlp_endpoint.trim().is_empty() {
            return Ok(Exporter::default());
        }
        let authorities =
            self.otlp_ca.as_ref().map(|file| std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))).transpose()?;
        let headers = self.otlp_headers.split(',').map(str::trim).filter(|header| !header.is_empty());
        let headers = headers.map(|header| {
            let (name, value) = header.split_once('=').context("an OTLP header has no value: name=value is wanted")?;
            Ok((name.trim().to_lowercase(), value.trim().to_owned()))
        });
        let settings = Settings { endpoint: self.otlp_endpoint.clone(), headers: headers.collect::<anyhow::Result<_>>()?, authorities };
        Ok(Exporter::start(&settings)?)
    }
}

/// See the module.
///
/// # Errors
/// When the process should end and be started again.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let client = godwit_rpc::api_server::client().await.context("no way to the API server")?;
    let traces = options.traces().context("spans cannot be exported")?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    if let Some(address) = options.metrics {
        tokio::spawn(async move {
            if let Err(error) = METRICS.page().serve(address).await {
                tracing::error!(%error, %address, "no metrics");
            }
        });
    }
    let election = Election::new(client.clone(), &options.namespace, options.identity.clone());
    tokio::select! {
        () = election.win() => {}
        _ = term.recv() => return Ok(()),
        _ = int.recv() => return Ok(()),
    }
    let ended = tokio::select! {
        result = lead(client, &options, traces.clone()) => result,
        () = election.keep() => Err(anyhow::anyhow!("this replica leads no more")),
        _ = term.recv() => { election.release().await; Ok(()) }
        _ = int.recv() => { election.release().await; Ok(()) }
    };
    traces.flush(FLUSH).await;
    ended
}

async fn lead(client: Client, options: &Options, traces: Exporter) -> anyhow::Result<()> {
    METRICS.leads();
    let roots = authority::roots(&client, &options.namespace).await.context("no CA")?;
    let credentials = authority::own(&roots.authority).context("no certificate of our own")?;
    let account = format!("system:serviceaccount:{}:{}", options.namespace, options.agent_account);
    tokio::spawn(signer::run(client.clone(), Arc::clone(&roots.authority), account));

    let migrations: Api<PodMigration> = Api::all(client.clone());
    let controller = Controller::new(migrations, watcher::Config::default());
    let context = Arc::new(Context {
        agents: Agents::new(client.clone(), credentials),
        recorder: Recorder::new(client.clone(), Reporter { controller: names::CONTROLLER.into(), instance: Some(options.identity.clone()) }),
        seen: controller.store(),
        admission: tokio::sync::Mutex::new(()),
        limit: options.per_node.max(1),
        post_copy: options.post_copy,
        traces,
        ticket_key: roots.ticket_key,
        client: client.clone(),
    });
    let checks = Controller::new(Api::<NodeCheck>::all(client.clone()), watcher::Config::default())
        .run(checks::reconcile, checks::retry, Arc::clone(&context))
        .for_each(|_| std::future::ready(()));
    tokio::spawn(checks);
    let traces = Controller::new(Api::<MigrationTrace>::all(client.clone()), watcher::Config::default())
        .run(trace::reconcile, trace::retry, Arc::new(trace::Traces::new(Arc::clone(&context))))
        .for_each(|_| std::future::ready(()));
    tokio::spawn(traces);
    let checkpoints = Controller::new(Api::<PodCheckpoint>::all(client.clone()), watcher::Config::default())
        .run(checkpoint::make::reconcile, checkpoint::make::retry, Arc::clone(&context))
        .for_each(|_| std::future::ready(()));
    tokio::spawn(checkpoints);
    let copies = watcher::Config::default().labels(names::LABEL_RESTORE);
    let restores = Controller::new(Api::<PodRestore>::all(client.clone()), watcher::Config::default())
        .watches(Api::<Pod>::all(client.clone()), copies, |pod| {
            let name = pod.labels().get(names::LABEL_RESTORE)?;
            Some(ObjectRef::new(name).within(&pod.namespace()?))
        })
        .run(checkpoint::restore::reconcile, checkpoint::restore::retry, Arc::clone(&context))
        .for_each(|_| std::future::ready(()));
    tokio::spawn(restores);
    tokio::spawn(imported::run(Arc::clone(&context)));
    if options.lpm {
        tokio::spawn(lpm::run(Arc::clone(&context)));
    }
    // Target pods carry the name of their migration: a change of one is a reason to look.
    let targets = watcher::Config::default().labels(names::LABEL_MIGRATION);
    controller
        .watches(Api::<Pod>::all(client), targets, |pod| {
            let name = pod.labels().get(names::LABEL_MIGRATION)?;
            Some(ObjectRef::new(name).within(&pod.namespace()?))
        })
        .run(reconcile, retry, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "reconciliation ended with an error");
            }
        })
        .await;
    anyhow::bail!("the watch of PodMigrations ended")
}
