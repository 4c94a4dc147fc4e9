//! `Settling`: the pod runs at the target. Owners and endpoints follow, the source is retired. Whatever fails here is tried again, for ever.
//!
//! ```text
//!   bare pod     live ─▶ source deleted ─────────────────────────────┐
//!   ReplicaSet   live ─▶ Ready ─▶ labels and owner onto the target,  ├─▶ Retire (SIGKILL while sealed) ─▶ source gone ─▶ Forget
//!                                 the ReplicaSet deletes the source ─┘
//! ```
//!
//! With post-copy the target takes the source's place first, and the source is deleted and retired when all memory is at the target ([`super::filling`]).
//!
//! A target that has ended (evicted, or done) or is gone takes no place: the source is deleted, and its owner, if it has one, makes another pod. So it is with one that is being deleted, but
//! while that still ends it is given what it needs of the source.
//!
//! While connections live on through the source's address ([`super::anchored`]), it stays: without its labels, so that no Service and no owner knows it, and
//! without its processes.

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use godwit_api::migration::{Anchor, Phase};
use godwit_api::names;
use godwit_rpc::v1::{ForgetRequest, RetireRequest};

use super::{anchored, filling};
use crate::context::Context;
use crate::error::Error;
use crate::owner::{self, Adoption};
use crate::pods;
use crate::reconcile::Next;
use crate::record::{Record, condition, end};

/// How long a call may wait for an agent that restarts; then the whole phase is tried again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a bare pod's target may take to become Ready before the record ends without it.
const READY: Duration = Duration::from_secs(30);
/// How long the ReplicaSet may take to choose the source.
const OWNER: Duration = Duration::from_secs(10);
/// Beyond the grace period: how long the kubelet may take to let the source go.
const GONE: Duration = Duration::from_secs(30);
/// Lowest cost: the first to be retired.
const COST: &str = "-2147483648";

/// See the module.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn run(context: &Context, record: &mut Record) -> Result<Next, Error> {
    let (pods, status) = (context.pods(record), record.status());
    let (source_uid, target_uid) = (status.source_pod_uid.unwrap_or_default(), status.target_pod_uid.unwrap_or_default());
    let name = status.target_pod.unwrap_or_default();
    let found = record.step("look", pods.get_opt(&name)).await?.filter(|pod| pod.uid().as_deref() == Some(target_uid.as_str()));
    let target = found.as_ref().filter(|pod| !pods::has_ended(pod));
    let adoption = target.and_then(owner::kept);

    if let Some(target) = target {
        live(context, record, target).await?;
        context.point("controller.settling.live").await?;
    }
    if let (Some(target), Some(_)) = (target, &adoption) {
        // Its Service leads to the source until then: connections may still be made.
        is_ready(context, record, target).await?;
    }
    let (fills, mut lost) = (filling::is_wanted(record), None);
    if fills && found.is_some() {
        // The target needs the source until then, and nobody else may use it.
        let shared = match target {
            Some(target) => anchored::share(context, record, target, adoption.as_ref()).await.map(drop),
            None => Ok(()),
        };
        // Of one that has ended, too: it may have been lost.
        lost = filling::run(context, record).await?;
        if lost.is_none() {
            shared?;
        }
    }
    if let Some(target) = target
        && lost.is_none()
        && let Some(anchor) = anchored::look(context, record).await?.filter(|anchor| anchor.connections > 0)
    {
        return anchored::begin(context, record, target, adoption.as_ref(), anchor).await;
    }
    match (target, adoption) {
        (Some(target), Some(adoption)) if !fills => hand_to_owner(context, record, target, &adoption, &source_uid).await?,
        _ => record.step("delete-source", delete(context, record, record.pod(), &source_uid, None)).await?,
    }
    context.point("controller.settling.source-deleted").await?;
    retire(context, record).await?;
    context.point("controller.settling.retired").await?;
    until_gone(context, record, &source_uid).await?;
    context.point("controller.settling.gone").await?;

    let ready = match target {
        None => false,
        Some(_) if lost.is_some() => false,
        Some(target) => is_ready(context, record, target).await?,
    };
    let forgotten = record.step("forget", forget(context, record)).await;
    let next = match lost {
        None => succeed(context, record, ready, None).await?,
        Some(why) => {
            record.write(|status| end(status, Phase::Failed, Some(&why))).await?;
            Next::Again
        }
    };
    // Not before the end is written: a record that is being deleted goes with its finalizer. If they have not forgotten yet, `finished` asks them again.
    if forgotten {
        record.hold(false).await?;
    }
    Ok(next)
}

