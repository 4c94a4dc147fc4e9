//! Has the kubelets log more while a trace runs, and as much as before afterwards.
//!
//! Through the API server and with the user's own rights (`update` on `nodes/proxy`): `PUT …/nodes/NODE/proxy/debug/flags/v`. What it was is what the kubelet's
//! settings say (`/configz`), which this does not change. No restart. CRI-O's level is the agent's to raise (`spec.raise`), containerd's cannot be without a restart.

use godwit_api::PodMigration;
use kube::Client;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::error::innermost;

/// Everything that the kubelet says about pods and volumes, not yet every request.
const HIGH: u64 = 4;

/// Kubelets that log more now, and how much they did before.
pub struct Raised(Vec<(String, u64)>);

/// Raises the level of both nodes' kubelets, as far as it is known who they are, and says what it did.
pub async fn raise(cluster: &Cluster, migration: &PodMigration) -> Raised {
    let status = migration.status.clone().unwrap_or_default();
    let source = match status.source_node {
        Some(node) => Some(node),
        None => cluster.node_of(&migration.spec.pod_name).await,
    };
    let mut nodes: Vec<String> = [source, status.target_node.or_else(|| migration.spec.target_node.clone())].into_iter().flatten().collect();
    nodes.dedup();
    if nodes.len() < 2 {
        eprintln!("not both nodes are known yet: of those that are not, the kubelet logs no more than before");
    }
    let mut raised = Vec::new();
    for node in nodes {
        match one(cluster.client(), &node).await {
            Ok(before) if before < HIGH => {
                eprintln!(
                    "kubelet of {node}: level {before} → {HIGH} while this runs. If this is killed: echo -n {before} > v; kubectl replace --raw /api/v1/nodes/{node}/proxy/debug/flags/v -f v"
                );
                raised.push((node, before));
            }
            Ok(before) => eprintln!("kubelet of {node}: its level is {before} already"),
            Err(why) => eprintln!("kubelet of {node}: its level stays: {why}"),
        }
    }
    Raised(raised)
}

impl Raised {
    /// Puts everything back.
    pub async fn lower(self, cluster: &Cluster) {
        for (node, before) in self.0 {
            if let Err(why) = put(cluster.client(), &node, before).await {
                eprintln!("kubelet of {node}: its level could not be put back to {before}: {why}");
            }
        }
    }
}

async fn one(client: &Client, node: &str) -> Result<u64, String> {
    let request = http::Request::get(format!("/api/v1/nodes/{node}/proxy/configz")).body(Vec::new()).map_err(|error| error.to_string())?;
    let configz: Value = client.request(request).await.map_err(|error| said(&error))?;
    let before = configz.pointer("/kubeletconfig/logging/verbosity").and_then(Value::as_u64).unwrap_or_default();
    if before < HIGH {
        put(client, node, HIGH).await?;
    }
    Ok(before)
}

async fn put(client: &Client, node: &str, level: u64) -> Result<(), String> {
    let request = http::Request::put(format!("/api/v1/nodes/{node}/proxy/debug/flags/v")).body(level.to_string().into_bytes());
    client.request_text(request.map_err(|error| error.to_string())?).await.map(|_| ()).map_err(|error| said(&error))
}

fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => "you may not: it takes get and update on nodes/proxy".into(),
        kube::Error::Api(status) => status.message.clone(),
        other => innermost(other),
    }
}
