//! From what the cluster and the agents know to the plan. What blocks is decided here from values only; the few reads that it needs stand apart.

mod spec;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Api, ResourceExt};

use godwit_api::migration::{Failure, PlanSummary};
use godwit_rpc::v1::InspectReply;

use crate::candidates::Candidate;
use crate::context::Context;
use crate::error::Error;
use crate::phase::api_failure;
use crate::record::Record;
use crate::{failure, nodes};

pub use spec::{Claim, Facts};

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
pub fn decide(facts: &Facts, inspected: &InspectReply, candidates: &[Candidate]) -> PlanSummary {
    let mut blockers = facts.blockers.clone();
    blockers.extend(inspected.blockers.iter().cloned().map(api_failure));
    let mut warnings = facts.warnings.clone();
    warnings.extend(inspected.warnings.iter().cloned());
    if let [only] = candidates {
        blockers.extend(only.reply.blockers.iter().cloned().map(api_failure));
        warnings.extend(only.reply.warnings.iter().cloned());
    }
    if inspected.connections > 0 {
        warnings.push(format!("{} TCP connections to outside the pod end at the switch; clients must reconnect", inspected.connections));
    }
    PlanSummary {
        engine: "Live".into(),
        memory: "StopAndCopy".into(),
        network: "Close".into(),
        containers: u32::try_from(inspected.containers.len()).unwrap_or(u32::MAX),
        processes: inspected.processes,
        fds: inspected.fds,
        connections: inspected.connections,
        bytes: inspected.resident_bytes,
        warnings,
        blockers,
    }
}
