//! Target nodes that are asked whether they could take the pod.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use godwit_api::migration::{Failure, Network};
use godwit_api::names;
use godwit_migration::plan::{Needs, compare};
use godwit_rpc::v1::{self, AssessReply, AssessRequest, InspectReply};

use crate::context::Context;
use crate::error::Error;
use crate::plan::{engine, memory};
use crate::record::Record;
use crate::{checks, failure, nodes, phase};

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
            Ok(candidate) => match (candidate.reply.blockers.first(), unable(record, &candidate)) {
                (None, "") => good.push(candidate),
                (Some(blocker), _) => bad.push(format!("{}: {}", candidate.node, blocker.message)),
                (None, why) => bad.push(format!("{}: {why}", candidate.node)),
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

/// Why a node cannot take the pod by the engine that was planned; before there is a plan any will do.
fn unable<'a>(record: &Record, candidate: &'a Candidate) -> &'a str {
    record.status().plan.map_or("", |plan| engine::unable(&plan.engine, candidate))
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
    let spec = &record.object().spec;
    let filled = memory::filled(memory::Wish::of(spec, context.post_copy), inspected);
    let same_address = spec.network == Network::KeepAddress;
    let reach = reach && (inspected.no_anchor.is_empty() || same_address);
    let source = migration.source_node.clone();
    let crun = inspected.containers.iter().any(|container| container.runtime == "crun");
    let request = AssessRequest { migration: Some(migration), bytes, reach, same_address, crun, filled };
    let answer = context
        .agents
        .call(node, PATIENCE, |mut agent| {
            let request = request.clone();
            async move { agent.assess(request).await }
        })
        .await;
    match answer {
        Ok(reply) => Ok(Ok(Candidate { node: node.to_owned(), reply: compared(reply, (&source, inspected), node) })),
        // The label that an agent gave its node stays when the agent goes.
        Err(error) if error.passes() && !agent_stands(context, node).await? => Ok(Err(failure::no_agent(node))),
        Err(error) => Ok(Err(phase::explain(&error))),
    }
}

/// What differs between the two nodes is in the way, or worth knowing, as what the target's agent has found.
fn compared(mut reply: AssessReply, (source, inspected): (&str, &InspectReply), target: &str) -> AssessReply {
    if let (Some(here), Some(there)) = (&inspected.node, &reply.node) {
        let found = compare(&checks::comparable(source, here), &checks::comparable(target, there), Needs { guards: inspected.guards });
        reply.blockers.extend(found.blockers.into_iter().map(|why| v1::Failure { reason: why.reason, message: why.message, remedy: why.remedy, log: why.log }));
        reply.warnings.extend(found.warnings);
    }
    reply
}

/// Whether there is an agent's pod on a node, ready or not.
async fn agent_stands(context: &Context, node: &str) -> Result<bool, Error> {
    let there = ListParams::default().labels(&format!("app.kubernetes.io/name={}", names::AGENT)).fields(&format!("spec.nodeName={node}"));
    let pods: Api<Pod> = Api::all(context.client.clone());
    Ok(!pods.list_metadata(&there).await?.items.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn nodes_that_are_too_different_are_in_the_way() {
        let facts = |kernel: &str, cgroup: &str, flags: &[&str]| {
            let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
            Some(v1::NodeFacts {
                architecture: "x86_64".into(),
                criu: "4.2".into(),
                kernel: kernel.into(),
                cgroup: cgroup.into(),
                cpu_flags: flags,
                ..Default::default()
            })
        };
        let inspected = InspectReply { node: facts("6.18.1", "v1", &["avx", "amx_tile"]), guards: true, ..InspectReply::default() };
        let own = v1::Failure { reason: "NotEnoughMemory".into(), ..v1::Failure::default() };
        let reply = AssessReply { node: facts("6.12.9", "v2", &["avx"]), blockers: vec![own], ..AssessReply::default() };
        let found = compared(reply, ("a", &inspected), "b");
        let reasons: Vec<&str> = found.blockers.iter().map(|why| why.reason.as_str()).collect();
        assert_eq!(reasons, ["NotEnoughMemory", "CpuFeaturesMissing", "CgroupVersionDiffers", "GuardRegions"]);
        assert_eq!(found.warnings, ["the kernel changes from 6.18.1 to 6.12.9"]);
        let alike = AssessReply { node: inspected.node.clone(), ..AssessReply::default() };
        assert_eq!(compared(alike.clone(), ("a", &inspected), "b"), alike);
    }
}
