//! After the switch: connections live on through the source pod's address, so its sandbox stays until the last of them has ended.
//!
//! ```text
//!   begin   target adopted ─▶ source's labels off ─▶ its processes end, its sandbox and the fence stay ─▶ Succeeded
//!   run     look every 2 s ─▶ none left, too old, released, deleted, drained ─▶ reset what is left ─▶ source deleted ─▶ Retire ─▶ Forget
//! ```
//!
//! Between the first two the owner has one pod too many, and would delete one: the source, which costs least. The policy `godwit-owners` of the chart refuses that, because
//! a sandbox that is deleted keeps no connection. In the other order it has one too few, and makes another.
//!
//! All that decides about the end stands in [`why_retire`].

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};

use godwit_api::migration::Anchor;
use godwit_api::names;
use godwit_rpc::v1::{AnchorReply, AnchorRequest, anchor_request::Action};

use super::settling;
use crate::context::Context;
use crate::error::{AgentError, Error};
use crate::owner::Adoption;
use crate::reconcile::Next;
use crate::record::{Record, condition};
use crate::{plan, pods};

/// How often the connections are counted.
const LOOK: Duration = Duration::from_secs(2);
/// How long a call may wait for an agent that restarts.
const PATIENCE: Duration = Duration::from_secs(5);
/// Seconds for which an anchor may live: one day.
const TTL: u32 = 24 * 3600;

/// The way of keeping connections that does without the old pod's node.
const SAME_ADDRESS: &str = "KeepAddress";

