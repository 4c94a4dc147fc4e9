//! Pods that came without Godwit's runtime handler, for as long as they live: a container of theirs that starts anew starts from its own image. Its spec names the checkpoint image
//! until then, because the kubelet would restart a running container whose image is another; and it can be pulled but once, so that nothing goes on twice from the same instant.
//!
//! ```text
//!   container ended, or waits for its image ─▶ has it, asks the agent of its node? ─▶ spec.containers[].image = what the annotation godwit.dev/images says ─▶ the kubelet starts that
//! ```
//! A status may be older than the restore: of an attempt before the one that came. So the node is asked.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;

use godwit_api::names;
use godwit_rpc::v1::AftermathRequest;

use crate::context::Context;
use crate::pods;
use crate::target::import;

/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// So long after it came no word of before is left.
const SETTLED: Duration = Duration::from_secs(60);
/// What a container waits for that is just being started.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Watches them, for ever.
pub async fn run(context: Arc<Context>) {
    let all: Api<Pod> = Api::all(context.client.clone());
    let imported = watcher::Config::default().labels(names::LABEL_IMPORTED);
    let mut changes = watcher(all, imported).default_backoff().applied_objects().boxed();
    loop {
        match changes.try_next().await {
            Ok(Some(pod)) => mend(&context, &pod).await,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "the watch of imported pods was cut");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn mend(context: &Context, pod: &Pod) {
    let mut images = ended(pod);
    if images.is_empty() {
        return;
    }
    match standing(context, pod).await {
        Some(standing) => images.retain(|(name, _)| !standing.contains(name)),
        // Nobody can be asked: what is said so long afterwards is no word from before.
        None if pods::has_been(pod, names::CONDITION_LIVE, SETTLED) => {}
        None => return,
    }
    if images.is_empty() {
        return;
    }
    let containers: Vec<_> = images.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"uid": pod.uid()}, "spec": {"containers": containers}});
    match api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&patch)).await {
        Ok(_) => tracing::info!(pod = pod.name_any(), containers = ?images, "containers start anew from their own images"),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
        Err(error) => {
            // The kubelet's next status brings it here again: a container whose image cannot be pulled is told again and again.
            tracing::warn!(%error, pod = pod.name_any(), "a container cannot be given its own image yet");
        }
    }
}

/// Containers that have not ended, as the node's runtime says.
async fn standing(context: &Context, pod: &Pod) -> Option<Vec<String>> {
    let request = AftermathRequest { pod_uid: pod.uid().unwrap_or_default() };
    let told = context.agents.call(pods::node(pod)?, PAUSE, |mut agent| {
        let request = request.clone();
        async move { agent.aftermath(request).await }
    });
    told.await.ok()?.standing.map(|standing| standing.containers)
}

/// Containers that do not run any more, and their own images. A pod that has not come yet has none: what it waits for is the migration.
fn ended(pod: &Pod) -> Vec<(String, String)> {
    if !pods::is(pod, names::CONDITION_LIVE) {
        return Vec::new();
    }
    let own = import::own_images(pod);
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let checkpoints = containers.iter().filter(|container| container.image.as_deref().is_some_and(names::is_checkpoint_image));
    let over = checkpoints.filter(|container| pods::containers(pod).iter().any(|status| status.name == container.name && is_over(status)));
    over.filter_map(|container| Some((container.name.clone(), own.get(&container.name)?.clone()))).collect()
}

fn is_over(status: &ContainerStatus) -> bool {
    let Some(state) = &status.state else { return false };
    let waits = state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
    state.terminated.is_some() || waits.is_some_and(|reason| !STARTING.contains(&reason))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pod(live: &str, state: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web-m1", "annotations": {"godwit.dev/images": r#"{"web": "app:1"}"#}},
            "spec": {"containers": [{"name": "web", "image": names::checkpoint_image("uid", "web")}]},
            "status": {
                "conditions": [{"type": "godwit.dev/live", "status": live}],
                "containerStatuses": [{"name": "web", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn only_what_has_ended_after_it_came_gets_its_own_image() {
        let own = vec![("web".to_owned(), "app:1".to_owned())];
        assert_eq!(ended(&pod("True", &json!({"terminated": {"exitCode": 1}}))), own);
        assert_eq!(ended(&pod("True", &json!({"waiting": {"reason": "ErrImagePull"}}))), own);
        assert_eq!(ended(&pod("True", &json!({"waiting": {"reason": "ContainerCreating"}}))), []);
        assert_eq!(ended(&pod("True", &json!({"running": {}}))), []);
        assert_eq!(ended(&pod("False", &json!({"terminated": {"exitCode": 1}}))), []);
    }
}
