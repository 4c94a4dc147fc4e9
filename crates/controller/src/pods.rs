//! What a pod's status says, as far as a migration asks.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use godwit_api::migration::Failure;

use crate::failure;

/// Reasons of a waiting container that do not pass by themselves within a migration's time.
const HOPELESS: [&str; 5] = ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"];

/// Whether the source pod is in a state to be moved; `uid` is the one that the migration began with.
///
/// # Errors
/// Why not.
pub fn check_source(pod: Option<&Pod>, namespace: &str, name: &str, uid: Option<&str>) -> Result<(), Failure> {
    let Some(pod) = pod else {
        return Err(if uid.is_some() { failure::pod_deleted(name) } else { failure::pod_not_found(namespace, name) });
    };
    if uid.is_some_and(|uid| pod.uid().as_deref() != Some(uid)) || (uid.is_some() && pod.metadata.deletion_timestamp.is_some()) {
        return Err(failure::pod_deleted(name));
    }
    let phase = phase(pod);
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(failure::pod_not_running(name, "being deleted"));
    }
    if phase != "Running" {
        return Err(failure::pod_not_running(name, phase));
    }
    match containers(pod).iter().find(|status| status.state.as_ref().is_none_or(|state| state.running.is_none())) {
        Some(status) => Err(failure::pod_not_running(name, &format!("Running, but its container {} is not", status.name))),
        None => Ok(()),
    }
}

/// `status.phase`.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown")
}

/// Statuses of the ordinary containers.
#[must_use]
pub fn containers(pod: &Pod) -> &[ContainerStatus] {
    pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default()
}

/// The node that the scheduler chose.
#[must_use]
pub fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|node| !node.is_empty())
}

/// A condition is true.
#[must_use]
pub fn is(pod: &Pod, condition: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|one| one.type_ == condition && one.status == "True")
}

/// Whether a condition of the pod has been true for so long.
#[must_use]
pub fn has_been(pod: &Pod, condition: &str, long: Duration) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let since = conditions.iter().find(|one| one.type_ == condition && one.status == "True").and_then(|one| one.last_transition_time.as_ref());
    since.is_some_and(|since| Timestamp::now().duration_since(since.0).unsigned_abs() >= long)
}

/// Whether it runs no more and never will: what it was has ended, or it was evicted.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Failed" | "Succeeded")
}

/// What the scheduler says when it finds no place. A pod for which it makes room by preemption has a place, as soon as that is free.
#[must_use]
pub fn unschedulable(pod: &Pod) -> Option<Failure> {
    let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    if nominated.is_some_and(|node| !node.is_empty()) {
        return None;
    }
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let no = conditions.iter().find(|one| one.type_ == "PodScheduled" && one.status == "False" && one.reason.as_deref() == Some("Unschedulable"))?;
    Some(failure::node_full(no.message.as_deref().unwrap_or("no reason given")))
}

/// Why the target pod will not start, if that is certain.
#[must_use]
pub fn hopeless(pod: &Pod) -> Option<Failure> {
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(failure::target_gone(&name, "was deleted by somebody else"));
    }
    if has_ended(pod) {
        let status = pod.status.as_ref();
        let why = status.and_then(|status| status.message.as_deref().or(status.reason.as_deref())).unwrap_or("no reason given");
        return Some(failure::target_cannot_start(&name, why));
    }
    let init = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    init.iter().chain(containers(pod)).find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        let message = waiting.message.as_deref().unwrap_or_default();
        HOPELESS.contains(&reason).then(|| failure::target_cannot_start(&name, &format!("container {}: {reason} {message}", status.name)))
    })
}

/// What each container of the target waits for, in the kubelet's words; for the message when time runs out.
#[must_use]
pub fn waiting(pod: &Pod) -> Option<String> {
    containers(pod).iter().find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        Some(format!("container {} waits: {} {}", status.name, waiting.reason.as_deref().unwrap_or("?"), waiting.message.as_deref().unwrap_or("")))
    })
}

/// Whether both pods run the same images, as the runtimes name them.
#[derive(Clone, Debug, PartialEq)]
pub enum Images {
    /// All the same, or named in ways that cannot be compared (two kinds of runtime).
    Same,
    /// The target has not reported all of them.
    Unknown,
    /// A container differs.
    Differ(Failure),
}

