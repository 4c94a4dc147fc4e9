//! Target nodes that are asked whether they could take the pod.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use godwit_api::migration::Failure;
use godwit_api::names;
use godwit_rpc::v1::{AssessReply, AssessRequest, InspectReply};

use crate::context::Context;
use crate::error::Error;
use crate::record::Record;
use crate::{failure, nodes, phase};

/// How long an agent that restarts is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A node and what its agent says.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The node's name.
    pub node: String,
    /// Its agent's answer.
    pub reply: AssessReply,
}

/// The node that the user named. The inner result says why it is out of the question.
///
/// # Errors
/// When the API server does not answer.
pub async fn named(context: &Context, record: &Record, inspected: &InspectReply, node: &str) -> Result<Result<Candidate, Failure>, Error> {
    let Some(found) = context.nodes().get_opt(node).await? else {
        return Ok(Err(failure::node_not_found(node)));
    };
    if let Err(why) = nodes::check(&found, record.pod(), record.status().source_node.as_deref().unwrap_or_default()) {
        return Ok(Err(why));
    }
    assess(context, record, inspected, node, true).await
}

/// All nodes that could take the pod, if the user named none.
///
/// # Errors
/// When the API server does not answer.
pub async fn any(context: &Context, record: &Record, inspected: &InspectReply) -> Result<Result<Vec<Candidate>, Failure>, Error> {
    let source = record.status().source_node.unwrap_or_default();
    let all = context.nodes().list(&ListParams::default()).await?.items;
    let possible = all.iter().filter(|node| nodes::check(node, record.pod(), &source).is_ok()).map(ResourceExt::name_any);
    let asked = join_all(possible.map(|node| async move { assess(context, record, inspected, &node, false).await })).await;
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for answer in asked {
        match answer? {
            Ok(candidate) => match candidate.reply.blockers.first() {
                None => good.push(candidate),
                Some(blocker) => bad.push(format!("{}: {}", candidate.node, blocker.message)),
            },
            Err(why) => bad.push(why.message),
        }
    }
    if good.is_empty() {
        let why = if bad.is_empty() { "no other node is Ready and has an agent".to_owned() } else { bad.join("; ") };
        return Ok(Err(failure::no_target(record.pod(), &why)));
    }
    Ok(Ok(good))
}

/// `reach`: the way between the nodes is tried, too. Not with all nodes of a cluster at once.
async fn assess(context: &Context, record: &Record, inspected: &InspectReply, node: &str, reach: bool) -> Result<Result<Candidate, Failure>, Error> {
    let mut migration = context.migration(record).await?;
    node.clone_into(&mut migration.target_node);
    migration.target_address = match context.agents.address(node).await {
        Ok(address) => address,
        Err(error) => return Ok(Err(phase::explain(&error))),
    };
    let bytes = inspected.resident_bytes.saturating_add(inspected.files_bytes);
    let reach = reach && inspected.no_anchor.is_empty();
    let request = AssessRequest { migration: Some(migration), source: inspected.node.clone(), bytes, reach };
    let answer = context
        .agents
        .call(node, PATIENCE, |mut agent| {
            let request = request.clone();
            async move { agent.assess(request).await }
        })
        .await;
    match answer {
        Ok(reply) => Ok(Ok(Candidate { node: node.to_owned(), reply })),
        // The label that an agent gave its node stays when the agent goes.
        Err(error) if error.passes() && !agent_stands(context, node).await? => Ok(Err(failure::no_agent(node))),
        Err(error) => Ok(Err(phase::explain(&error))),
    }
}

/// Whether there is an agent's pod on a node, ready or not.
async fn agent_stands(context: &Context, node: &str) -> Result<bool, Error> {
    let there = ListParams::default().labels(&format!("app.kubernetes.io/name={}", names::AGENT)).fields(&format!("spec.nodeName={node}"));
    let pods: Api<Pod> = Api::all(context.client.clone());
    Ok(!pods.list_metadata(&there).await?.items.is_empty())
}
