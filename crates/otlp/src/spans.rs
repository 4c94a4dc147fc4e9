//! The spans of a migration that has ended, from its record.
//!
//! ```text
//!   migrate web-0 ───────────────────────────────────────────────────────────────┐   controller
//!     Planning ───┐ Preparing ─┐ Copying ───┐ Switching ──────────┐ Settling ────┤   controller
//!       inspect ──┘            │  create ─┐ │   dump ─────┐       │              │   agents and wrapper, by who took the step
//!                                              criu-dump ┘                           parts of steps: `godwit_migration::timeline::tree`
//! ```
//!
//! Times are by the controller's clock. A span whose part began before it (a clock that is off by less than could be measured, a container that was made before the
//! controller looked) stays as it was measured.

use godwit_api::PodMigration;
use godwit_api::migration::{Failure, Phase, PodMigrationStatus, Step};
use godwit_migration::timeline::steps;
use godwit_migration::timeline::tree::{Taken, parents};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::context::{Context, span_id};

/// Which program a span is about, and where it ran.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// `godwit-controller`, `godwit-agent` or `godwit-runtime` (wrapper, keeper, CRIU's hook).
    pub name: &'static str,
    /// The node; none for the controller.
    pub node: Option<String>,
}

/// What a span is said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// A moment within a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What happened.
    pub name: &'static str,
    /// Microseconds since the epoch.
    pub at_us: i64,
}

/// One span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Who did it.
    pub service: Service,
    /// Its id.
    pub id: [u8; 8],
    /// What it is a part of.
    pub parent: Option<[u8; 8]>,
    /// Its name: that of a phase or a step.
    pub name: String,
    /// Start in microseconds since the epoch.
    pub start_us: i64,
    /// End in microseconds since the epoch.
    pub end_us: i64,
    /// More about it.
    pub attributes: Vec<(&'static str, Value)>,
    /// What happened meanwhile.
    pub moments: Vec<Moment>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// All spans of a migration; the first is the one that all others are a part of. None if it has not ended or its trace is not recorded.
#[must_use]
pub fn of(object: &PodMigration) -> Option<(Context, Vec<Span>)> {
    let status = object.status.as_ref().filter(|status| status.phase.is_final())?;
    let context = Some(Context::of(object)).filter(|context| context.sampled)?;
    let uid = object.uid().unwrap_or_default();
    let rows: Vec<Row> = status.timeline.iter().map(|step| Row::of(status, step)).collect();
    let phases = phases(&rows);
    let begin =
        rows.iter().map(|row| row.start_us).min().or_else(|| seconds(status.start_time.as_ref()).or_else(|| seconds(status.completion_time.as_ref())))?;
    let end = rows.iter().map(|row| row.end_us).max().unwrap_or(begin).max(begin);
    let error = status.failure.as_ref().map(said);

    let root = span_id(&uid, &["migration"]);
    let mut spans = vec![Span {
        service: controller(),
        id: root,
        parent: context.parent,
        name: format!("migrate {}", object.spec.pod_name),
        start_us: begin,
        end_us: end,
        attributes: about(object, status),
        moments: Vec::new(),
        error: error.clone(),
    }];
    let failed = phases.last().map(|phase| phase.phase);
    for phase in &phases {
        spans.push(Span {
            service: controller(),
            id: phase.id(&uid),
            parent: Some(root),
            name: format!("{:?}", phase.phase),
            start_us: phase.start_us,
            end_us: phase.end_us,
            attributes: Vec::new(),
            moments: if phase.phase == Phase::Switching { moments(&rows) } else { Vec::new() },
            error: error.clone().filter(|_| failed == Some(phase.phase)),
        });
    }
    spans.extend(of_steps(&uid, status, &rows, root, &phases));
    Some((context, spans))
}

/// A step on the controller's clock.
struct Row<'a> {
    step: &'a Step,
    start_us: i64,
    end_us: i64,
}

impl<'a> Row<'a> {
    fn of(status: &PodMigrationStatus, step: &'a Step) -> Self {
        let start_us = step.start_us.saturating_sub(status.correction_us(&step.who));
        Self { step, start_us, end_us: start_us.saturating_add(step.duration_us.max(0)) }
    }
}

/// A phase that was gone through.
struct Passed {
    phase: Phase,
    start_us: i64,
    end_us: i64,
}

impl Passed {
    fn id(&self, uid: &str) -> [u8; 8] {
        span_id(uid, &["phase", &format!("{:?}", self.phase)])
    }
}

/// The phases, each from the first step that the controller took in it to the first one of the next.
fn phases(rows: &[Row]) -> Vec<Passed> {
    let all = [Phase::Pending, Phase::Planning, Phase::Preparing, Phase::Copying, Phase::Switching, Phase::Settling];
    let mut passed: Vec<Passed> = Vec::new();
    for phase in all {
        let of_it = || rows.iter().filter(move |row| row.step.phase == phase);
        let own = || of_it().filter(|row| row.step.who == "controller");
        let Some(start_us) = own().map(|row| row.start_us).min().or_else(|| of_it().map(|row| row.start_us).min()) else { continue };
        let end_us = of_it().map(|row| row.end_us).max().unwrap_or(start_us);
        if let Some(before) = passed.last_mut() {
            before.end_us = start_us.max(before.start_us);
        }
        passed.push(Passed { phase, start_us, end_us });
    }
    passed
}