/// Compares the images of two pods.
#[must_use]
pub fn images(source: &Pod, target: &Pod) -> Images {
    for before in containers(source) {
        let Some(after) = containers(target).iter().find(|status| status.name == before.name && !status.image_id.is_empty()) else {
            return Images::Unknown;
        };
        let (Some(a), Some(b)) = (digest(&before.image_id), digest(&after.image_id)) else { continue };
        let alike = (before.image_id.contains('@'), after.image_id.contains('@'));
        if alike.0 == alike.1 && a != b {
            return Images::Differ(failure::image_differs(&before.name, &before.image_id, &after.image_id));
        }
    }
    Images::Same
}

/// The digest at the end of an image id: `name@sha256:…`, `sha256:…` or bare hexadecimal digits.
fn digest(id: &str) -> Option<&str> {
    let last = id.rsplit(['@', ':']).next()?;
    (last.len() == 64 && last.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn running(uid: &str) -> Pod {
        pod(json!({"metadata": {"name": "web-0", "uid": uid}, "status": {"phase": "Running", "containerStatuses": [
            {"name": "web", "image": "x", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]}}))
    }

    fn reason(result: Result<(), Failure>) -> String {
        result.err().map(|failure| failure.reason).unwrap_or_default()
    }

    #[test]
    fn only_a_running_pod_moves() {
        assert_eq!(reason(check_source(Some(&running("1")), "ns", "web-0", None)), "");
        assert_eq!(reason(check_source(None, "ns", "web-0", None)), "PodNotFound");
        assert_eq!(reason(check_source(None, "ns", "web-0", Some("1"))), "PodDeleted");
        assert_eq!(reason(check_source(Some(&running("2")), "ns", "web-0", Some("1"))), "PodDeleted");
        let pending = pod(json!({"metadata": {"name": "web-0"}, "status": {"phase": "Pending"}}));
        assert_eq!(reason(check_source(Some(&pending), "ns", "web-0", None)), "PodNotRunning");
        let mut crashed = running("1");
        crashed.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].state = None;
        assert_eq!(reason(check_source(Some(&crashed), "ns", "web-0", None)), "PodNotRunning");
    }

    #[test]
    fn the_scheduler_is_quoted() {
        let full = pod(json!({"metadata": {"name": "t"}, "status": {"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available: 1 Insufficient memory."}]}}));
        let failure = unschedulable(&full).unwrap();
        assert_eq!(failure.reason, "NodeFull");
        assert!(failure.message.contains("Insufficient memory"));
        assert_eq!(unschedulable(&running("1")), None);
    }

    #[test]
    fn a_pod_for_which_others_are_preempted_has_a_place() {
        let mut full = pod(json!({"metadata": {"name": "t"}, "status": {"nominatedNodeName": "node-b", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "preemption is under way"}]}}));
        assert_eq!(unschedulable(&full), None);
        full.status.as_mut().unwrap().nominated_node_name = Some(String::new());
        assert_eq!(unschedulable(&full).unwrap().reason, "NodeFull");
    }

    #[test]
    fn an_evicted_pod_has_ended_one_that_is_deleted_has_not_yet() {
        let phase = |phase: &str| pod(json!({"metadata": {"name": "t", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": phase}}));
        assert_eq!(["Pending", "Running", "Unknown", "Failed", "Succeeded"].map(|name| has_ended(&phase(name))), [false, false, false, true, true]);
    }

    #[test]
    fn an_image_that_cannot_be_had_is_hopeless_a_create_that_is_retried_is_not() {
        let waiting = |reason: &str| {
            pod(json!({"metadata": {"name": "t"}, "status": {"phase": "Pending", "containerStatuses": [
                {"name": "web", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}}]}}))
        };
        assert_eq!(hopeless(&waiting("ImagePullBackOff")).unwrap().reason, "TargetCannotStart");
        assert_eq!(hopeless(&waiting("CreateContainerError")), None);
        assert_eq!(hopeless(&waiting("ContainerCreating")), None);
    }

    #[test]
    fn images_are_compared_by_digest() {
        let with = |id: &str| {
            let mut pod = running("1");
            pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].image_id = id.into();
            pod
        };
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let named = |digest: &str| with(&format!("docker.io/library/redis@sha256:{digest}"));
        assert_eq!(images(&named(&a), &with("")), Images::Unknown);
        assert_eq!(images(&named(&a), &named(&a)), Images::Same);
        assert!(matches!(images(&named(&a), &named(&b)), Images::Differ(_)));
        assert_eq!(images(&named(&a), &with(&format!("sha256:{b}"))), Images::Same);
        assert!(matches!(images(&with(&format!("sha256:{a}")), &with(&format!("sha256:{b}"))), Images::Differ(_)));
    }
}
