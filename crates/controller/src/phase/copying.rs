//! `Copying`: the target's agent expects the pod, its keepers come up. What can travel while the pod runs travels here.

use std::time::Duration;

use godwit_api::migration::{Failure, Phase};
use godwit_rpc::v1::{AwaitKeepersRequest, Imported, InspectRequest, PrepareTargetRequest};

use crate::context::Context;
use crate::error::Error;
use crate::plan::engine;
use crate::pods::Images;
use crate::reconcile::Next;
use crate::record::{Record, Stopwatch};
use crate::{failure, pods, target};

/// How long one call waits for keepers.
const WAIT: Duration = Duration::from_secs(1);

/// See the module.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn run(context: &Context, record: &mut Record) -> Result<Next, Error> {
    if let Some(why) = context.interrupted(record) {
        return super::fail(context, record, why).await;
    }
    let watch = Stopwatch::start(Phase::Copying, "keepers");
    let ready = context.unless_interrupted(record, ready(context, record)).await;
    match ready {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(why))) => return super::fail(context, record, why).await,
        Ok(Err(error)) => return Err(error),
        Err(mut why) => {
            // When time runs out, say what was waited for.
            if let Some(waiting) = context.pods(record).get_opt(&target_name(record)).await?.as_ref().and_then(pods::waiting) {
                why.message = format!("{}; {waiting}", why.message);
            }
            return super::fail(context, record, why).await;
        }
    }
    record.note(watch.stop());
    context.point("controller.copying.ready").await?;
    // From this write on only the source's agent knows how it ends.
    record.write(|status| status.phase = Phase::Switching).await?;
    context.event(record, false, "Switching", &format!("pod {} stands still from here to its new node", record.pod())).await;
    context.point("controller.copying.written").await?;
    Ok(Next::Again)
}

/// Names of the containers that keepers stand in for. Init containers are done; whatever is not named ends at once.
pub(super) async fn containers(context: &Context, record: &Record) -> Result<Vec<String>, Error> {
    let pod = context.pods(record).get_opt(record.pod()).await?;
    let containers = pod.and_then(|pod| pod.spec).map(|spec| spec.containers).unwrap_or_default();
    Ok(containers.into_iter().map(|container| container.name).collect())
}

/// Whether the container runtime itself makes the target's containers.
pub(super) fn by_import(record: &Record) -> bool {
    record.status().plan.is_some_and(|plan| plan.engine == engine::CHECKPOINT)
}

/// What the target's agent has to know of containers that the runtime itself makes there; nothing for those of Godwit's handler. The inner result says why it cannot be known.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn imports(context: &Context, record: &Record, patience: Duration) -> Result<Result<Vec<Imported>, Failure>, Error> {
    if !by_import(record) {
        return Ok(Ok(Vec::new()));
    }
    let Some(mut source) = context.pods(record).get_opt(record.pod()).await? else { return Ok(Err(failure::pod_deleted(record.pod()))) };
    let mut spec = source.spec.take().unwrap_or_default();
    target::import::own(&mut spec, &source);
    let migration = context.migration(record).await?;
    let node = migration.source_node.clone();
    let asked = context.agents.call(&node, patience, |mut agent| {
        let request = InspectRequest { migration: Some(migration.clone()) };
        async move { agent.inspect(request).await }
    });
    let inspected = match asked.await {
        Ok(reply) => reply,
        Err(error) => return Ok(Err(super::explain(&error))),
    };
    let archived = |name: &str| inspected.containers.iter().find(|container| container.name == name).map(|container| container.archived.clone());
    let imported = spec.containers.into_iter().map(|container| {
        let archived = archived(&container.name).unwrap_or_default();
        Imported { name: container.name, image: container.image.unwrap_or_default(), archived }
    });
    Ok(Ok(imported.collect()))
}

/// Until every container has its keeper. The inner result says why that will not happen.
async fn ready(context: &Context, record: &Record) -> Result<Result<(), Failure>, Error> {
    let migration = context.migration(record).await?;
    let node = migration.target_node.clone();
    let containers = containers(context, record).await?;
    // The agent may restart; the deadline bounds all of this.
    let forever = Duration::from_secs(u64::from(record.deadline_seconds()));
    let imports = match imports(context, record, forever).await? {
        Ok(imports) => imports,
        Err(why) => return Ok(Err(why)),
    };
    let told = context.agents.call(&node, forever, |mut agent| {
        let request = PrepareTargetRequest { migration: Some(migration.clone()), containers: containers.clone(), imports: imports.clone() };
        async move { agent.prepare_target(request).await }
    });
    if let Err(error) = record.step("announce", told).await {
        return Ok(Err(super::explain(&error)));
    }
    context.point("controller.copying.announced").await?;
    loop {
        if let Err(why) = record.step("look", both_alive(context, record)).await? {
            return Ok(Err(why));
        }
        let asked = context.agents.call(&node, forever, |mut agent| {
            let request = AwaitKeepersRequest { migration: Some(migration.clone()), wait_ms: u32::try_from(WAIT.as_millis()).unwrap_or(1000) };
            async move { agent.await_keepers(request).await }
        });
        let reply = match record.step("await-keepers", asked).await {
            Ok(reply) => reply,
            Err(error) => return Ok(Err(super::explain(&error))),
        };
        reply.steps.into_iter().for_each(|step| record.note_agent(Phase::Copying, step));
        if let Some(why) = reply.failure {
            return Ok(Err(super::api_failure(why)));
        }
        if reply.missing.is_empty() && containers.iter().all(|name| reply.waiting.contains(name)) {
            break;
        }
    }
    if by_import(record) {
        // The kubelet tells of no image before the container runs; the target's agent has compared them.
        return Ok(Ok(()));
    }
    record.step("same-images", same_images(context, record)).await
}

/// Looks after both pods once.
async fn both_alive(context: &Context, record: &Record) -> Result<Result<(), Failure>, Error> {
    let (pods, status) = (context.pods(record), record.status());
    let source = pods.get_opt(record.pod()).await?;
    if let Err(why) = pods::check_source(source.as_ref(), &record.namespace(), record.pod(), status.source_pod_uid.as_deref()) {
        return Ok(Err(why));
    }
    let name = target_name(record);
    match pods.get_opt(&name).await? {
        Some(pod) if pod.metadata.uid == status.target_pod_uid => Ok(pods::hopeless(&pod).map_or(Ok(()), Err)),
        _ => Ok(Err(failure::target_gone(&name, "was deleted by somebody else"))),
    }
}

/// A tag may have moved: the files below the container must be the ones that its processes have open.
async fn same_images(context: &Context, record: &Record) -> Result<Result<(), Failure>, Error> {
    let Some(source) = context.pods(record).get_opt(record.pod()).await? else {
        return Ok(Err(failure::pod_deleted(record.pod())));
    };
    let name = target_name(record);
    context
        .watch_pod(record, &name, |seen| match seen {
            None => Some(Err(failure::target_gone(&name, "was deleted by somebody else"))),
            Some(pod) => match pods::images(&source, pod) {
                Images::Same => Some(Ok(())),
                Images::Differ(why) => Some(Err(why)),
                Images::Unknown => pods::hopeless(pod).map(Err),
            },
        })
        .await
}

fn target_name(record: &Record) -> String {
    record.status().target_pod.unwrap_or_default()
}
