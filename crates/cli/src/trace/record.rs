//! What the record of a migration tells: its phases and steps, and how it ended.

use godwit_api::PodMigration;
use godwit_api::migration::Phase;
use godwit_migration::timeline::steps;
use godwit_trace::{Level, Line, Source, step};

use super::story::Told;

/// Where the controller's lines are noted.
const CONTROLLER: &str = "-";

/// Everything that it tells of the way; each line with the time of who noted it. Steps of the agents too: they tell the same themselves, unless they were restarted since.
#[must_use]
pub fn lines(object: &PodMigration) -> Vec<Told> {
    let status = object.status.clone().unwrap_or_default();
    let mut told = Vec::new();
    let mut say = |node: &str, line: Line| told.push(Told { node: node.to_owned(), line });
    let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0.as_microsecond());
    if let Some(at_us) = created {
        let to = object.spec.target_node.as_ref().map_or(String::new(), |node| format!(" to {node}"));
        say(CONTROLLER, Line::new(at_us, Source::Controller, Level::Info, &format!("ordered: pod {}{to}", object.spec.pod_name)));
    }
    let mut phase = None;
    for one in &status.timeline {
        let node = status.node_of(&one.who);
        if node.is_none() && phase.is_none_or(|phase| phase < one.phase) {
            phase = Some(one.phase);
            say(CONTROLLER, Line::new(one.start_us, Source::Controller, Level::Info, &format!("{:?} begins", one.phase)));
        }
        let does = steps::of(&one.step).map_or("", |known| known.does);
        say(node.unwrap_or(CONTROLLER), step::line(&one.step, &one.who, does, &one.detail, one.start_us, one.duration_us.max(0)));
    }
    told
}

/// How it ended, if it has.
#[must_use]
pub fn end(object: &PodMigration) -> Option<Told> {
    let status = object.status.clone().filter(|status| status.phase.is_final())?;
    // The record has whole seconds.
    let ended = status.completion_time.as_ref().map_or(0, |time| time.0.as_microsecond());
    let last = status.timeline.iter().filter(|one| one.who == "controller").map(|one| one.start_us.saturating_add(one.duration_us)).max();
    let (level, text) = match &status.failure {
        Some(failure) => (Level::Error, format!("{:?}: {}: {}; what to do: {}", status.phase, failure.reason, failure.message, failure.remedy)),
        None => (if status.phase == Phase::Succeeded { Level::Info } else { Level::Error }, format!("{:?}", status.phase)),
    };
    Some(Told { node: CONTROLLER.to_owned(), line: Line::new(ended.max(last.unwrap_or_default()), Source::Controller, level, &text) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn phases_steps_and_the_end_are_told() {
        let object: PodMigration = serde_json::from_value(serde_json::json!({
            "apiVersion": "godwit.dev/v1alpha1", "kind": "PodMigration", "metadata": {"name": "x", "creationTimestamp": "1970-01-01T00:00:01Z"},
            "spec": {"podName": "web-0", "targetNode": "node-b"},
            "status": {
                "phase": "RolledBack", "sourceNode": "node-a", "targetNode": "node-b", "completionTime": "1970-01-01T00:00:02Z",
                "failure": {"reason": "Inotify", "message": "m", "remedy": "r"},
                "timeline": [
                    {"phase": "Planning", "step": "inspect", "who": "controller", "startUs": 1_100_000, "durationUs": 12_000},
                    {"phase": "Switching", "step": "clocks", "who": "controller", "startUs": 1_200_000, "durationUs": 1000},
                    {"phase": "Switching", "step": "criu-dump", "who": "source", "startUs": 1_300_000, "durationUs": 42_000, "detail": "main"},
                    {"phase": "Settling", "step": "undo", "who": "controller", "startUs": 2_400_000, "durationUs": 1000},
                ],
            },
        }))
        .unwrap();
        let told = lines(&object);
        let texts: Vec<(&str, i64, &str)> = told.iter().map(|told| (told.node.as_str(), told.line.at_us, told.line.text.as_str())).collect();
        assert_eq!(texts[0], ("-", 1_000_000, "ordered: pod web-0 to node-b"));
        assert_eq!(texts[1], ("-", 1_100_000, "Planning begins"));
        assert_eq!(texts[5], ("node-a", 1_342_000, "criu-dump main took 42.00 ms: criu dump writes the images"));
        let end = end(&object).unwrap().line;
        assert_eq!((end.at_us, end.level, end.text.as_str()), (2_401_000, Level::Error, "RolledBack: Inotify: m; what to do: r"));
    }
}
