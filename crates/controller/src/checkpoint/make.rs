//! `PodCheckpoint`: from the order to what is stored, and its end.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};

use godwit_api::checkpoint::{CheckpointPhase, CheckpointedContainer, Encrypted};
use godwit_api::migration::Failure;
use godwit_api::{PodCheckpoint, PodCheckpointStatus, names};
use godwit_rpc::Key;
use godwit_rpc::v1::{CheckpointMade, CheckpointRequest, RemoveCheckpointRequest, Shelf, checkpoint_reply};

use super::{keys, logins, name, retention, seal};
use crate::answered::put_away;
use crate::checks::facts;
use crate::context::Context;
use crate::error::Error;
use crate::{finalizer, nodes, phase, plan, pods};

/// How long one call waits.
const WAIT: Duration = Duration::from_secs(2);
/// How long an agent that restarts is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two tries to delete what is stored.
const AGAIN: Duration = Duration::from_secs(5);
/// What is in the way of a move, but not of a checkpoint: a pod that is made of it has no owner.
const NOT_IN_THE_WAY: [&str; 1] = ["OwnerNotSupported"];

/// Carries one checkpoint as far as it goes now.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn reconcile(object: Arc<PodCheckpoint>, context: Arc<Context>) -> Result<Action, Error> {
    let api: Api<PodCheckpoint> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    // The watch may be behind what was written a moment ago.
    let Some(object) = api.get_opt(&object.name_any()).await? else { return Ok(Action::await_change()) };
    if object.metadata.deletion_timestamp.is_some() {
        return remove(&context, &api, &object).await;
    }
    // Before anything is stored, and again when Godwit was uninstalled meanwhile, which lifts it.
    if let Some(patch) = finalizer::patch(&object.metadata, names::FINALIZER_CHECKPOINT, true) {
        api.patch(&object.name_any(), &PatchParams::default(), &patch).await?;
        return Ok(Action::requeue(Duration::ZERO));
    }
    let status = object.status.clone().unwrap_or_default();
    match status.phase {
        CheckpointPhase::Pending => begin(&context, &api, &object).await,
        CheckpointPhase::Working => work(&context, &api, &object, status).await,
        CheckpointPhase::Complete | CheckpointPhase::Failed => match (retention::stay(&object), &status.completion_time) {
            (Some(stay), Some(done)) => put_away(&api, &object.name_any(), done, stay).await,
            _ => Ok(Action::await_change()),
        },
    }
}

/// How soon to try again.
#[must_use]
pub fn retry(object: Arc<PodCheckpoint>, error: &Error, _: Arc<Context>) -> Action {
    let error: &dyn std::error::Error = error;
    tracing::warn!(namespace = object.namespace(), name = object.name_any(), error, "a PodCheckpoint will be looked at again");
    Action::requeue(Duration::from_secs(1))
}

/// Looks at the pod, and writes down what will be done.
async fn begin(context: &Context, api: &Api<PodCheckpoint>, object: &PodCheckpoint) -> Result<Action, Error> {
    let mut status = PodCheckpointStatus { start_time: Some(Time(Timestamp::now())), ..PodCheckpointStatus::default() };
    let looked = match (look(context, object).await?, shelf(context, object).await?.1) {
        (Ok(pod), None) => key(context, object).await?.map(|key| (pod, key)),
        (Err(why), _) | (_, Some(why)) => Err(why),
    };
    match looked {
        Ok((pod, key)) => {
            // From here on it must be this one.
            status.encryption = key.map(|key| Encrypted { key_id: key.id() });
            status.phase = CheckpointPhase::Working;
            status.node = pods::node(&pod).map(str::to_owned);
            status.pod_uid = pod.uid();
            status.pod = serde_json::to_value(kept(pod)).ok();
        }
        Err(why) => fail(&mut status, why),
    }
    write(api, object, status).await
}

/// Whether the pod can be kept, as far as its object tells. The inner result says why not.
async fn look(context: &Context, object: &PodCheckpoint) -> Result<Result<Pod, Failure>, Error> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), &object.spec.pod_name);
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let pod = pods.get_opt(name).await?;
    if let Err(why) = pods::check_source(pod.as_ref(), &namespace, name, None) {
        return Ok(Err(why));
    }
    let Some(pod) = pod else { return Err(Error::Gone) };
    let facts = plan::facts(context, &pod).await?;
    let blocker = facts.blockers.into_iter().find(|blocker| !NOT_IN_THE_WAY.contains(&blocker.reason.as_str()));
    Ok(blocker.map_or(Ok(pod), Err))
}

