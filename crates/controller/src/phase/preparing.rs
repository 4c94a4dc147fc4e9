//! `Preparing`: the target pod is made and the scheduler places it.
//!
//! Its name is written before it is made, so that a pod which was made by a controller that died is found again; that it is ours is told by the annotation
//! with the PodMigration's UID, which nobody else may set.

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use godwit_api::migration::{Failure, Phase};
use godwit_api::{lpm, names};
use godwit_rpc::v1::{InspectRequest, PrepareTargetRequest};

use crate::candidates;
use crate::context::Context;
use crate::error::Error;
use crate::owner::{self, Adoption, Owner};
use crate::reconcile::Next;
use crate::record::{Record, condition};
use crate::target::{self, Order};
use crate::{failure, naming, pods};

/// See the module.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn run(context: &Context, record: &mut Record) -> Result<Next, Error> {
    if let Some(why) = context.interrupted(record) {
        return super::fail(context, record, why).await;
    }
    let status = record.status();
    let source = record.step("look", context.pods(record).get_opt(record.pod())).await?;
    if let Err(why) = pods::check_source(source.as_ref(), &record.namespace(), record.pod(), status.source_pod_uid.as_deref()) {
        return super::fail(context, record, why).await;
    }
    let Some(source) = source else { return Err(Error::Gone) };
    let Some(name) = status.target_pod else {
        return choose_name(context, record, &source, naming::next_number(&source)).await;
    };
    match context.pods(record).get_opt(&name).await? {
        Some(pod) if !is_ours(record, &pod) && status.target_pod_uid.is_none() => {
            // Somebody was faster with that name.
            let number = name.rsplit_once("-m").and_then(|(_, number)| number.parse::<u32>().ok()).unwrap_or(0);
            choose_name(context, record, &source, number.saturating_add(1)).await
        }
        None if status.target_pod_uid.is_none() => make(context, record, &source, &name).await,
        Some(pod) if status.target_pod_uid.is_none() => {
            let uid = pod.uid();
            record.write(|status| status.target_pod_uid.clone_from(&uid)).await?;
            context.point("controller.preparing.pod-known").await?;
            Ok(Next::Again)
        }
        Some(pod) if pod.uid() == status.target_pod_uid => place(context, record, &pod).await,
        _ => super::fail(context, record, failure::target_gone(&name, "was deleted by somebody else")).await,
    }
}

/// Whether `pod` was made for this migration.
pub(super) fn is_ours(record: &Record, pod: &Pod) -> bool {
    pod.annotations().get(names::ANNOTATION_MIGRATION) == record.object().metadata.uid.as_ref()
}

/// Finds a free name, from number `n` on, and writes it down.
async fn choose_name(context: &Context, record: &mut Record, source: &Pod, mut n: u32) -> Result<Next, Error> {
    let name = loop {
        let name = naming::target_name(source, n);
        if context.pods(record).get_opt(&name).await?.is_none() {
            break name;
        }
        n = n.saturating_add(1);
    };
    record.write(|status| status.target_pod = Some(name.clone())).await?;
    context.point("controller.preparing.named").await?;
    Ok(Next::Again)
}

/// Makes the pod.
async fn make(context: &Context, record: &mut Record, source: &Pod, name: &str) -> Result<Next, Error> {
    let nodes = match nodes(context, record).await? {
        Ok(nodes) => nodes,
        Err(why) => return super::fail(context, record, why).await,
    };
    let adoption = match adoption(context, source).await? {
        Ok(adoption) => adoption,
        Err(why) => return super::fail(context, record, why).await,
    };
    let migration = record.object().name_any();
    let uid = record.object().uid().unwrap_or_default();
    let source_label = record.object().labels().get(lpm::LABEL_SOURCE_POD).map(String::as_str);
    let order = Order {
        name,
        migration: &migration,
        migration_uid: &uid,
        nodes: &nodes,
        adoption: adoption.as_ref(),
        source_label,
        deadline: record.deadline_seconds(),
        import: super::copying::by_import(record),
    };
    let pod = target::pod(source, &order);
    let api = context.pods(record);
    let made = record.step("create-pod", async { api.create(&PostParams::default(), &pod).await }).await;
    context.point("controller.preparing.pod-created").await?;
    let made = match made {
        Ok(made) => made,
        Err(kube::Error::Api(status)) if status.is_already_exists() => return Ok(Next::Again),
        Err(kube::Error::Api(status)) if status.is_forbidden() || status.is_invalid() => {
            return super::fail(context, record, failure::target_refused(&status.message)).await;
        }
        Err(error) => return Err(error.into()),
    };
    let uid = made.uid();
    record.write(|status| status.target_pod_uid.clone_from(&uid)).await?;
    context.point("controller.preparing.pod-known").await?;
    Ok(Next::Again)
}