fn of_steps(uid: &str, status: &PodMigrationStatus, rows: &[Row], root: [u8; 8], phases: &[Passed]) -> Vec<Span> {
    let taken: Vec<Taken> = rows
        .iter()
        .map(|row| Taken { name: &row.step.step, who: &row.step.who, detail: &row.step.detail, start_us: row.start_us, end_us: row.end_us })
        .collect();
    // Two steps may be alike to the microsecond; their numbers are not.
    let ids: Vec<[u8; 8]> = rows
        .iter()
        .enumerate()
        .map(|(number, row)| {
            let step = row.step;
            span_id(uid, &["step", &step.step, &step.who, &step.detail, &step.start_us.to_string(), &number.to_string()])
        })
        .collect();
    let above = |row: &Row, parent: Option<usize>| match parent.and_then(|parent| ids.get(parent)) {
        Some(id) => *id,
        None => phases.iter().find(|phase| phase.phase == row.step.phase).map_or(root, |phase| phase.id(uid)),
    };
    rows.iter()
        .zip(&ids)
        .zip(parents(&taken))
        .map(|((row, id), parent)| Span {
            service: service(status, &row.step.who),
            id: *id,
            parent: Some(above(row, parent)),
            name: row.step.step.clone(),
            start_us: row.start_us,
            end_us: row.end_us,
            attributes: of_step(row.step),
            moments: Vec::new(),
            error: None,
        })
        .collect()
}

fn of_step(step: &Step) -> Vec<(&'static str, Value)> {
    let mut attributes = vec![("godwit.role", text(&step.who))];
    if !step.detail.is_empty() {
        attributes.push(("godwit.about", text(&step.detail)));
    }
    if let Some(known) = steps::of(&step.step) {
        attributes.push(("godwit.does", text(known.does)));
        attributes.push(("godwit.waits_for", text(known.waits_for)));
    }
    attributes
}

/// What the whole migration is about.
fn about(object: &PodMigration, status: &PodMigrationStatus) -> Vec<(&'static str, Value)> {
    let mut all = vec![
        ("godwit.migration.uid", text(&object.uid().unwrap_or_default())),
        ("godwit.migration.name", text(&object.name_any())),
        ("godwit.outcome", Value::Text(format!("{:?}", status.phase))),
        ("k8s.namespace.name", text(&object.namespace().unwrap_or_default())),
        ("k8s.pod.name", text(&object.spec.pod_name)),
    ];
    let optional = [
        ("k8s.pod.uid", &status.source_pod_uid),
        ("godwit.source.node", &status.source_node),
        ("godwit.target.node", &status.target_node),
        ("godwit.target.pod", &status.target_pod),
    ];
    all.extend(optional.into_iter().filter_map(|(name, value)| Some((name, text(value.as_ref()?)))));
    if let Some(plan) = &status.plan {
        all.extend([("godwit.memory", text(&plan.memory)), ("godwit.network", text(&plan.network))]);
    }
    if let Some(freeze) = &status.freeze {
        all.push(("godwit.freeze_ms", Value::Number(freeze.total_ms.into())));
    }
    if let Some(progress) = &status.progress {
        all.push(("godwit.sent_bytes", Value::Number(i64::try_from(progress.bytes).unwrap_or(i64::MAX))));
    }
    if let Some(failure) = &status.failure {
        all.extend([("error.type", text(&failure.reason)), ("godwit.remedy", text(&failure.remedy))]);
    }
    all
}

/// When the pod stood still, and when it ran again.
fn moments(rows: &[Row]) -> Vec<Moment> {
    let named = |name: &'static str| rows.iter().filter(move |row| row.step.step == name);
    let mut moments: Vec<Moment> = named("freeze").map(|row| Moment { name: "the pod stands still", at_us: row.start_us }).collect();
    moments.extend(named("open").filter(|row| row.step.who == "target").map(|row| Moment { name: "the pod runs at the target", at_us: row.end_us }));
    moments.extend(named("thaw").map(|row| Moment { name: "the pod runs on at the source", at_us: row.end_us }));
    moments.sort_by_key(|moment| moment.at_us);
    moments
}

fn controller() -> Service {
    Service { name: "godwit-controller", node: None }
}

fn service(status: &PodMigrationStatus, who: &str) -> Service {
    let name = match who {
        "source" | "target" => "godwit-agent",
        "wrapper" => "godwit-runtime",
        _ => return controller(),
    };
    Service { name, node: status.node_of(who).map(str::to_owned) }
}

