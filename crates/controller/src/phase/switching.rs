//! `Switching`: the source's agent leads; this listens until it says how it ended.
//!
//! ```text
//!   controller ── Switch ──▶ source agent      the stream breaks, the leader changes, the agent restarts: Switch again, it attaches
//!              ◀── steps, bytes, outcome ──
//!              ── Cancel ──▶                    a wish; the outcome still comes through Switch
//!              ── GET Handover ──▶ API server   only while the agent is away: Running and Aborted are final and tell the same
//!              ── Undo ──▶ target agent         only when the source's node does not exist any more
//! ```

use std::time::Duration;

use jiff::Timestamp;
use kube::Api;
use tokio::time::Instant;

use godwit_api::migration::{Compression, Failure, Freeze, NotConverging, Phase, Progress, Tracking};
use godwit_api::{Handover, HandoverState};
use godwit_rpc::v1::{self, AwaitKeepersRequest, CancelRequest, SwitchRequest, outcome, switch_event};

use super::{settling, undo};
use crate::context::Context;
use crate::error::{AgentError, Error};
use crate::plan::memory::{POST_COPY, PRE_COPY};
use crate::reconcile::Next;
use crate::record::{Record, condition};
use crate::{failure, pods};

/// How often news are written while the stream flows.
const WRITE: Duration = Duration::from_millis(250);
/// How often the source pod is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// For how long the source's agent may be away before the Handover is asked.
const AWAY: Duration = Duration::from_secs(5);
/// Pause before attaching again.
const PAUSE: Duration = Duration::from_millis(300);
/// A deadline that has passed: an agent that has not begun does not begin.
const PASSED: i64 = 1;

/// How the switch ended.
enum Ended {
    Running(Freeze),
    TakenBack(Failure, Freeze),
}

