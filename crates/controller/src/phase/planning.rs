//! `Planning`: both agents look; nothing is touched. A dry run ends here.

use kube::ResourceExt;

use godwit_api::migration::{Failure, Phase};
use godwit_rpc::v1::InspectRequest;

use crate::candidates::{self, PATIENCE};
use crate::context::Context;
use crate::error::Error;
use crate::reconcile::Next;
use crate::record::{Record, condition, end};
use crate::{plan, pods};

/// See the module.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn run(context: &Context, record: &mut Record) -> Result<Next, Error> {
    if let Some(why) = context.interrupted(record) {
        return super::fail(context, record, why).await;
    }
    let planned = context.unless_interrupted(record, look(context, record)).await;
    let plan = match planned {
        Ok(Ok(Ok(plan))) => plan,
        Ok(Ok(Err(why))) | Err(why) => return super::fail(context, record, why).await,
        Ok(Err(error)) => return Err(error),
    };
    context.point("controller.planning.decided").await?;
    let blocked = plan.blockers.first().cloned();
    let dry = record.object().spec.dry_run;
    let note = format!("{} · {} · {}", plan.engine, plan.memory, plan.network);
    let others = plan.blockers.len().saturating_sub(1);
    record
        .write(|status| {
            status.plan = Some(plan.clone());
            match &blocked {
                Some(why) => {
                    condition(status, "Planned", false, &why.reason, &why.message);
                    status.failure = Some(Failure { message: with_others(&why.message, others), ..why.clone() });
                }
                None => {
                    condition(status, "Planned", true, "Planned", &note);
                    if dry {
                        end(status, Phase::Succeeded, None);
                    } else {
                        status.phase = Phase::Preparing;
                    }
                }
            }
        })
        .await?;
    if blocked.is_none() {
        context.event(record, false, "Planned", &note).await;
    }
    context.point("controller.planning.written").await?;
    Ok(Next::Again)
}

/// Asks everybody. The inner result says why there can be no plan at all.
async fn look(context: &Context, record: &Record) -> Result<Result<godwit_api::migration::PlanSummary, Failure>, Error> {
    let status = record.status();
    let pod = record.step("look", context.pods(record).get_opt(record.pod())).await?;
    if let Err(why) = pods::check_source(pod.as_ref(), &record.namespace(), record.pod(), status.source_pod_uid.as_deref()) {
        return Ok(Err(why));
    }
    let Some(pod) = pod else { return Err(Error::Gone) };
    // What is plain from the objects is said before anybody is asked.
    if let Some(node) = &record.object().spec.target_node
        && let Err(why) = plan::node_in_question(context, record, node).await?
    {
        return Ok(Err(why));
    }
    let migration = context.migration(record).await?;
    let node = status.source_node.unwrap_or_default();
    let asked = context.agents.call(&node, PATIENCE, |mut agent| {
        let request = InspectRequest { migration: Some(migration.clone()) };
        async move { agent.inspect(request).await }
    });
    let inspected = match record.step("inspect", asked).await {
        Ok(reply) => reply,
        Err(error) => return Ok(Err(super::explain(&error))),
    };
    context.point("controller.planning.inspected").await?;
    let candidates = match &record.object().spec.target_node {
        Some(node) => record.step("assess", candidates::named(context, record, &inspected, node)).await?.map(|one| vec![one]),
        None => record.step("assess", candidates::any(context, record, &inspected)).await?,
    };
    let facts = record.step("facts", plan::facts(context, &pod)).await?;
    tracing::debug!(pod = pod.name_any(), ?candidates, "asked everybody");
    let spec = &record.object().spec;
    let wishes = (spec.engine.unwrap_or_default(), spec.network, plan::memory::Wish::of(spec, context.post_copy));
    Ok(candidates.map(|candidates| plan::decide(&facts, wishes, &inspected, &candidates)))
}

fn with_others(message: &str, others: usize) -> String {
    if others == 0 { message.to_owned() } else { format!("{message} (and {others} more, see status.plan.blockers)") }
}