/// Waits a while until the target is Ready.
pub(super) async fn is_ready(context: &Context, record: &Record, target: &Pod) -> Result<bool, Error> {
    let name = target.name_any();
    let wait = context.watch_pod(record, &name, |seen| seen.is_none_or(|pod| pods::is(pod, "Ready")).then_some(()));
    record_wait(record.step("ready", tokio::time::timeout(READY, wait)).await)
}

/// Writes the end of the road.
pub(super) async fn succeed(context: &Context, record: &mut Record, ready: bool, anchor: Option<Anchor>) -> Result<Next, Error> {
    let name = record.status().target_pod.unwrap_or_default();
    record
        .write(|status| {
            status.anchor.clone_from(&anchor);
            end(status, Phase::Succeeded, None);
            let message = if ready { "" } else { "the pod that has moved is not Ready: see its probes and events" };
            condition(status, "Ready", ready, if ready { "Ready" } else { "NotReady" }, message);
        })
        .await?;
    let freeze = record.status().freeze.unwrap_or_default().total_ms;
    let node = record.status().target_node.unwrap_or_default();
    context.event(record, false, "Migrated", &format!("{} runs on node {node} as {name}; it stood still for {freeze} ms", record.pod())).await;
    context.point("controller.settling.written").await?;
    Ok(Next::Again)
}