/// What it is to be encrypted with, if with anything. The inner result says why there is no key.
async fn key(context: &Context, object: &PodCheckpoint) -> Result<Result<Option<Key>, Failure>, Error> {
    let Some(named) = &object.spec.encryption else { return Ok(Ok(None)) };
    Ok(keys::read(&context.client, &object.namespace().unwrap_or_default(), named).await?.map(Some))
}

/// Where it is kept; and why nobody logs in there, although somebody should.
async fn shelf(context: &Context, object: &PodCheckpoint) -> Result<(Shelf, Option<Failure>), Error> {
    logins::shelf(&context.client, &object.namespace().unwrap_or_default(), &object.spec.store, object.spec.credentials.as_ref()).await
}

/// What of the pod's object a restore needs.
fn kept(pod: Pod) -> Pod {
    let metadata = ObjectMeta {
        name: pod.metadata.name,
        namespace: pod.metadata.namespace,
        uid: pod.metadata.uid,
        labels: pod.metadata.labels,
        annotations: pod.metadata.annotations,
        owner_references: pod.metadata.owner_references,
        ..ObjectMeta::default()
    };
    let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
    let statuses = statuses.into_iter().map(|mut status| {
        (status.state, status.last_state, status.resources, status.allocated_resources) = (None, None, None, None);
        status
    });
    Pod { metadata, spec: pod.spec, status: Some(PodStatus { container_statuses: Some(statuses.collect()), ..PodStatus::default() }) }
}

/// Asks the agent, which goes on by itself.
async fn work(context: &Context, api: &Api<PodCheckpoint>, object: &PodCheckpoint, mut status: PodCheckpointStatus) -> Result<Action, Error> {
    let (node, pod_uid) = (status.node.clone().unwrap_or_default(), status.pod_uid.clone().unwrap_or_default());
    let key_id = status.encryption.clone().unwrap_or_default().key_id;
    // An agent that is at work does not need it any more; one that has been restarted does.
    let (key, no_key) = match key(context, object).await? {
        Ok(key) => (key, None),
        Err(why) => (None, Some(why)),
    };
    let (shelf, no_login) = shelf(context, object).await?;
    let asked = context.agents.call(&node, PATIENCE, |mut agent| {
        let request = CheckpointRequest {
            checkpoint: Some(name(object)),
            pod_uid: pod_uid.clone(),
            wait_ms: u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX),
            key_id: key_id.clone(),
            key: key.as_ref().map(Key::message),
            shelf: Some(shelf.clone()),
        };
        async move { agent.checkpoint(request).await }
    });
    match asked.await {
        Ok(reply) => match reply.state {
            Some(checkpoint_reply::State::Made(made)) => complete(context, object, &mut status, made),
            Some(checkpoint_reply::State::Failure(why)) => {
                fail(&mut status, first_cause(phase::api_failure(why), no_key, no_login));
            }
            Some(checkpoint_reply::State::Doing(_)) | None => return Ok(Action::requeue(Duration::from_millis(20))),
        },
        Err(error) => fail(&mut status, phase::explain(&error)),
    }
    let complete = status.phase == CheckpointPhase::Complete;
    let action = write(api, object, status).await?;
    if complete {
        let all = api.list(&ListParams::default()).await?.items;
        let newest = all.iter().find(|one| one.uid() == object.uid());
        for old in newest.map(|newest| retention::superfluous(newest, &all)).unwrap_or_default() {
            match api.delete(&old, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if !status.is_not_found() => return Err(kube::Error::Api(status).into()),
                _ => tracing::info!(namespace = object.namespace(), name = old, "an older checkpoint is deleted"),
            }
        }
    }
    Ok(action)
}

/// Why an agent has failed that was not given what could not be read.
pub(super) fn first_cause(why: Failure, no_key: Option<Failure>, no_login: Option<Failure>) -> Failure {
    let first = match why.reason.as_str() {
        "CheckpointKeyMissing" => no_key,
        "StoreDenied" => no_login,
        _ => None,
    };
    first.unwrap_or(why)
}

fn complete(context: &Context, object: &PodCheckpoint, status: &mut PodCheckpointStatus, made: CheckpointMade) {
    let pod: Option<Pod> = status.pod.clone().and_then(|pod| serde_json::from_value(pod).ok());
    status.phase = CheckpointPhase::Complete;
    status.seal = pod.map(|pod| seal::make(&context.ticket_key, &object.uid().unwrap_or_default(), &made.digest, &pod));
    status.path = Some(made.path);
    status.digest = Some(made.digest);
    status.bytes = Some(made.bytes);
    status.files = Some(made.files);
    status.freeze_ms = Some(made.freeze_ms);
    status.facts = made.node.map(facts);
    status.importable = made.importable;
    status.warnings = made.warnings;
    status.containers = made.containers.into_iter().map(|one| CheckpointedContainer { name: one.name, processes: one.processes, bytes: one.bytes }).collect();
    status.completion_time = Some(Time(Timestamp::now()));
}