/// What the source's anchor holds; `None` when it holds nothing, or the plan did not want one.
///
/// # Errors
/// When the source's agent does not answer.
pub async fn look(context: &Context, record: &Record) -> Result<Option<Anchor>, Error> {
    if record.status().plan.is_none_or(|plan| plan.network != "Anchor" && plan.network != SAME_ADDRESS) {
        return Ok(None);
    }
    match call(context, record, Action::Look).await {
        // Not knowing is not the same as none.
        Ok(AnchorReply { held: true, failure: Some(why), .. }) => {
            tracing::warn!(reason = why.reason, message = why.message, "the connections cannot be counted yet");
            Err(Error::NotYet("the connections of the old address cannot be counted"))
        }
        Ok(reply) => Ok(reply.held.then(|| anchor(record, &reply))),
        Err(AgentError::NoNode(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn anchor(record: &Record, reply: &AnchorReply) -> Anchor {
    let status = record.status();
    let before = status.anchor.clone().unwrap_or_default();
    Anchor {
        active: true,
        addresses: reply.addresses.clone(),
        holder: status.source_node.unwrap_or_default(),
        node: reply.node.clone(),
        connections: if reply.failure.is_some() { before.connections } else { reply.connections },
        since: before.since.or_else(|| Some(Time(Timestamp::now()))),
        message: reply.failure.as_ref().map(|why| why.message.clone()).unwrap_or_default(),
    }
}

async fn call(context: &Context, record: &Record, action: Action) -> Result<AnchorReply, AgentError> {
    call_on(context, record, record.status().source_node.unwrap_or_default(), action).await
}

/// Connections have moved with their address.
fn has_moved(record: &Record) -> bool {
    record.status().plan.is_some_and(|plan| plan.network == SAME_ADDRESS)
}

/// Where connections have moved with their address, the new pod's node knows of them although the old one's is away.
async fn call_target(context: &Context, record: &Record, action: Action) -> Option<AnchorReply> {
    call_on(context, record, record.status().target_node.unwrap_or_default(), action).await.ok()
}

async fn call_on(context: &Context, record: &Record, node: String, action: Action) -> Result<AnchorReply, AgentError> {
    let Ok(migration) = context.migration(record).await else { return Err(AgentError::NoAddress(node)) };
    context
        .agents
        .call(&node, PATIENCE, |mut agent| {
            let request = AnchorRequest { migration: Some(migration.clone()), action: action.into() };
            async move { agent.anchor(request).await }
        })
        .await
}

/// The source becomes an anchor: nobody's pod, without processes.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn begin(context: &Context, record: &mut Record, target: &Pod, adoption: Option<&Adoption>, anchor: Anchor) -> Result<Next, Error> {
    let (ready, source) = share(context, record, target, adoption).await?;
    context.point("controller.settling.anchored").await?;
    if source.as_ref().is_some_and(|source| !plan::is_never_restarted(source)) {
        call(context, record, Action::Keep).await?;
    }
    context.point("controller.settling.emptied").await?;
    settling::succeed(context, record, ready, Some(anchor)).await
}

/// The target takes the source's place with its owner and its Services; the source stays, as nobody's pod. Whether the target is Ready, and the source if it is there.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn share(context: &Context, record: &mut Record, target: &Pod, adoption: Option<&Adoption>) -> Result<(bool, Option<Pod>), Error> {
    let uid = record.status().source_pod_uid.unwrap_or_default();
    let pods = context.pods(record);
    let source = pods.get_opt(record.pod()).await?.filter(|pod| pod.uid().as_deref() == Some(uid.as_str()));
    let ready = settling::is_ready(context, record, target).await?;
    if adoption.is_some() && !ready {
        record.write(|status| condition(status, "Ready", false, "NotReady", "the ReplicaSet takes the pod over when it is Ready: see its probes")).await?;
        return Err(Error::NotYet("the target pod is not Ready"));
    }
    if let Some(adoption) = adoption {
        if source.is_some() {
            settling::last_to_keep(context, record, &uid, true).await?;
        }
        settling::adopt(context, record, target, adoption).await?;
    }
    context.point("controller.settling.shared").await?;
    if let Some(source) = &source {
        let patch = Patch::Merge(without_labels(source, &record.object().name_any()));
        settling::ignore_gone(pods.patch(record.pod(), &PatchParams::default(), &patch).await.map(drop))?;
    }
    Ok((ready, source))
}

/// Nobody selects the pod any more; what made it is told by one label.
fn without_labels(source: &Pod, migration: &str) -> Value {
    let mut labels: Map<String, Value> = source.labels().keys().map(|key| (key.clone(), Value::Null)).collect();
    labels.insert(names::LABEL_ANCHOR.into(), json!(migration[..migration.len().min(63)].trim_end_matches(['-', '.', '_'])));
    json!({"metadata": {"uid": source.uid(), "labels": labels}})
}

/// While it lives, and its end.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn run(context: &Context, record: &mut Record) -> Result<Next, Error> {
    let Some(before) = record.status().anchor else { return Ok(Next::Again) };
    let uid = record.status().source_pod_uid.unwrap_or_default();
    let source = context.pods(record).get_opt(record.pod()).await?.filter(|pod| pod.uid().as_deref() == Some(uid.as_str()));
    let why = match call(context, record, Action::Look).await {
        Err(error) if has_moved(record) => without_holder(context, record, &before, &error).await?,
        Ok(reply) => with_holder(record, &before, source.as_ref(), Some(&reply)).await?,
        Err(AgentError::NoNode(_)) => with_holder(record, &before, source.as_ref(), None).await?,
        Err(error) => {
            let message = format!("the agent of node {}, which holds the old address, is away: {}", before.holder, error.cause());
            record.write(|status| status.anchor.iter_mut().for_each(|anchor| anchor.message.clone_from(&message))).await?;
            None
        }
    };
    let Some(why) = why else { return Ok(Next::After(LOOK)) };
    tracing::info!(pod = record.pod(), why, "the anchor is retired");
    match call(context, record, Action::End).await {
        Ok(_) | Err(AgentError::NoNode(_)) => {}
        Err(error) => return Err(error.into()),
    }
    context.point("controller.anchored.ended").await?;
    settling::delete(context, record, record.pod(), &uid, None).await?;
    settling::retire(context, record).await?;
    settling::until_gone(context, record, &uid).await?;
    context.point("controller.anchored.gone").await?;
    record
        .write(|status| {
            if let Some(anchor) = &mut status.anchor {
                anchor.active = false;
                anchor.connections = 0;
                anchor.message.clone_from(&why);
            }
        })
        .await?;
    context.event(record, false, "AnchorRetired", &format!("the old pod {} goes: {why}", record.pod())).await;
    Ok(Next::Again)
}

/// Writes down what the holder says, unless the anchor is to go.
async fn with_holder(record: &mut Record, before: &Anchor, source: Option<&Pod>, reply: Option<&AnchorReply>) -> Result<Option<String>, Error> {
    let why = why_retire(record, before, source, reply);
    if let (None, Some(reply)) = (&why, reply) {
        let now = anchor(record, reply);
        record.write(|status| status.anchor = Some(now.clone())).await?;
    }
    Ok(why)
}

/// The old pod's node is away. It only reserved the address: the connections go on without it. Unless it is gone for good, what has to be done there when they have ended is
/// done when it is back.
async fn without_holder(context: &Context, record: &mut Record, before: &Anchor, why_away: &AgentError) -> Result<Option<String>, Error> {
    let reply = call_target(context, record, Action::Look).await.filter(|reply| reply.held);
    let object = record.object();
    let wanted = object.metadata.deletion_timestamp.is_some() || object.spec.release_anchor || is_too_old(record, before);
    let none_left = before.connections == 0 && reply.as_ref().is_some_and(|reply| reply.connections == 0);
    if wanted {
        call_target(context, record, Action::End).await;
    }
    let message = format!("node {}, whose old pod reserves the address, is away; the connections do without it: {}", before.holder, why_away.cause());
    if matches!(why_away, AgentError::NoNode(_)) && (wanted || none_left) {
        return Ok(Some(message));
    }
    let connections = reply.map_or(before.connections, |reply| reply.connections);
    record.write(|status| status.anchor.iter_mut().for_each(|anchor| (anchor.connections, anchor.message) = (connections, message.clone()))).await?;
    Ok(None)
}

fn is_too_old(record: &Record, anchor: &Anchor) -> bool {
    let ttl = Duration::from_secs(u64::from(record.object().spec.anchor_ttl_seconds.unwrap_or(TTL)));
    anchor.since.as_ref().is_some_and(|since| Timestamp::now() > since.0 + ttl)
}

/// Why the anchor is to go, if it is. `source` is none when the old pod is gone, `reply` when its node is.
fn why_retire(record: &Record, before: &Anchor, source: Option<&Pod>, reply: Option<&AnchorReply>) -> Option<String> {
    let object = record.object();
    let Some(reply) = reply else { return Some(format!("node {}, which held the old address, is gone", before.holder)) };
    let text = if object.metadata.deletion_timestamp.is_some() {
        "its PodMigration was deleted"
    } else if source.is_none() {
        "it was deleted"
    } else if source.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some()) {
        "it was deleted or evicted"
    } else if source.is_some_and(|pod| matches!(pods::phase(pod), "Failed" | "Succeeded")) {
        "its sandbox has ended"
    } else if object.spec.release_anchor {
        "it was released"
    } else if is_too_old(record, before) {
        "its time is over"
    } else if !reply.held {
        "the new pod is gone, or has left its connections behind"
    } else if !reply.busy && reply.failure.is_none() && reply.connections == 0 && before.connections == 0 {
        // Seen twice.
        "the last old connection has ended"
    } else {
        return None;
    };
    Some(text.to_owned())
}