fn said(failure: &Failure) -> String {
    format!("{}: {}", failure.reason, failure.message)
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// The record has whole seconds.
fn seconds(time: Option<&Time>) -> Option<i64> {
    time.map(|time| time.0.as_microsecond())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::{Value as Json, json};

    fn step(phase: &str, step: &str, who: &str, start: i64, took: i64) -> Json {
        json!({"phase": phase, "step": step, "who": who, "startUs": start, "durationUs": took})
    }

    fn migration(phase: &str, failure: &Json) -> PodMigration {
        serde_json::from_value(json!({
            "apiVersion": "godwit.dev/v1alpha1", "kind": "PodMigration",
            "metadata": {"name": "web-0-x", "namespace": "shop", "uid": "0f8fad5b-d9cb-469f-a165-70867728950e"},
            "spec": {"podName": "web-0", "targetNode": "node-b"},
            "status": {
                "phase": phase, "sourceNode": "node-a", "targetNode": "node-b", "failure": failure,
                "clocks": [{"node": "node-a", "offsetUs": 10, "uncertaintyUs": 90}, {"node": "node-b", "offsetUs": 500_000, "uncertaintyUs": 200}],
                "timeline": [
                    step("Planning", "inspect", "controller", 1_000_000, 12_000),
                    step("Copying", "keepers", "controller", 1_500_000, 100_000),
                    step("Copying", "create", "wrapper", 1_990_000, 30_000),
                    step("Switching", "attach", "controller", 1_900_000, 500),
                    step("Switching", "freeze", "source", 2_000_000, 1_200),
                    step("Switching", "dump", "source", 2_001_200, 30_000),
                    step("Switching", "criu-dump", "source", 2_001_300, 28_000),
                    step("Switching", "offer", "source", 2_031_200, 40_000),
                    step("Switching", "restore", "target", 2_532_200, 30_000),
                    step("Switching", "criu-restore", "wrapper", 2_533_200, 28_000),
                    step("Switching", "open", "target", 2_570_200, 1_000),
                    step("Settling", "retire", "controller", 2_100_000, 9_000),
                ],
            },
        }))
        .unwrap()
    }

    fn find<'a>(spans: &'a [Span], name: &str) -> &'a Span {
        spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no span {name}"))
    }

    #[test]
    fn one_tree_on_one_clock() {
        let (context, spans) = of(&migration("Succeeded", &Json::Null)).unwrap();
        assert_eq!(context.trace_id(), "0f8fad5bd9cb469fa16570867728950e");
        let root = &spans[0];
        assert_eq!((root.name.as_str(), root.parent, root.start_us, root.end_us), ("migrate web-0", None, 1_000_000, 2_109_000));
        let parent_of = |name: &str| spans.iter().find(|span| Some(span.id) == find(&spans, name).parent).map_or("", |span| span.name.as_str());
        for (child, parent) in [
            ("Planning", "migrate web-0"),
            ("Switching", "migrate web-0"),
            ("inspect", "Planning"),
            ("create", "keepers"),
            ("keepers", "Copying"),
            ("dump", "Switching"),
            ("criu-dump", "dump"),
            ("restore", "offer"),
            ("criu-restore", "restore"),
            ("retire", "Settling"),
        ] {
            assert_eq!(parent_of(child), parent, "{child}");
        }
        let mut ids: Vec<_> = spans.iter().map(|span| span.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), spans.len());
        // The target's clock is half a second ahead.
        let restore = find(&spans, "criu-restore");
        assert_eq!((restore.start_us, restore.end_us), (2_033_200, 2_061_200));
        assert_eq!((restore.service.name, restore.service.node.as_deref()), ("godwit-runtime", Some("node-b")));
        assert_eq!(find(&spans, "dump").service, Service { name: "godwit-agent", node: Some("node-a".into()) });
        let switching = find(&spans, "Switching");
        assert_eq!((switching.start_us, switching.end_us), (1_900_000, 2_100_000));
        assert_eq!(switching.moments.iter().map(|moment| moment.at_us).collect::<Vec<_>>(), [2_000_000, 2_071_200]);
        assert!(spans.iter().all(|span| span.error.is_none()));
    }

    #[test]
    fn a_failure_marks_the_whole_and_the_phase_that_it_came_to() {
        let (_, spans) = of(&migration("RolledBack", &json!({"reason": "Inotify", "message": "m", "remedy": "r"}))).unwrap();
        let failed: Vec<&str> = spans.iter().filter(|span| span.error.is_some()).map(|span| span.name.as_str()).collect();
        assert_eq!(failed, ["migrate web-0", "Settling"]);
        assert_eq!(spans[0].error.as_deref(), Some("Inotify: m"));
        assert!(spans[0].attributes.contains(&("error.type", Value::Text("Inotify".into()))));
    }

    #[test]
    fn nothing_is_told_before_the_end() {
        assert!(of(&migration("Switching", &Json::Null)).is_none());
    }

    #[test]
    fn a_migration_without_steps_has_one_span() {
        let mut object = migration("Failed", &json!({"reason": "PodNotFound", "message": "m", "remedy": "r"}));
        let status = object.status.as_mut().unwrap();
        status.timeline.clear();
        status.completion_time = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
        let (_, spans) = of(&object).unwrap();
        assert_eq!(spans.len(), 1);
        assert!(spans[0].error.is_some());
    }
}
