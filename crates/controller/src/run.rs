//! The process: wait to lead, lead until the Lease is lost or a signal comes, end.

use std::sync::{Arc, LazyLock};

use anyhow::Context as _;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};

use godwit_api::{MigrationTrace, NodeCheck, PodCheckpoint, PodMigration, PodRestore, names};

use crate::agents::Agents;
use crate::context::Context;
use crate::lease::Election;
use crate::reconcile::{reconcile, retry};
use crate::{authority, checkpoint, checks, signer, trace};

/// What is counted.
pub static METRICS: LazyLock<godwit_metrics::Controller> = LazyLock::new(godwit_metrics::Controller::default);

/// Command line.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Namespace of Godwit's own pods.
    #[arg(long, env = "POD_NAMESPACE", default_value = "godwit-system")]
    namespace: String,
    /// Name of this replica.
    #[arg(long, env = "POD_NAME", default_value = "godwit-controller")]
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
}

/// See the module.
///
/// # Errors
/// When the process should end and be started again.
pub async fn run(options: Options) -> anyhow::Result<()> {
    // Fails only if one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = Client::try_default().await.context("no way to the API server")?;
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
    tokio::select! {
        result = lead(client, &options) => result,
        () = election.keep() => anyhow::bail!("this replica leads no more"),
        _ = term.recv() => { election.release().await; Ok(()) }
        _ = int.recv() => { election.release().await; Ok(()) }
    }
}

async fn lead(client: Client, options: &Options) -> anyhow::Result<()> {
    METRICS.leads();
    let roots = authority::roots(&client, &options.namespace).await.context("no CA")?;
    let credentials = authority::own(&roots.authority).context("no certificate of our own")?;
    let account = format!("system:serviceaccount:{}:{}", options.namespace, options.agent_account);
    tokio::spawn(signer::run(client.clone(), Arc::clone(&roots.authority), account));

    let migrations: Api<PodMigration> = Api::all(client.clone());
    let controller = Controller::new(migrations, watcher::Config::default());
    let context = Arc::new(Context {
        agents: Agents::new(client.clone(), credentials),
        recorder: Recorder::new(client.clone(), Reporter { controller: "godwit-controller".into(), instance: Some(options.identity.clone()) }),
        seen: controller.store(),
        admission: tokio::sync::Mutex::new(()),
        limit: options.per_node.max(1),
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
