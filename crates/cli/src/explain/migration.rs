//! A migration: what its record and the events around it say.

use godwit_api::PodMigration;
use godwit_api::migration::Phase;
use godwit_criu::explain::read;
use kube::ResourceExt;

use super::Explanation;
use crate::matrix;
use crate::text::precise;
use crate::timeline::Timeline;
use crate::view::{End, end, is_deleted, is_node_gone};

/// An event as far as it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// Kind and name of the object.
    pub about: String,
    /// The reason word.
    pub reason: String,
    /// The note.
    pub note: String,
}

/// Explains a migration. `events` are warnings about it and its pods, the oldest first.
#[must_use]
pub fn explain(object: &PodMigration, events: &[Happened]) -> Explanation {
    let status = object.status.clone().unwrap_or_default();
    let place = |node: Option<String>| node.unwrap_or_else(|| "?".to_owned());
    let subject = format!(
        "{} · {} · {} → {} · {:?}",
        object.name_any(),
        object.spec.pod_name,
        place(status.source_node.clone()),
        place(status.target_node.clone().or_else(|| object.spec.target_node.clone())),
        status.phase
    );
    let mut facts = Vec::new();
    match status.phase {
        Phase::RolledBack | Phase::Failed if is_deleted(&status) => facts.push("the pod was deleted before it had moved".to_owned()),
        Phase::Failed if is_node_gone(&status) => facts.push("the pod was lost with its node before it had moved: it runs nowhere".to_owned()),
        Phase::RolledBack => facts.push("the pod was taken back: it runs where it was, as before".to_owned()),
        Phase::Failed if end(object) == Some(End::Lost) => facts.push("the pod had been switched, and was lost before all of its memory had come".to_owned()),
        Phase::Failed => facts.push("nothing was touched: the pod runs where it was, it has not stood still".to_owned()),
        Phase::Succeeded => {}
        phase => facts.push(format!("it is under way, in phase {phase:?}")),
    }
    let others = status.plan.iter().flat_map(|plan| &plan.blockers).filter(|blocker| Some(&blocker.reason) != status.failure.as_ref().map(|why| &why.reason));
    facts.extend(others.map(|blocker| format!("also in the way: {}: {}. {}", blocker.reason, blocker.message, blocker.remedy)));
    facts.extend(status.plan.iter().flat_map(|plan| &plan.warnings).map(|warning| format!("different afterwards: {warning}")));
    let waiting = status.conditions.iter().filter(|condition| condition.status == "False" && !condition.message.is_empty() && status.failure.is_none());
    facts.extend(waiting.map(|condition| format!("{}: {} ({})", condition.type_, condition.message, condition.reason)));
    facts.extend(how_far(&Timeline::of(&status)));
    facts.extend(events.iter().map(|event| format!("event about {}: {}: {}", event.about, event.reason, event.note)));
    let Some(why) = status.failure else {
        return Explanation { subject, known: true, facts, ..Explanation::default() };
    };
    // CRIU's lines know more than the word alone.
    let reading = (!why.log.is_empty()).then(|| read(&why.log, None)).filter(|reading| reading.known() && reading.reason == why.reason);
    let told = reading.map(|reading| (reading.what, reading.remedy)).or_else(|| matrix::of(&why.reason));
    let known = told.is_some();
    Explanation {
        subject,
        known,
        seen: why.message,
        cause: told.map(|(cause, _)| cause.to_owned()).unwrap_or_default(),
        remedy: if why.remedy.is_empty() { told.map(|(_, remedy)| remedy.to_owned()).unwrap_or_default() } else { why.remedy },
        link: matrix::link(if known { &why.reason } else { "dumpfailed-and-restorefailed" }),
        facts,
        log: why.log.lines().map(str::to_owned).collect(),
        collect: if known { Vec::new() } else { matrix::collect().into_iter().map(str::to_owned).collect() },
        reason: why.reason,
    }
}

/// The last step that was taken, and for how long the pod stood still.
fn how_far(timeline: &Timeline) -> Vec<String> {
    let mut facts = Vec::new();
    if let Some((from, to)) = timeline.freeze {
        facts.push(format!("the pod stood still for {}", precise(to - from)));
    }
    if let Some(last) = timeline.rows.iter().filter(|row| row.step != "status").max_by_key(|row| row.end_us()) {
        let (does, _) = last.meaning();
        facts.push(format!("the last step: {} by the {} ({does})", last.step, last.who));
    }
    facts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::{Value, json};

    fn migration(status: Value) -> PodMigration {
        serde_json::from_value(json!({
            "apiVersion": "godwit.dev/v1alpha1", "kind": "PodMigration", "metadata": {"name": "web-0-x"},
            "spec": {"podName": "web-0", "targetNode": "node-b"}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_dump_that_failed() {
        let object = migration(json!({
            "phase": "RolledBack", "sourceNode": "node-a", "targetNode": "node-b",
            "timeline": [
                {"phase": "Switching", "step": "freeze", "who": "source", "startUs": 0, "durationUs": 1000},
                {"phase": "Switching", "step": "thaw", "who": "source", "startUs": 90_000, "durationUs": 2000},
            ],
            "failure": {"reason": "UnixSocketOutside", "message": "container main: …", "remedy": "close it",
                "log": "  2998  (00.9) Error (criu/sk-unix.c:883): unix: Dangling connection 1234"},
        }));
        let event = Happened { about: "Pod web-0".into(), reason: "Unhealthy".into(), note: "probe failed".into() };
        insta::assert_snapshot!(explain(&object, &[event]).text().join("\n"));
    }

    #[test]
    fn one_that_went_well() {
        let said = explain(&migration(json!({"phase": "Succeeded", "sourceNode": "node-a"})), &[]);
        assert_eq!((said.reason.as_str(), said.code()), ("", 0));
        assert!(said.text()[1].starts_with('✔'));
    }

    #[test]
    fn one_that_was_deleted_or_lost_with_its_node() {
        for (phase, reason, fact) in [
            ("RolledBack", "PodDeleted", "the pod was deleted before it had moved"),
            ("Failed", "PodDeleted", "the pod was deleted before it had moved"),
            ("Failed", "SourceNodeGone", "the pod was lost with its node before it had moved: it runs nowhere"),
        ] {
            let said = explain(&migration(json!({"phase": phase, "failure": {"reason": reason, "message": "m", "remedy": "r"}})), &[]);
            assert!(said.known);
            assert_eq!(said.facts, [fact]);
        }
    }

    #[test]
    fn an_unknown_one() {
        let said = explain(&migration(json!({"phase": "RolledBack", "failure": {"reason": "DumpFailed", "message": "CRIU says 'x'", "remedy": ""}})), &[]);
        assert_eq!((said.known, said.code()), (false, 1));
        assert!(!said.collect.is_empty());
    }
}
