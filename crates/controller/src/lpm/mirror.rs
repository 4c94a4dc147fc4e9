//! Our phases in the manifest's words. None is left out on the way, so that whoever waits for one with `kubectl get -w` sees it.
//!
//! ```text
//!   Pending, Planning ─▶ Pending        Preparing, Copying, Switching until the dump is there ─▶ Checkpointing, CheckpointComplete
//!   Switching, Settling ─▶ Restoring    Succeeded ─▶ Succeeded    Failed, RolledBack ─▶ Failed
//! ```

use kube::ResourceExt;

use godwit_api::PodMigration;
use godwit_api::lpm::{Phase, PodMigrationStatus as Status};
use godwit_api::migration::{self, PodMigrationStatus};

/// The step that ends when the images are there.
const DUMP: &str = "dump";
/// The good way.
const WAY: [Phase; 5] = [Phase::Pending, Phase::Checkpointing, Phase::CheckpointComplete, Phase::Restoring, Phase::Succeeded];

/// What is to be said next of a migration of which `before` has been said.
#[must_use]
pub fn next(before: &Status, ours: &PodMigration) -> Status {
    let status = ours.status.clone().unwrap_or_default();
    let reached = reached(&status);
    let phase = match (before.phase, reached) {
        (Phase::Succeeded | Phase::Failed, _) => return before.clone(),
        (_, Phase::Failed) => Phase::Failed,
        (said, reached) if reached <= said => said,
        (said, _) => WAY.into_iter().find(|phase| *phase > said).unwrap_or(said),
    };
    let message = message(phase, ours, &status);
    let restored_pod = status.target_pod.filter(|_| phase == Phase::Succeeded);
    Status { phase, message, restored_pod, migration_uid: before.migration_uid.clone() }
}

fn reached(status: &PodMigrationStatus) -> Phase {
    match status.phase {
        migration::Phase::Pending | migration::Phase::Planning => Phase::Pending,
        migration::Phase::Preparing | migration::Phase::Copying => Phase::Checkpointing,
        migration::Phase::Switching if status.timeline.iter().any(|step| step.step == DUMP) => Phase::Restoring,
        migration::Phase::Switching => Phase::Checkpointing,
        migration::Phase::Settling => Phase::Restoring,
        migration::Phase::Succeeded => Phase::Succeeded,
        migration::Phase::RolledBack | migration::Phase::Failed => Phase::Failed,
    }
}

fn message(phase: Phase, ours: &PodMigration, status: &PodMigrationStatus) -> String {
    let (pod, or) = (&ours.spec.pod_name, |name: &Option<String>, or: &str| name.clone().unwrap_or_else(|| or.to_owned()));
    let (target, source) = (or(&status.target_node, "another node"), or(&status.source_node, "its node"));
    match phase {
        Phase::Pending => match status.conditions.iter().find(|condition| condition.reason == "Queued") {
            Some(queued) => queued.message.clone(),
            None => format!("looking at pod {pod} and the nodes"),
        },
        Phase::Checkpointing => format!("pod {pod} on {source} is being checkpointed"),
        Phase::CheckpointComplete => format!("the checkpoint of pod {pod} is complete"),
        Phase::Restoring => format!("pod {pod} is being restored on {target}"),
        Phase::Succeeded => {
            let froze = status.freeze.as_ref().map_or(0, |freeze| freeze.total_ms);
            format!("pod {pod} runs on {target} as {}; it stood still for {froze} ms", or(&status.target_pod, "?"))
        }
        Phase::Failed => {
            let why = status.failure.clone().unwrap_or_default();
            let name = ours.name_any();
            format!("{}: {}. {} (kubectl migrate explain {name} says more)", why.reason, why.message.trim_end_matches('.'), why.remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::lpm::{made_of, tests::manifest};
    use serde_json::{Value, json};

    fn ours(status: Value) -> PodMigration {
        PodMigration { status: Some(serde_json::from_value(status).unwrap()), ..made_of(&manifest()) }
    }

    /// What is said until there is nothing new to say.
    fn said(from: &Status, status: Value) -> Vec<Status> {
        let ours = ours(status);
        let mut all = vec![from.clone()];
        loop {
            let after = next(all.last().unwrap(), &ours);
            if &after == all.last().unwrap() {
                return all.split_off(1);
            }
            all.push(after);
        }
    }

    fn phases(all: &[Status]) -> Vec<Phase> {
        all.iter().map(|status| status.phase).collect()
    }

    #[test]
    fn no_phase_is_left_out_however_late_one_looks() {
        let first = Status { migration_uid: Some("g".into()), ..Status::default() };
        let done = json!({"phase": "Succeeded", "sourceNode": "a", "targetNode": "b", "targetPod": "analytics-counter-m1", "freeze": {
            "totalMs": 42, "dumpMs": 0, "deltaMs": 0, "restoreMs": 0, "verifyMs": 0, "commitMs": 0}});
        let all = said(&first, done);
        assert_eq!(phases(&all), [Phase::Checkpointing, Phase::CheckpointComplete, Phase::Restoring, Phase::Succeeded]);
        let last = all.last().unwrap();
        assert_eq!(last.message, "pod analytics-counter runs on b as analytics-counter-m1; it stood still for 42 ms");
        assert_eq!((last.restored_pod.as_deref(), last.migration_uid.as_deref()), (Some("analytics-counter-m1"), Some("g")));
        assert!(all[2].restored_pod.is_none(), "it does not run there yet");
    }

    #[test]
    fn the_dump_parts_the_switch() {
        let first = Status::default();
        assert_eq!(phases(&said(&first, json!({"phase": "Planning"}))), [Phase::Pending], "its message is new");
        assert_eq!(phases(&said(&first, json!({"phase": "Switching"}))), [Phase::Checkpointing]);
        let dumped = json!({"phase": "Switching", "timeline": [{"phase": "Switching", "step": "dump", "who": "source", "startUs": 1, "durationUs": 1}]});
        assert_eq!(phases(&said(&first, dumped)), [Phase::Checkpointing, Phase::CheckpointComplete, Phase::Restoring]);
    }

    #[test]
    fn a_failure_says_why_and_is_the_end() {
        let why = json!({"reason": "Cancelled", "message": "it was cancelled.", "remedy": "Make another."});
        let failed = json!({"phase": "RolledBack", "sourceNode": "a", "failure": why});
        let all = said(&Status { phase: Phase::Restoring, ..Status::default() }, failed);
        assert_eq!(phases(&all), [Phase::Failed]);
        assert!(all[0].message.starts_with("Cancelled: it was cancelled. Make another."), "{}", all[0].message);
        assert!(said(&all[0], json!({"phase": "Succeeded"})).is_empty());
    }
}
