//! Our finalizers on objects: put there, taken away, and lifted when Godwit has been uninstalled.
//!
//! `godwit-controller lift-finalizers` is the chart's post-delete hook: the controllers have lost their rights, and can put nothing back. Without a controller nobody would take
//! a finalizer away: the objects, and the namespaces that they are in, could not be deleted any more. What is stored of a checkpoint stays, and is the object's again as soon as
//! Godwit is back, whose controller puts the finalizer there anew. Migrations and their Handovers keep theirs: an arbiter is never taken away from a pod that may be in between.

use std::fmt::Debug;

use anyhow::Context as _;
use godwit_api::{PodCheckpoint, PodRestore, names};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The patch that puts a finalizer on an object or takes it away; `None` if it is as wanted. The API server refuses it when somebody else has changed the object meanwhile.
pub fn patch(metadata: &ObjectMeta, finalizer: &str, wanted: bool) -> Option<Patch<Value>> {
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    if finalizers.iter().any(|one| one == finalizer) == wanted {
        return None;
    }
    if wanted {
        finalizers.push(finalizer.to_owned());
    } else {
        finalizers.retain(|one| one != finalizer);
    }
    Some(Patch::Merge(json!({"metadata": {"resourceVersion": metadata.resource_version, "finalizers": finalizers}})))
}

/// Lifts the finalizers of all checkpoints and restores.
///
/// # Errors
/// When the API server refuses; what could be done has been.
pub async fn lift() -> anyhow::Result<()> {
    let client = godwit_rpc::api_server::client().await.context("no way to the API server")?;
    let (checkpoints, restores) = tokio::join!(lift_all::<PodCheckpoint>(&client), lift_all::<PodRestore>(&client));
    checkpoints.and(restores)
}

/// Of all objects of a kind.
async fn lift_all<K>(client: &Client) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let kind = K::plural(&());
    let objects = match Api::<K>::all(client.clone()).list_metadata(&ListParams::default()).await {
        // Its definition is gone, and with it all objects.
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        listed => listed.with_context(|| format!("{kind} cannot be listed"))?,
    };
    let mut outcome = Ok(());
    for object in objects {
        let Some(patch) = patch(&object.metadata, names::FINALIZER_CHECKPOINT, false) else { continue };
        let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
        match Api::<K>::namespaced(client.clone(), &namespace).patch_metadata(&name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            // The Job tries again, and finds the others done.
            Err(error) => outcome = Err(error).with_context(|| format!("{name} of {kind} in {namespace} keeps its finalizer")),
            Ok(_) => tracing::info!(kind = &*kind, namespace, name, "the finalizer is lifted"),
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn others_finalizers_stay() {
        let metadata = ObjectMeta { finalizers: Some(vec!["a/b".into(), "ours/x".into()]), resource_version: Some("7".into()), ..ObjectMeta::default() };
        let Patch::Merge(value) = patch(&metadata, "ours/x", false).unwrap() else { unreachable!("a merge patch") };
        assert_eq!(value, json!({"metadata": {"resourceVersion": "7", "finalizers": ["a/b"]}}));
        assert!(patch(&metadata, "ours/x", true).is_none());
        assert!(patch(&ObjectMeta::default(), "ours/x", false).is_none());
        let Patch::Merge(value) = patch(&metadata, "ours/y", true).unwrap() else { unreachable!("a merge patch") };
        assert_eq!(value["metadata"]["finalizers"], json!(["a/b", "ours/x", "ours/y"]));
    }
}