fn record_wait(waited: Result<Result<(), Error>, tokio::time::error::Elapsed>) -> Result<bool, Error> {
    match waited {
        Ok(Ok(())) => Ok(true),
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

/// Opens the readiness gate of the target.
async fn live(context: &Context, record: &mut Record, target: &Pod) -> Result<(), Error> {
    if pods::is(target, names::CONDITION_LIVE) {
        return Ok(());
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let patch = json!({"status": {"conditions": [
        {"type": names::CONDITION_LIVE, "status": "True", "reason": "Running", "message": "the migrated processes run here", "lastTransitionTime": now},
    ]}});
    let pods = context.pods(record);
    let patched = record.step("live", async { pods.patch_status(&target.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await }).await;
    match patched {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The ReplicaSet takes the target over and retires the source.
async fn hand_to_owner(context: &Context, record: &mut Record, target: &Pod, adoption: &Adoption, source_uid: &str) -> Result<(), Error> {
    let pods = context.pods(record);
    let of_source = |found: Option<Pod>| found.filter(|pod| pod.uid().as_deref() == Some(source_uid));
    let source = of_source(pods.get_opt(record.pod()).await?);
    if source.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none()) {
        last_to_keep(context, record, source_uid, false).await?;
    }
    context.point("controller.settling.cost").await?;

    let name = target.name_any();
    let adopted = target.owner_references().iter().any(|owner| owner.uid == adoption.owner.uid);
    if !adopted {
        // Adopted before it is Ready, the target would be the one to go, as long as the source counts as Ready. Where neither does (replicas that stand by) the cost decides.
        let wait = context.watch_pod(record, &name, |seen| seen.is_none_or(|pod| pods::is(pod, "Ready")).then_some(()));
        if let Ok(result) = record.step("ready", tokio::time::timeout(READY, wait)).await {
            result?;
        } else if of_source(pods.get_opt(record.pod()).await?).is_some_and(|pod| pods::is(&pod, "Ready")) {
            record.write(|status| condition(status, "Ready", false, "NotReady", "the ReplicaSet takes the pod over when it is Ready: see its probes")).await?;
            return Err(Error::NotYet("the target pod is not Ready"));
        }
        record.step("adopt", adopt(context, record, target, adoption)).await?;
    }
    context.point("controller.settling.adopted").await?;

    let going = context.watch_pod(record, record.pod(), |seen| is_going(seen, source_uid).then_some(()));
    match record.step("owner", tokio::time::timeout(OWNER, going)).await {
        Ok(result) => result,
        // It chose another (one that was not Ready), or was scaled up meanwhile: it replaces what it needs.
        Err(_) => delete(context, record, record.pod(), source_uid, None).await,
    }
}

/// Of the owner's pods the source becomes the first to go; if it `stays`, the owner may not delete it.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn last_to_keep(context: &Context, record: &Record, source_uid: &str, stays: bool) -> Result<(), Error> {
    let mut annotations = json!({"controller.kubernetes.io/pod-deletion-cost": COST});
    if stays {
        annotations[names::ANNOTATION_STAYS] = json!("connections");
    }
    let patch = json!({"metadata": {"uid": source_uid, "annotations": annotations}});
    ignore_gone(context.pods(record).patch(record.pod(), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop))
}

/// Labels and owner onto the target; the labels alone when the owner is gone or has let go of the source. If another one selects by them, it takes the pod over by itself.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn adopt(context: &Context, record: &Record, target: &Pod, adoption: &Adoption) -> Result<(), Error> {
    let sets: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &record.namespace());
    let set = sets.get_opt(&adoption.owner.name).await?;
    let source_uid = record.status().source_pod_uid;
    let source = context.pods(record).get_opt(record.pod()).await?.filter(|pod| pod.metadata.uid == source_uid);
    let patch = if owner::still_owns(&adoption.owner, set.as_ref(), source.as_ref()) {
        let mut owners = target.owner_references().to_vec();
        if owners.iter().all(|owner| owner.uid != adoption.owner.uid) {
            owners.push(adoption.owner.clone());
        }
        json!({"metadata": {"uid": target.uid(), "labels": adoption.labels, "ownerReferences": owners}})
    } else {
        // Owners that it has stay: after a restart of the controller it may have been taken over, and the source let go of for that.
        tracing::warn!(pod = target.name_any(), owner = adoption.owner.name, "the ReplicaSet does not own the source any more: no owner for the target");
        json!({"metadata": {"uid": target.uid(), "labels": adoption.labels}})
    };
    ignore_gone(context.pods(record).patch(&target.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ()))
}

/// Whether the pod with this UID is gone, or being deleted.
pub(super) fn is_going(pod: Option<&Pod>, uid: &str) -> bool {
    pod.is_none_or(|pod| pod.uid().as_deref() != Some(uid) || pod.metadata.deletion_timestamp.is_some())
}

/// Nothing to do for a pod that is gone.
pub(super) fn ignore_gone(result: kube::Result<()>) -> Result<(), Error> {
    match result {
        // A conflict here means another UID: the pod that was meant is gone.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        other => Ok(other?),
    }
}

/// Deletes the pod with this name and UID, if it is there.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn delete(context: &Context, record: &Record, name: &str, uid: &str, grace: Option<u32>) -> Result<(), Error> {
    let params = DeleteParams {
        grace_period_seconds: grace,
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    ignore_gone(context.pods(record).delete(name, &params).await.map(|_| ()))
}

/// The source's processes end, without running again.
///
/// # Errors
/// When the agent is away.
pub(super) async fn retire(context: &Context, record: &mut Record) -> Result<(), Error> {
    let migration = record.step("addresses", context.migration(record)).await?;
    let node = migration.source_node.clone();
    let call = context.agents.call(&node, PATIENCE, |mut agent| {
        let request = RetireRequest { migration: Some(migration.clone()) };
        async move { agent.retire(request).await }
    });
    let answer = record.step("retire", call).await;
    match answer {
        Ok(_) | Err(crate::error::AgentError::NoNode(_)) => Ok(()),
        Err(error) => {
            let message = format!("the source is sealed and waits to be retired: {}", error.cause());
            record.write(|status| condition(status, "Retired", false, "AgentUnreachable", &message)).await?;
            Err(error.into())
        }
    }
}

/// Until the source pod's object is gone; by force when the kubelet does not let go although nothing runs.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn until_gone(context: &Context, record: &mut Record, uid: &str) -> Result<(), Error> {
    let source = context.pods(record).get_opt(record.pod()).await?.filter(|pod| pod.uid().as_deref() == Some(uid));
    let Some(source) = source else { return Ok(()) };
    let grace = source.spec.and_then(|spec| spec.termination_grace_period_seconds).and_then(|grace| u64::try_from(grace).ok()).unwrap_or(30);
    let name = record.pod().to_owned();
    let gone = context.watch_pod(record, &name, |seen| seen.is_none_or(|pod| pod.uid().as_deref() != Some(uid)).then_some(()));
    let waited = record.step("gone", tokio::time::timeout(GONE + Duration::from_secs(grace), gone)).await;
    match waited {
        Ok(result) => result,
        Err(_) => delete(context, record, &name, uid, Some(0)).await,
    }
}

/// Both agents drop what they know. Whether both have.
pub(super) async fn forget(context: &Context, record: &Record) -> bool {
    let Ok(migration) = context.migration(record).await else { return false };
    let (mut all, mut source_gone) = (true, false);
    for node in [&migration.source_node, &migration.target_node] {
        if node.is_empty() {
            continue;
        }
        let gone = source_gone;
        let call = context.agents.call(node, PATIENCE, |mut agent| {
            let request = ForgetRequest { migration: Some(migration.clone()), source_gone: gone };
            async move { agent.forget(request).await }
        });
        match call.await {
            Ok(_) => {}
            Err(crate::error::AgentError::NoNode(_)) => source_gone |= *node == migration.source_node,
            Err(error) => {
                tracing::warn!(node, cause = error.cause(), "not forgotten yet");
                all = false;
            }
        }
    }
    all
}
