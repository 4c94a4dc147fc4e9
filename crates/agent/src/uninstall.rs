//! Takes the runtime handler `godwit` off the node again, when this agent ends because Godwit is uninstalled.
//!
//! ```text
//!   SIGTERM ─▶ own DaemonSet: there ────────────────────▶ an ordinary end: the next agent goes on
//!              being deleted, or gone ─▶ a hand-over has not ended here ─▶ nothing is touched: its journal is needed
//!                                     └▶ node's label
//!                                        no pod uses the handler ─▶ drop-in, wrapper, journal; the runtime restarted
//!                                        one does ────────────────▶ drop-in, wrapper and consumed markers stay for it
//! ```
//! A pod that came by migration is stopped, restarted and deleted through the wrapper for as long as it lives; taking that away would disturb it.
//! Installing and uninstalling Godwit once more when such pods have gone clears the node.

use std::{fs, io, path::Path, time::Duration};

use anyhow::Context;
use godwit_api::names;
use godwit_runtime::protocol::{CONSUMED, CONTAINERS};
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Node as KubeNode};
use kube::{
    Api,
    api::{Patch, PatchParams},
};

use crate::{
    import, install,
    node::Node,
    registry::Registry,
    source,
    target::{self, consumed},
};

/// How long the API server may take to say whether this is the end.
const ASKING: Duration = Duration::from_secs(5);

/// Whether this agent ends because Godwit is uninstalled: its DaemonSet is being deleted, or gone. Whatever leaves a doubt (no answer, no permission) says no.
pub async fn is_wanted(node: &Node, namespace: &str) -> bool {
    let sets: Api<DaemonSet> = Api::namespaced(node.kube.clone(), namespace);
    match tokio::time::timeout(ASKING, sets.get_opt(names::AGENT)).await {
        Ok(Ok(Some(set))) => set.metadata.deletion_timestamp.is_some(),
        Ok(Ok(None)) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot see whether Godwit is being uninstalled; nothing is taken away");
            false
        }
        Err(_) => {
            tracing::warn!("the API server does not say whether Godwit is being uninstalled; nothing is taken away");
            false
        }
    }
}

/// Takes away what can be.
///
/// # Errors
/// What could not be done; the rest has been.
pub async fn uninstall(node: &Node, registry: &Registry) -> anyhow::Result<()> {
    if registry.is_busy() {
        tracing::warn!("Godwit is uninstalled while a pod moves from or to this node: everything stays. Install it again to bring the migration to its end");
        return Ok(());
    }
    let nodes: Api<KubeNode> = Api::all(node.kube.clone());
    let patch = serde_json::json!({"metadata": {"labels": {names::NODE_LABEL_READY: null}}});
    let unlabelled = nodes.patch_metadata(&node.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    let pods = consumed::pods(&node.host).context("cannot see which pods came by migration")?;
    if pods.is_empty() {
        remove_handler(node).await?;
        tracing::info!("the runtime handler was taken off this node");
    } else {
        tracing::warn!(pods = pods.join(", "), "the runtime handler stays for the pods that came by migration; uninstall again when they have gone");
    }
    unlabelled.map(drop).context("the node keeps its label")
}

async fn remove_handler(node: &Node) -> anyhow::Result<()> {
    let drop_in = install::drop_in(node.cri.kind());
    let known = node.host.path(drop_in.path);
    let was_there = known.exists();
    remove(&known)?;
    remove(&node.host.path(install::REGISTRIES))?;
    for folder in [install::FOLDER, CONTAINERS, CONSUMED, source::pod::IMAGES, target::pod::IMAGES, import::FOLDER] {
        remove(&node.host.path(folder))?;
    }
    if was_there {
        install::restart(&node.cri, &node.host).await.context("the runtime still knows the handler until it is restarted")?;
    }
    if node.anchors.keys().is_empty() {
        tokio::task::spawn_blocking(godwit_network::wireguard::remove).await?.context("the interface of encrypted tunnels stays")?;
    }
    Ok(())
}

/// Removes a file or a folder that may be gone already.
fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(|| format!("cannot remove {}", path.display())),
        _ => Ok(()),
    }
}