/// Nodes of which the scheduler may take one.
async fn nodes(context: &Context, record: &Record) -> Result<Result<Vec<String>, Failure>, Error> {
    if let Some(node) = &record.object().spec.target_node {
        return Ok(Ok(vec![node.clone()]));
    }
    let migration = context.migration(record).await?;
    let node = record.status().source_node.unwrap_or_default();
    let asked = context.agents.call(&node, candidates::PATIENCE, |mut agent| {
        let request = InspectRequest { migration: Some(migration.clone()) };
        async move { agent.inspect(request).await }
    });
    match asked.await {
        Ok(inspected) => Ok(candidates::any(context, record, &inspected).await?.map(|list| list.into_iter().map(|one| one.node).collect())),
        Err(error) => Ok(Err(super::explain(&error))),
    }
}

/// What the ReplicaSet of the source will need to take the target over.
async fn adoption(context: &Context, source: &Pod) -> Result<Result<Option<Adoption>, Failure>, Error> {
    let Owner::ReplicaSet(reference) = Owner::of(source) else { return Ok(Ok(None)) };
    let sets: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &source.namespace().unwrap_or_default());
    match sets.get_opt(&reference.name).await? {
        Some(set) if set.uid().as_deref() == Some(reference.uid.as_str()) => Ok(Ok(Some(owner::adoption(source, &set, reference)))),
        _ => Ok(Err(failure::pod_deleted(&source.name_any()))),
    }
}

/// What the scheduler and the kubelet make of it.
enum Placed {
    On(String),
    Not(Failure),
}

/// Waits until the pod has a node.
async fn place(context: &Context, record: &mut Record, pod: &Pod) -> Result<Next, Error> {
    // The node is known beforehand if the user named it: its agent hears of the pod before its kubelet can.
    if record.object().spec.target_node.is_some() {
        record.step("announce", announce(context, record)).await;
    }
    let name = pod.name_any();
    let look = context.watch_pod(record, &name, |seen| match seen {
        None => Some(Placed::Not(failure::target_gone(&name, "was deleted by somebody else"))),
        Some(pod) => match pods::node(pod) {
            Some(node) => Some(Placed::On(node.to_owned())),
            None => pods::unschedulable(pod).or_else(|| pods::hopeless(pod)).map(Placed::Not),
        },
    });
    let placed = match record.step("schedule", context.unless_interrupted(record, look)).await {
        Ok(placed) => placed?,
        Err(why) => Placed::Not(why),
    };
    match placed {
        Placed::Not(why) => super::fail(context, record, why).await,
        Placed::On(node) => {
            record
                .write(|status| {
                    status.target_node = Some(node.clone());
                    status.phase = Phase::Copying;
                    condition(status, "Prepared", true, "Placed", &format!("target pod {name} on node {node}"));
                })
                .await?;
            context.event(record, false, "Prepared", &format!("target pod {name} on node {node}")).await;
            context.point("controller.preparing.placed").await?;
            Ok(Next::Again)
        }
    }
}

/// Tells the target's agent early; `Copying` tells it again and minds the answer.
async fn announce(context: &Context, record: &Record) {
    let Ok(migration) = context.migration(record).await else { return };
    let containers = super::copying::containers(context, record).await.unwrap_or_default();
    // What the source says of an import is waited for in `Copying`.
    let Ok(Ok(imports)) = super::copying::imports(context, record, Duration::from_secs(1)).await else { return };
    let node = migration.target_node.clone();
    let told = context.agents.call(&node, Duration::from_secs(1), |mut agent| {
        let request = PrepareTargetRequest { migration: Some(migration.clone()), containers: containers.clone(), imports: imports.clone() };
        async move { agent.prepare_target(request).await }
    });
    if let Err(error) = told.await {
        tracing::debug!(node, cause = error.cause(), "not announced yet");
    }
}
