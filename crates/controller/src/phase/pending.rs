//! `Pending`: queued, until nobody else moves this pod and its nodes have a hand free.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use godwit_api::PodMigration;
use godwit_api::migration::{Phase, PodMigrationStatus};

use crate::context::Context;
use crate::error::Error;
use crate::reconcile::Next;
use crate::record::{Record, condition};
use crate::{failure, pods};

/// How often a queued migration looks again.
const LOOK: Duration = Duration::from_secs(1);

/// The reason of a migration that waits for others.
const QUEUED: &str = "Queued";

/// See the module.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn run(context: &Context, record: &mut Record) -> Result<Next, Error> {
    if let Some(why) = context.interrupted(record) {
        return super::fail(context, record, why).await;
    }
    // While it waits, what the watch has seen tells whether there may be room: a long queue does not ask for everything again and again.
    if is_queued(&record.status()) {
        let pod = context.pods(record).get_opt(record.pod()).await?;
        let nodes = [pod.as_ref().and_then(pods::node), record.object().spec.target_node.as_deref()];
        let seen = context.seen.state();
        let full = |node: &str| in_flight(seen.iter().map(AsRef::as_ref), node) >= context.limit;
        if pod.is_some() && nodes.into_iter().flatten().any(full) {
            return Ok(Next::After(LOOK));
        }
    }
    // One at a time, over a list that no cache has touched: of two migrations of one pod the second sees the first.
    let _turn = context.admission.lock().await;
    record.refresh().await?;
    let all = Api::<PodMigration>::all(context.client.clone()).list(&ListParams::default()).await?.items;
    if let Some(other) = rival(record.object(), &all) {
        return super::fail(context, record, failure::already_migrating(record.pod(), &other)).await;
    }
    let pod = context.pods(record).get_opt(record.pod()).await?;
    if let Err(why) = pods::check_source(pod.as_ref(), &record.namespace(), record.pod(), None) {
        return super::fail(context, record, why).await;
    }
    let source = pod.as_ref().and_then(pods::node).map(str::to_owned);
    let target = record.object().spec.target_node.clone();
    if let Some(node) = busy(record.object(), &all, [&source, &target], context.limit) {
        let message = format!("{} migrations from or to node {node} are in flight, at most {} may be", in_flight(&all, node), context.limit);
        record.write(|status| condition(status, "Planned", false, QUEUED, &message)).await?;
        return Ok(Next::After(LOOK));
    }

    record.hold(true).await?;
    context.point("controller.pending.held").await?;
    let generation = record.object().metadata.generation;
    let uid = pod.and_then(|pod| pod.uid());
    let trace = context.trace_id(record.object());
    record
        .write(|status| {
            status.phase = Phase::Planning;
            status.observed_generation = generation;
            status.start_time = Some(Time(Timestamp::now()));
            status.source_node.clone_from(&source);
            status.source_pod_uid.clone_from(&uid);
            status.target_node.clone_from(&target);
            status.trace_id.clone_from(&trace);
            condition(status, "Planned", false, "Planning", "");
        })
        .await?;
    context.point("controller.pending.taken-up").await?;
    Ok(Next::Again)
}

/// Name of another migration that is about the same pod and comes first.
fn rival(own: &PodMigration, all: &[PodMigration]) -> Option<String> {
    if own.spec.dry_run {
        return None;
    }
    let age = |object: &PodMigration| (object.metadata.creation_timestamp.clone(), object.uid());
    let about = |other: &PodMigration| {
        let target = other.status.as_ref().and_then(|status| status.target_pod.as_ref());
        other.spec.pod_name == own.spec.pod_name || target == Some(&own.spec.pod_name)
    };
    let first = |other: &PodMigration| match phase(other) {
        Phase::Pending => age(other) < age(own),
        phase => !phase.is_final(),
    };
    let rival = all.iter().find(|other| {
        other.uid() != own.uid() && other.namespace() == own.namespace() && !other.spec.dry_run && about(other) && first(other) && !leaving(other)
    });
    rival.map(ResourceExt::name_any)
}

/// Pending and failed already: it will never be admitted.
fn leaving(other: &PodMigration) -> bool {
    phase(other) == Phase::Pending && (other.spec.cancel || other.status.as_ref().is_some_and(|status| status.failure.is_some()))
}