fn fail(status: &mut PodCheckpointStatus, why: Failure) {
    tracing::info!(reason = why.reason, message = why.message, "no checkpoint");
    status.phase = CheckpointPhase::Failed;
    // Nothing is stored, so nothing of the pod needs to be known.
    status.pod = None;
    status.failure = Some(why);
    status.completion_time = Some(Time(Timestamp::now()));
}

async fn write(api: &Api<PodCheckpoint>, object: &PodCheckpoint, status: PodCheckpointStatus) -> Result<Action, Error> {
    let mut next = object.clone();
    next.status = Some(status);
    match api.replace_status(&object.name_any(), &PostParams::default(), &next).await {
        Ok(_) => Ok(Action::requeue(Duration::ZERO)),
        // Deleted, or written by another leader: the watch tells.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(Action::requeue(Duration::from_millis(100))),
        Err(error) => Err(error.into()),
    }
}

/// Whether it failed because there is no store, so that nothing of it can be in one. Nobody could be asked to delete it, either.
fn had_no_store(status: &PodCheckpointStatus) -> bool {
    let reasons = ["StoreMissing", "CheckpointsOff", "StoreNotAllowed", "StoreDenied"];
    status.path.is_none() && status.failure.as_ref().is_some_and(|why| reasons.contains(&why.reason.as_str()))
}

/// What is stored goes, then the object.
async fn remove(context: &Context, api: &Api<PodCheckpoint>, object: &PodCheckpoint) -> Result<Action, Error> {
    let Some(patch) = finalizer::patch(&object.metadata, names::FINALIZER_CHECKPOINT, false) else { return Ok(Action::await_change()) };
    if let Some(node) = object.status.as_ref().filter(|status| !had_no_store(status)).and_then(|status| status.node.clone()) {
        // Its own agent knows whether it is still at work; when that node is gone, any other sees the same directory.
        let all = context.nodes().list(&ListParams::default()).await?.items;
        let own = all.iter().any(|one| one.name_any() == node);
        let chosen = if own { Some(node) } else { all.iter().find(|one| nodes::has_agent(one)).map(ResourceExt::name_any) };
        let Some(chosen) = chosen else { return Ok(Action::requeue(AGAIN)) };
        // Without a login the registry decides: a namespace that goes with its Secrets must not wait for ever.
        let (shelf, _) = shelf(context, object).await?;
        let failed = object.status.as_ref().is_some_and(|status| status.phase == CheckpointPhase::Failed);
        let removed = context.agents.call(&chosen, WAIT, |mut agent| {
            let request = RemoveCheckpointRequest { checkpoint: Some(name(object)), shelf: Some(shelf.clone()), once: failed };
            async move { agent.remove_checkpoint(request).await }
        });
        match removed.await {
            Err(error) => {
                tracing::warn!(
                    namespace = object.namespace(),
                    name = object.name_any(),
                    node = chosen,
                    cause = error.cause(),
                    "a checkpoint is not deleted yet"
                );
                return Ok(Action::requeue(AGAIN));
            }
            Ok(reply) if !reply.left.is_empty() => context.warn_at_the_end(&object.object_ref(&()), "CheckpointStays", &reply.left).await,
            Ok(_) => {}
        }
    }
    match api.patch(&object.name_any(), &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(Action::requeue(Duration::from_millis(100))),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(Action::await_change()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_a_restore_needs_is_kept() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "uid": "u", "resourceVersion": "7", "managedFields": [{}], "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c"}], "nodeName": "a"},
            "status": {"podIP": "10.0.0.1", "containerStatuses": [
                {"name": "c", "image": "x", "imageID": "sha256:1", "ready": true, "restartCount": 0, "state": {"running": {}}}]},
        }))
        .unwrap();
        let kept = serde_json::to_value(kept(pod)).unwrap();
        assert_eq!(kept["metadata"], json!({"name": "web", "uid": "u", "labels": {"app": "web"}}));
        assert_eq!(kept["spec"]["nodeName"], "a");
        assert_eq!(kept["status"]["containerStatuses"][0]["imageID"], "sha256:1");
        assert!(kept["status"]["podIP"].is_null() && kept["status"]["containerStatuses"][0]["state"].is_null());
    }
}
