//! `godwit-controller remove-agents`, the chart's pre-delete hook: the DaemonSet of the agents goes first, while roles and accounts are still there.
//!
//! Deleted in the foreground, the object stays, marked, until its pods have ended: an agent that is told to end sees by it that Godwit is being
//! uninstalled, and takes its handler off the node.

use std::time::Duration;

use anyhow::{Context as _, bail};
use godwit_api::names;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use kube::api::DeleteParams;
use tokio::time::{Instant, sleep};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Command line.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Namespace of Godwit's own pods.
    #[arg(long, env = "POD_NAMESPACE", default_value = "godwit-system")]
    namespace: String,
    /// The agents' DaemonSet.
    #[arg(long, default_value = names::AGENT)]
    name: String,
    /// Seconds to wait until all agents have ended.
    #[arg(long, default_value_t = 100)]
    patience: u64,
}

/// Deletes the DaemonSet and waits until its pods have gone.
///
/// # Errors
/// When the API server refuses, or an agent does not end in time.
pub async fn remove_agents(options: &Options) -> anyhow::Result<()> {
    let client = godwit_rpc::api_server::client().await.context("no way to the API server")?;
    let sets: Api<DaemonSet> = Api::namespaced(client, &options.namespace);
    let end = Instant::now() + Duration::from_secs(options.patience);
    while let Some(set) = sets.get_opt(&options.name).await.context("the DaemonSet of the agents cannot be read")? {
        if set.metadata.deletion_timestamp.is_none() {
            sets.delete(&options.name, &DeleteParams::foreground()).await.context("the DaemonSet of the agents cannot be deleted")?;
        }
        if Instant::now() > end {
            let left = set.status.map_or(0, |status| status.current_number_scheduled);
            bail!(
                "{left} agents have not ended after {} s: look at their pods, delete by force those of nodes that are gone (kubectl delete pod --force), and uninstall again",
                options.patience
            );
        }
        sleep(PAUSE).await;
    }
    Ok(())
}