/// The first of these nodes that has no hand free. A plan alone needs none.
fn busy<'a>(own: &PodMigration, all: &[PodMigration], nodes: [&'a Option<String>; 2], limit: usize) -> Option<&'a String> {
    if own.spec.dry_run {
        return None;
    }
    nodes.into_iter().flatten().find(|node| in_flight(all, node) >= limit)
}

/// Whether it has been told to wait.
fn is_queued(status: &PodMigrationStatus) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == "Planned" && condition.reason == QUEUED)
}

/// Migrations in flight from or to `node`.
fn in_flight<'a>(all: impl IntoIterator<Item = &'a PodMigration>, node: &str) -> usize {
    let moving = |other: &&PodMigration| {
        let phase = phase(other);
        let status = other.status.as_ref();
        let at = |name: Option<&String>| name.is_some_and(|name| name == node);
        phase != Phase::Pending
            && !phase.is_final()
            && !other.spec.dry_run
            && (at(status.and_then(|status| status.source_node.as_ref())) || at(status.and_then(|status| status.target_node.as_ref())))
    };
    all.into_iter().filter(moving).count()
}

fn phase(object: &PodMigration) -> Phase {
    object.status.as_ref().map_or(Phase::Pending, |status| status.phase)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn migration(name: &str, second: u32, phase: Option<&str>, pod: &str, target: Option<&str>) -> PodMigration {
        let status = phase.map(|phase| json!({"phase": phase, "sourceNode": "a", "targetNode": "b", "targetPod": target}));
        serde_json::from_value(json!({
            "apiVersion": "godwit.dev/v1alpha1", "kind": "PodMigration",
            "metadata": {"name": name, "namespace": "ns", "uid": name, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            "spec": {"podName": pod}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn the_second_of_two_gives_way() {
        let (first, second) = (migration("x", 1, None, "web", None), migration("y", 2, None, "web", None));
        let all = [first.clone(), second.clone()];
        assert_eq!(rival(&second, &all), Some("x".into()));
        assert_eq!(rival(&first, &all), None);
    }

    #[test]
    fn in_the_same_second_exactly_one_wins() {
        let (one, two) = (migration("x", 1, None, "web", None), migration("y", 1, None, "web", None));
        let all = [one.clone(), two.clone()];
        assert_eq!([rival(&one, &all).is_some(), rival(&two, &all).is_some()], [false, true]);
    }

    #[test]
    fn one_in_flight_wins_over_an_older_one_that_waits() {
        let (old, new) = (migration("x", 1, None, "web", None), migration("y", 2, Some("Copying"), "web", Some("web-m1")));
        assert_eq!(rival(&old, &[old.clone(), new.clone()]), Some("y".into()));
        let of_target = migration("z", 3, None, "web-m1", None);
        assert_eq!(rival(&of_target, &[new, of_target.clone()]), Some("y".into()));
    }

    #[test]
    fn finished_ones_dry_runs_and_other_pods_do_not_count() {
        let own = migration("z", 9, None, "web", None);
        let mut dry = migration("d", 1, Some("Planning"), "web", None);
        dry.spec.dry_run = true;
        let all = [migration("x", 1, Some("Succeeded"), "web", None), migration("y", 2, Some("Copying"), "db", None), dry, own.clone()];
        assert_eq!(rival(&own, &all), None);
    }

    #[test]
    fn both_ends_count() {
        let all = [migration("x", 1, Some("Copying"), "p", None), migration("y", 2, Some("Failed"), "q", None), migration("z", 3, Some("Pending"), "r", None)];
        assert_eq!([in_flight(&all, "a"), in_flight(&all, "b"), in_flight(&all, "c")], [1, 1, 0]);
    }

    #[test]
    fn a_plan_does_not_wait_for_busy_nodes() {
        let (full, free) = (Some("b".to_owned()), Some("c".to_owned()));
        let all = [migration("x", 1, Some("Copying"), "p", None)];
        let mut own = migration("z", 2, None, "r", None);
        assert_eq!(busy(&own, &all, [&free, &full], 1), full.as_ref());
        assert_eq!(busy(&own, &all, [&free, &full], 2), None);
        assert_eq!(busy(&own, &all, [&free, &None], 1), None);
        own.spec.dry_run = true;
        assert_eq!(busy(&own, &all, [&free, &full], 1), None);
    }
}
