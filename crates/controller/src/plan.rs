//! From what the cluster and the agents know to the plan. What blocks is decided here from values only; the few reads that it needs stand apart.

pub mod engine;
pub mod memory;
mod spec;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Api, ResourceExt};

use godwit_api::migration::{Engine, Failure, Network, PlanSummary};
use godwit_migration::plan::network::{self, Driver, Situation, Wish};
use godwit_rpc::v1::InspectReply;

use crate::candidates::Candidate;
use crate::context::Context;
use crate::error::Error;
use crate::phase::api_failure;
use crate::record::Record;
use crate::{failure, nodes};

pub use spec::{Claim, Facts, is_never_restarted};

/// Looks at the node that the user named, before anybody is asked. The inner result says what is in the way.
///
/// # Errors
/// When the API server does not answer.
pub async fn node_in_question(context: &Context, record: &Record, node: &str) -> Result<Result<(), Failure>, Error> {
    let Some(found) = context.nodes().get_opt(node).await? else {
        return Ok(Err(failure::node_not_found(node)));
    };
    Ok(nodes::check(&found, record.pod(), record.status().source_node.as_deref().unwrap_or_default()))
}

/// What the pod's own object says about whether it can move.
///
/// # Errors
/// When the API server does not answer.
pub async fn facts(context: &Context, pod: &Pod) -> Result<Facts, Error> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    let mut found = Vec::new();
    for name in spec::claims(pod) {
        let modes = claims.get_opt(&name).await?.and_then(|claim| claim.status).and_then(|status| status.access_modes).unwrap_or_default();
        found.push(Claim { name, modes });
    }
    Ok(spec::facts(pod, &found))
}

/// The plan for one of `candidates` (several: the scheduler will choose, each of them has no blockers).
#[must_use]
pub fn decide(facts: &Facts, (engine, wish, memory): (Engine, Network, memory::Wish), inspected: &InspectReply, candidates: &[Candidate]) -> PlanSummary {
    let mut blockers = facts.blockers.clone();
    blockers.extend(inspected.blockers.iter().cloned().map(api_failure));
    let mut warnings = facts.warnings.clone();
    warnings.extend(inspected.warnings.iter().cloned());
    if let [only] = candidates {
        blockers.extend(only.reply.blockers.iter().cloned().map(api_failure));
        warnings.extend(only.reply.warnings.iter().cloned());
    }
    let situation = Situation {
        connections: inspected.connections,
        peers: inspected.peers.clone(),
        no_same_address: no_same_address(wish, candidates),
        no_anchor: no_anchor(inspected, candidates),
        encrypted: inspected.encrypts && candidates.iter().all(|candidate| candidate.reply.encrypts),
        never_restarted: facts.never_restarted,
    };
    let network = match network::choose(wish_of(wish), &situation) {
        Ok(choice) => {
            warnings.extend(choice.warnings);
            choice.driver.to_string()
        }
        Err(why) => {
            blockers.push(Failure { reason: why.reason, message: why.message, remedy: why.remedy, log: why.log });
            String::new()
        }
    };
    let engine = engine::choose(engine, || engine::importable(inspected), candidates).unwrap_or_else(|why| {
        blockers.push(why);
        ""
    });
    let (memory, tracking) = match memory::choose(memory::Wish { frozen: engine == engine::CHECKPOINT, ..memory }, inspected) {
        Ok(choice) => {
            warnings.extend(choice.warnings);
            (choice.strategy.into(), choice.tracking.into())
        }
        Err(why) => {
            blockers.push(why);
            (String::new(), String::new())
        }
    };
    PlanSummary {
        engine: engine.into(),
        memory,
        tracking,
        network,
        containers: u32::try_from(inspected.containers.len()).unwrap_or(u32::MAX),
        processes: inspected.processes,
        fds: inspected.fds,
        connections: inspected.connections,
        bytes: inspected.resident_bytes,
        warnings,
        blockers,
    }
}

fn wish_of(wish: Network) -> Wish {
    match wish {
        Network::Auto => Wish::Auto,
        Network::KeepAddress => Wish::Only(Driver::KeepAddress),
        Network::Anchor => Wish::Only(Driver::Anchor),
        Network::Close => Wish::Only(Driver::Close),
    }
}

/// It is found out for those only who ask for it: `Auto` is content with an anchor, which any network can carry.
fn no_same_address(wish: Network, candidates: &[Candidate]) -> String {
    if wish != Network::KeepAddress {
        return "nobody asked for it".into();
    }
    let unable = candidates.iter().find(|candidate| !candidate.reply.no_same_address.is_empty());
    unable.map(|candidate| format!("node {}: {}", candidate.node, candidate.reply.no_same_address)).unwrap_or_default()
}

fn no_anchor(inspected: &InspectReply, candidates: &[Candidate]) -> String {
    if !inspected.no_anchor.is_empty() {
        return format!("the pod's node cannot hold an anchor: {}", inspected.no_anchor);
    }
    let unable = candidates.iter().find(|candidate| !candidate.reply.no_anchor.is_empty());
    unable.map(|candidate| format!("node {} cannot have an anchor: {}", candidate.node, candidate.reply.no_anchor)).unwrap_or_default()
}
