//! After a switch with post-copy: the pod runs at the target, and part of its memory still comes from the source, which is sealed and must not be retired before.
//!
//! ```text
//!   Agent.Fill on the target, until nothing is still to come ─▶ condition MemoryComplete
//!                             the source is lost before ─▶ the pod is, too: PodLost
//! ```

use std::time::Duration;

use godwit_api::migration::{Failure, Progress};
use godwit_migration::catalogue;
use godwit_rpc::v1::{FillReply, FillRequest};

use super::api_failure;
use crate::context::Context;
use crate::error::{AgentError, Error};
use crate::failure;
use crate::plan::memory::POST_COPY;
use crate::record::{Record, condition};

/// How long one question waits for the end, in milliseconds.
const WAIT: u32 = 1000;
/// How long a call may wait for an agent that restarts.
const PATIENCE: Duration = Duration::from_secs(5);
/// The condition that says how it ended.
const CONDITION: &str = "MemoryComplete";

/// Whether memory may travel after the switch.
#[must_use]
pub fn is_wanted(record: &Record) -> bool {
    record.status().plan.is_some_and(|plan| plan.memory == POST_COPY) || super::switching::late_if_stuck(record)
}

/// Waits until all memory is at the target, for a migration [`is_wanted`] says so of. Returns why the pod is lost, if it is.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn run(context: &Context, record: &mut Record) -> Result<Option<Failure>, Error> {
    if let Some(known) = record.status().conditions.iter().find(|one| one.type_ == CONDITION && one.reason != "StillToCome") {
        return Ok((known.status != "True").then(|| {
            let remedy = catalogue::of(&known.reason).map(|entry| entry.remedy).unwrap_or_default();
            failure::new(&known.reason, known.message.clone(), remedy)
        }));
    }
    let migration = record.step("addresses", context.migration(record)).await?;
    let node = migration.target_node.clone();
    let began = crate::record::Stopwatch::start(record.phase(), "fill");
    loop {
        let call = context.agents.call(&node, PATIENCE, |mut agent| {
            let request = FillRequest { migration: Some(migration.clone()), wait_ms: WAIT };
            async move { agent.fill(request).await }
        });
        let reply = match call.await {
            Ok(reply) => reply,
            // The pod has gone with its node.
            Err(AgentError::NoNode(_)) => return Ok(None),
            // An agent of a version that does not know of it: the source has sent everything in the freeze.
            Err(AgentError::Call { source, .. }) if source.code() == tonic::Code::Unimplemented => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if reply.done {
            record.note(began.stop());
            return done(context, record, reply).await;
        }
        let message = format!("{} of {} MiB of memory still come from the old pod, which the new one needs until then", reply.left >> 20, reply.total >> 20);
        record
            .write(|status| {
                let before = status.progress.clone().unwrap_or_default();
                status.progress = Some(Progress { remaining: Some(reply.left), forecast_ms: None, ..before });
                condition(status, CONDITION, false, "StillToCome", &message);
            })
            .await?;
        context.point("controller.settling.filling").await?;
    }
}

async fn done(context: &Context, record: &mut Record, reply: FillReply) -> Result<Option<Failure>, Error> {
    let lost = reply.failure.map(api_failure);
    let message = format!("{} MiB came after the switch", reply.total >> 20);
    record
        .write(|status| {
            let before = status.progress.clone().unwrap_or_default();
            status.progress = Some(Progress { remaining: Some(reply.left), ..before });
            match &lost {
                // Not as the record's failure yet: that would have the migration taken back, and it is not to be.
                Some(why) => condition(status, CONDITION, false, &why.reason, &why.message),
                None => condition(status, CONDITION, true, "AllIsHere", &message),
            }
        })
        .await?;
    if let Some(why) = &lost {
        context.event(record, true, &why.reason, &why.message).await;
    }
    Ok(lost)
}