/// See the module.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn run(context: &Context, record: &mut Record) -> Result<Next, Error> {
    let mut wish = Wish::default();
    measure_clocks(context, record).await?;
    let mut away_since = None::<Instant>;
    let ended = loop {
        match attach(context, record, &mut wish).await {
            Ok(Some(ended)) => break ended,
            Ok(None) => away_since = None,
            Err(Error::Agent(error)) => {
                let since = *away_since.get_or_insert_with(Instant::now);
                tracing::warn!(cause = error.cause(), "the source's agent is away");
                if since.elapsed() > AWAY {
                    let message = format!("waiting for the source's agent: {}", error.cause());
                    record.write(|status| condition(status, "Committed", false, "AgentUnreachable", &message)).await?;
                    if let Some(ended) = ask_the_arbiter(context, record).await? {
                        break ended;
                    }
                    if matches!(error, AgentError::NoNode(_))
                        && let Some(ended) = without_source(context, record).await?
                    {
                        break ended;
                    }
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PAUSE).await;
    };
    context.point("controller.switching.outcome").await?;
    match ended {
        Ended::Running(freeze) => {
            record
                .write(|status| {
                    status.phase = Phase::Settling;
                    status.freeze = Some(freeze.clone());
                    condition(status, "Committed", true, "Running", "the pod runs at the target");
                })
                .await?;
            context.event(record, false, "Committed", &format!("the pod runs at the target; it stood still for {} ms", freeze.total_ms)).await;
        }
        Ended::TakenBack(why, freeze) => {
            let why = told(why, record.pod(), is_source_going(context, record).await?);
            record
                .write(|status| {
                    status.failure = Some(why.clone());
                    status.freeze = Some(freeze.clone());
                    condition(status, "Committed", false, &why.reason, &why.message);
                })
                .await?;
        }
    }
    context.point("controller.switching.written").await?;
    Ok(Next::Again)
}

/// Measures both nodes' clocks against ours, once: their steps are to be compared. An agent that is away is left out.
async fn measure_clocks(context: &Context, record: &mut Record) -> Result<(), Error> {
    let status = record.status();
    if !status.clocks.is_empty() {
        return Ok(());
    }
    let nodes: Vec<String> = [status.source_node, status.target_node].into_iter().flatten().collect();
    let measured = futures::future::join_all(nodes.iter().map(|node| context.agents.clock(node)));
    let clocks: Vec<_> = record.step("clocks", measured).await.into_iter().flatten().collect();
    record.write(|status| status.clocks.clone_from(&clocks)).await
}

/// Whether the switch is wanted no more, and whether the agent knows.
#[derive(Default)]
struct Wish {
    why: Option<String>,
    told: bool,
}

impl Wish {
    fn look(&mut self, context: &Context, record: &Record) {
        if self.why.is_none() && context.interrupted(record).is_some() {
            self.why = Some(failure::cancelled().message);
        }
    }
}

/// Listens once. `None`: the stream ended without an outcome.
async fn attach(context: &Context, record: &mut Record, wish: &mut Wish) -> Result<Option<Ended>, Error> {
    let migration = record.step("addresses", context.migration(record)).await?;
    let node = migration.source_node.clone();
    wish.look(context, record);
    wish.told = false;
    if wish.why.is_some() {
        tell(context, &node, &migration, wish).await?;
    }
    let deadline_unix_ms = match (&wish.why, record.deadline()) {
        (Some(_), _) => PASSED,
        (None, Some(deadline)) => deadline.as_millisecond(),
        (None, None) => 0,
    };
    let spec = &record.object().spec;
    let planned = record.status().plan.unwrap_or_default().memory;
    let late = match planned.as_str() {
        POST_COPY => v1::Late::AfterSwitch,
        _ if late_if_stuck(record) => v1::Late::IfStuck,
        _ => v1::Late::InFreeze,
    };
    let request = SwitchRequest {
        migration: Some(migration.clone()),
        deadline_unix_ms,
        pre_copy: [PRE_COPY, POST_COPY].contains(&planned.as_str()),
        late: late.into(),
        digests: spec.tracking == Some(Tracking::Digests),
        connections: spec.connections.unwrap_or_default(),
        freeze_budget_ms: spec.freeze_budget_ms.unwrap_or_default(),
        bandwidth: u64::from(spec.bandwidth_mib.unwrap_or_default()) << 20,
        give_up: spec.if_not_converging == Some(NotConverging::GiveUp),
        import: super::copying::by_import(record),
        compression: i32::from(match spec.compression.unwrap_or_default() {
            Compression::Auto => v1::Compression::Auto,
            Compression::Always => v1::Compression::Always,
            Compression::Never => v1::Compression::Never,
        }),
    };
    let call = |source| AgentError::Call { node: node.clone(), source: Box::new(source) };
    let attached = async { context.agents.of(&node).await?.switch(request).await.map_err(call) };
    let mut stream = record.step("attach", attached).await?.into_inner();
    context.point("controller.switching.attached").await?;

    let mut tick = tokio::time::interval(WRITE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut rate, mut looked) = (Rate::default(), Instant::now());
    loop {
        tokio::select! {
            event = stream.message() => match event.map_err(call)?.and_then(|event| event.event) {
                None => return Ok(None),
                Some(switch_event::Event::Step(step)) => record.note_agent(Phase::Switching, step),
                Some(switch_event::Event::Copied(copied)) => rate.note(&copied),
                Some(switch_event::Event::Outcome(outcome)) => return Ok(ended(outcome)),
            },
            _ = tick.tick() => {
                if record.has_notes() || rate.fresh {
                    let progress = rate.take();
                    record.write(|status| status.progress.clone_from(&progress)).await?;
                }
                wish.look(context, record);
                if looked.elapsed() > LOOK {
                    looked = Instant::now();
                    if wish.why.is_none() && let Some(why) = source_gone(context, record).await? {
                        wish.why = Some(why.message);
                    }
                }
                if wish.why.is_some() && !wish.told {
                    tell(context, &node, &migration, wish).await?;
                }
            }
        }
    }
}

/// Memory that does not get less while it travels goes after the switch.
pub(super) fn late_if_stuck(record: &Record) -> bool {
    record.object().spec.if_not_converging == Some(NotConverging::PostCopy) && record.status().plan.is_some_and(|plan| plan.memory == PRE_COPY)
}

/// Passes the wish on.
async fn tell(context: &Context, node: &str, migration: &v1::Migration, wish: &mut Wish) -> Result<(), Error> {
    let request = CancelRequest { migration: Some(migration.clone()), why: wish.why.clone().unwrap_or_default() };
    context
        .agents
        .call(node, LOOK, |mut agent| {
            let request = request.clone();
            async move { agent.cancel(request).await }
        })
        .await?;
    wish.told = true;
    Ok(())
}

async fn source_gone(context: &Context, record: &Record) -> Result<Option<Failure>, Error> {
    let pod = context.pods(record).get_opt(record.pod()).await?;
    let uid = record.status().source_pod_uid;
    let stays = pod.is_some_and(|pod| pod.metadata.uid == uid && pod.metadata.deletion_timestamp.is_none() && pods::phase(&pod) == "Running");
    Ok((!stays).then(|| failure::pod_deleted(record.pod())))
}

/// Whether the source pod's object is gone, or will be.
async fn is_source_going(context: &Context, record: &Record) -> Result<bool, Error> {
    let source = context.pods(record).get_opt(record.pod()).await?;
    Ok(settling::is_going(source.as_ref(), &record.status().source_pod_uid.unwrap_or_default()))
}

/// Why it was taken back, for the user. Whatever the agents have met with: of a pod that was deleted meanwhile nobody is told that it runs.
fn told(why: Failure, pod: &str, deleted: bool) -> Failure {
    if deleted && why.reason != failure::SOURCE_NODE_GONE { Failure { log: why.log, ..failure::pod_deleted(pod) } } else { why }
}

/// What the Handover of this migration says, if there is one.
async fn arbiter(context: &Context, record: &Record) -> Result<Option<HandoverState>, Error> {
    let handovers: Api<Handover> = Api::namespaced(context.client.clone(), &record.namespace());
    let uid = record.status().source_pod_uid.unwrap_or_default();
    let found = handovers.get_opt(&uid).await?;
    let own = found.filter(|found| record.object().metadata.uid.as_deref() == Some(found.spec.migration_uid.as_str()));
    // Without a status the source owns the pod.
    Ok(own.map(|own| own.status.map_or(HandoverState::Source, |status| status.state)))
}

/// The source's node was taken out of the cluster: nobody there will say how it ended. The target is told that nothing comes. It promises never to run the pod as long as the pod is not, and
/// cannot become, its own; then the source's object is waited for, which Kubernetes takes away from a node that does not exist. Until then the node may come back with a pod that
/// stands still, and a target that remembers its promise is what lets that go on.
async fn without_source(context: &Context, record: &mut Record) -> Result<Option<Ended>, Error> {
    undo::tell(context, record).await?;
    if !never_runs(context, record).await? || !is_source_going(context, record).await? {
        return Ok(None);
    }
    // Last, since it could change until the target had promised.
    if !is_left_to_source(arbiter(context, record).await?) {
        return Ok(None);
    }
    let node = record.status().source_node.unwrap_or_default();
    Ok(Some(Ended::TakenBack(failure::source_node_gone(record.pod(), &node), Freeze::default())))
}

/// Whether the target has not got the pod, and the source has not taken it back.
fn is_left_to_source(arbiter: Option<HandoverState>) -> bool {
    matches!(arbiter, None | Some(HandoverState::Source))
}

/// Whether the target has promised never to run the pod. There is no other failure of its keepers.
async fn never_runs(context: &Context, record: &Record) -> Result<bool, Error> {
    let migration = context.migration(record).await?;
    let node = migration.target_node.clone();
    let asked = context.agents.call(&node, LOOK, |mut agent| {
        let request = AwaitKeepersRequest { migration: Some(migration.clone()), wait_ms: 0 };
        async move { agent.await_keepers(request).await }
    });
    match asked.await {
        Ok(reply) => Ok(reply.failure.is_some()),
        Err(error) => {
            tracing::warn!(node, cause = error.cause(), "the target's agent cannot say whether it will run the pod");
            Ok(false)
        }
    }
}

/// What the Handover says, if it says something final about this migration.
async fn ask_the_arbiter(context: &Context, record: &Record) -> Result<Option<Ended>, Error> {
    Ok(match arbiter(context, record).await? {
        Some(HandoverState::Running) => Some(Ended::Running(record.status().freeze.unwrap_or_default())),
        Some(HandoverState::Aborted) => {
            let why = failure::agent_unreachable(&record.status().source_node.unwrap_or_default(), "it took the switch back and went away before it said why");
            Some(Ended::TakenBack(why, Freeze::default()))
        }
        _ => None,
    })
}

fn ended(outcome: v1::Outcome) -> Option<Ended> {
    let report = outcome.freeze.unwrap_or_default();
    let freeze = Freeze {
        total_ms: report.total_ms,
        dump_ms: report.dump_ms,
        delta_ms: report.delta_ms,
        restore_ms: report.restore_ms,
        verify_ms: report.verify_ms,
        commit_ms: report.commit_ms,
    };
    Some(match outcome.result? {
        outcome::Result::Running(_) => Ended::Running(freeze),
        outcome::Result::TakenBack(why) => Ended::TakenBack(super::api_failure(why), freeze),
    })
}

/// Bytes and their rate.
#[derive(Default)]
struct Rate {
    now: Progress,
    before: Option<(Timestamp, u64)>,
    fresh: bool,
}

impl Rate {
    fn note(&mut self, copied: &v1::Copied) {
        self.now.bytes = copied.bytes;
        self.now.total = copied.total;
        if copied.round > 0 {
            self.now.round = Some(copied.round);
            self.now.dirty_rate = Some(copied.dirty_rate);
            self.now.remaining = Some(copied.remaining);
            self.now.forecast_ms = Some(copied.forecast_ms);
            self.now.connections = Some(copied.connections).filter(|connections| *connections > 0);
        }
        self.fresh = true;
    }

    /// What to write; the rate is that since the last time.
    fn take(&mut self) -> Option<Progress> {
        if std::mem::take(&mut self.fresh) {
            let now = Timestamp::now();
            if let Some((then, bytes)) = self.before {
                let ms = u64::try_from(now.as_millisecond().saturating_sub(then.as_millisecond())).unwrap_or(0).max(1);
                self.now.rate = self.now.bytes.saturating_sub(bytes).saturating_mul(1000) / ms;
            }
            self.before = Some((now, self.now.bytes));
        }
        (self.now != Progress::default()).then(|| self.now.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_pod_that_was_deleted_nobody_is_told_that_it_runs() {
        let deleted = failure::pod_deleted("web-0");
        assert_eq!(told(failure::cancelled(), "web-0", true), deleted);
        assert_eq!(told(failure::cancelled(), "web-0", false), failure::cancelled());
        let logged = Failure { log: "a line".into(), ..failure::cancelled() };
        assert_eq!(told(logged, "web-0", true), Failure { log: "a line".into(), ..deleted });
        let gone = failure::source_node_gone("web-0", "node-a");
        assert_eq!(told(gone.clone(), "web-0", true), gone);
    }

    #[test]
    fn what_the_target_has_got_is_not_given_up() {
        use HandoverState::{Aborted, Running, Source, Target};
        assert_eq!([None, Some(Source)].map(is_left_to_source), [true, true]);
        assert_eq!([Target, Running, Aborted].map(|state| is_left_to_source(Some(state))), [false, false, false]);
    }
}
