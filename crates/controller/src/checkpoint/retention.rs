//! How long checkpoints stay: until their TTL has passed, or newer ones of the same pod are enough.

use std::time::Duration;

use kube::ResourceExt;

use godwit_api::PodCheckpoint;
use godwit_api::checkpoint::CheckpointPhase;

/// How long one that failed stays without a TTL.
const FAILED: Duration = Duration::from_secs(86_400);

/// How long it stays after it has ended; `None`: until somebody deletes it.
#[must_use]
pub fn stay(object: &PodCheckpoint) -> Option<Duration> {
    let failed = object.status.as_ref().is_some_and(|status| status.phase == CheckpointPhase::Failed);
    object.spec.ttl_seconds.map(|seconds| Duration::from_secs(seconds.into())).or_else(|| failed.then_some(FAILED))
}

/// Names of the checkpoints that `newest`, which is complete, makes superfluous.
#[must_use]
pub fn superfluous(newest: &PodCheckpoint, all: &[PodCheckpoint]) -> Vec<String> {
    let Some(keep) = newest.spec.keep else { return Vec::new() };
    let completed = |object: &PodCheckpoint| object.status.as_ref().filter(|status| status.phase == CheckpointPhase::Complete)?.completion_time.clone();
    let mut of_pod: Vec<_> = all
        .iter()
        .filter(|one| one.spec.pod_name == newest.spec.pod_name && one.metadata.deletion_timestamp.is_none())
        .filter_map(|one| Some((completed(one)?, one.name_any())))
        .collect();
    // Times are whole seconds: of equal ones the new one is the newest.
    let own = newest.name_any();
    of_pod.sort_by(|a, b| (&b.0, b.1 == own).cmp(&(&a.0, a.1 == own)));
    of_pod.into_iter().skip(keep as usize).map(|(_, name)| name).filter(|name| *name != own).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn checkpoint(name: &str, pod: &str, second: u32, keep: Option<u32>) -> PodCheckpoint {
        let mut object: PodCheckpoint = serde_json::from_value(json!({
            "apiVersion": "godwit.dev/v1alpha1", "kind": "PodCheckpoint", "metadata": {"name": name}, "spec": {"podName": pod},
            "status": {"phase": "Complete", "completionTime": format!("2026-01-01T00:00:{second:02}Z")}}))
        .unwrap();
        object.spec.keep = keep;
        object
    }

    #[test]
    fn only_the_newest_of_the_same_pod_stay() {
        let all = [checkpoint("a", "web", 1, None), checkpoint("b", "web", 2, None), checkpoint("x", "db", 0, None), checkpoint("c", "web", 2, Some(2))];
        assert_eq!(superfluous(&all[3], &all), ["a"]);
        assert_eq!(superfluous(&checkpoint("c", "web", 2, Some(1)), &all), ["b", "a"]);
        assert_eq!(superfluous(&checkpoint("c", "web", 2, None), &all), Vec::<String>::new());
        let mut going = all.to_vec();
        going[0].status.as_mut().unwrap().phase = CheckpointPhase::Working;
        assert_eq!(superfluous(&going[3], &going), Vec::<String>::new());
    }

    #[test]
    fn what_is_complete_stays_what_failed_goes() {
        let mut one = checkpoint("a", "web", 1, None);
        assert_eq!(stay(&one), None);
        one.status.as_mut().unwrap().phase = CheckpointPhase::Failed;
        assert_eq!(stay(&one), Some(FAILED));
        one.spec.ttl_seconds = Some(5);
        assert_eq!(stay(&one), Some(Duration::from_secs(5)));
    }
}
