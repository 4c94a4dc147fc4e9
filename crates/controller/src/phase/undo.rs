//! The way back. `status.failure` says why; the phase says how far it had come.
//!
//! From `Switching` this is reached only when the source's agent has said that the pod was taken back; before, nothing has begun. Either way the source
//! runs, and what goes is the target pod with its keepers. Or the source is gone with its node, and the target has promised never to run the pod.

use std::time::Duration;

use kube::ResourceExt;

use godwit_api::migration::{Failure, Phase};
use godwit_rpc::v1::UndoRequest;

use super::{preparing, settling};
use crate::context::Context;
use crate::error::Error;
use crate::failure;
use crate::reconcile::Next;
use crate::record::{Record, end};

/// How long the target's agent may be away.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the target pod may take to go.
const GONE: Duration = Duration::from_secs(20);
/// Seconds for the keepers to leave.
const GRACE: u32 = 2;

/// See the module.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn run(context: &Context, record: &mut Record) -> Result<Next, Error> {
    let status = record.status();
    if status.target_pod_uid.is_some() && status.target_node.is_some() {
        tell(context, record).await?;
        context.point("controller.undo.told").await?;
    }
    if let Some(name) = &status.target_pod {
        remove(context, record, name).await?;
        context.point("controller.undo.pod-deleted").await?;
    }
    let began = status.phase >= Phase::Preparing && status.target_pod_uid.is_some();
    let forgotten = !began || settling::forget(context, record).await;
    let Some(why) = status.failure else { return Ok(Next::Again) };
    let last = ending(status.phase, &why);
    record.write(|status| end(status, last, Some(&why))).await?;
    let what = if last == Phase::RolledBack { "TakenBack" } else { "MigrationFailed" };
    let note = format!("{}: {}. {}", why.reason, why.message, why.remedy);
    context.event(record, true, what, &note).await;
    context.point("controller.undo.ended").await?;
    // Not before the end is written: a record that is being deleted goes with its finalizer. If they have not forgotten yet, `finished` asks them again.
    if forgotten {
        record.hold(false).await?;
    }
    Ok(Next::Again)
}

/// As what it ends, by how far it had come. A source that is gone with its node was not taken back.
fn ending(phase: Phase, why: &Failure) -> Phase {
    if phase == Phase::Switching && why.reason != failure::SOURCE_NODE_GONE { Phase::RolledBack } else { Phase::Failed }
}

/// Tells the target's agent that nothing comes any more. If it is away, it is told again before it is to forget: after a restart it knows only that it was prepared.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn tell(context: &Context, record: &mut Record) -> Result<(), Error> {
    let migration = context.migration(record).await?;
    let node = migration.target_node.clone();
    let told = context.agents.call(&node, PATIENCE, |mut agent| {
        let request = UndoRequest { migration: Some(migration.clone()) };
        async move { agent.undo(request).await }
    });
    if let Err(error) = record.step("undo", told).await {
        tracing::warn!(node, cause = error.cause(), "the target's agent was not told");
    }
    Ok(())
}

/// Deletes the target pod, which may have been made without our having noted its UID, and waits a while until it is gone.
async fn remove(context: &Context, record: &mut Record, name: &str) -> Result<(), Error> {
    let Some(pod) = context.pods(record).get_opt(name).await?.filter(|pod| preparing::is_ours(record, pod)) else {
        return Ok(());
    };
    let uid = pod.uid().unwrap_or_default();
    settling::delete(context, record, name, &uid, Some(GRACE)).await?;
    let gone = context.watch_pod(record, name, |seen| seen.is_none_or(|pod| pod.uid().as_deref() != Some(uid.as_str())).then_some(()));
    match record.step("target-gone", tokio::time::timeout(GONE, gone)).await {
        Ok(result) => result,
        // Its node is away. Nothing there may ever run: the Handover says so.
        Err(_) => {
            tracing::warn!(pod = name, "the target pod is still terminating");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_source_that_is_there_is_taken_back() {
        let (cancelled, gone) = (failure::cancelled(), failure::source_node_gone("web-0", "node-a"));
        assert_eq!(ending(Phase::Switching, &cancelled), Phase::RolledBack);
        assert_eq!(ending(Phase::Copying, &cancelled), Phase::Failed);
        assert_eq!(ending(Phase::Switching, &gone), Phase::Failed);
    }
}
