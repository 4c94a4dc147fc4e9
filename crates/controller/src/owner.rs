//! Who owns a pod, and what that means for moving it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

/// Annotation on a target pod: what it gets when its owner is to take it over, as JSON of [`Adoption`].
pub const ANNOTATION_ADOPTION: &str = "godwit.dev/adoption";
/// The label by which the ReplicaSets of a Deployment tell their pods apart. Nobody else selects by it.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// Who controls a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Owner {
    /// Nobody.
    None,
    /// A ReplicaSet, perhaps of a Deployment.
    ReplicaSet(OwnerReference),
    /// Something else.
    Other(OwnerReference),
}

/// What makes a pod one of its ReplicaSet's: kept away from the target until it is Ready (facts 13).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adoption {
    /// The labels that are kept away: without them the selector does not match.
    pub labels: BTreeMap<String, String>,
    /// The controlling reference.
    pub owner: OwnerReference,
}

impl Owner {
    /// Reads it from the pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        match pod.owner_references().iter().find(|owner| owner.controller == Some(true)) {
            None => Self::None,
            Some(owner) if owner.kind == "ReplicaSet" && owner.api_version.starts_with("apps/") => Self::ReplicaSet(owner.clone()),
            Some(owner) => Self::Other(owner.clone()),
        }
    }
}

/// The labels of `pod` without which `set` does not select it: all that its selector mentions, or the one that ReplicaSets of Deployments have for that. The others stay, because network
/// policies and whoever else selects pods go by them.
#[must_use]
pub fn adoption(pod: &Pod, set: &ReplicaSet, owner: OwnerReference) -> Adoption {
    let selector = &set.spec.selector;
    let exact = selector.match_labels.iter().flat_map(BTreeMap::keys);
    let expressions = selector.match_expressions.iter().flatten().map(|expression| &expression.key);
    let mut labels: BTreeMap<String, String> =
        exact.chain(expressions).filter_map(|key| pod.labels().get(key).map(|value| (key.clone(), value.clone()))).collect();
    let by_hash = selector.match_labels.as_ref().is_some_and(|exact| exact.contains_key(TEMPLATE_HASH));
    if by_hash && labels.contains_key(TEMPLATE_HASH) {
        labels.retain(|key, _| key == TEMPLATE_HASH);
    }
    Adoption { labels, owner }
}

/// What a target pod is to get when its owner takes it over. Of one that is being deleted nothing is taken over: the owner replaces its source, as it does with any pod that goes.
#[must_use]
pub fn kept(target: &Pod) -> Option<Adoption> {
    if target.metadata.deletion_timestamp.is_some() {
        return None;
    }
    target.annotations().get(ANNOTATION_ADOPTION).and_then(|text| serde_json::from_str(text).ok())
}

/// Whether `owner` still is what it was when the target was made: `set`, found by its name, is the same one and stays, and it has not let go of the source, if that is there.
/// A reference to an owner that is gone would have the garbage collector delete the pod that has moved.
#[must_use]
pub fn still_owns(owner: &OwnerReference, set: Option<&ReplicaSet>, source: Option<&Pod>) -> bool {
    let stays = set.is_some_and(|set| set.uid().as_deref() == Some(owner.uid.as_str()) && set.metadata.deletion_timestamp.is_none());
    let holds = |pod: &Pod| pod.owner_references().iter().any(|one| one.uid == owner.uid && one.controller == Some(true));
    stays && source.is_none_or(holds)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::{Value, json};

    fn pod(labels: Value) -> Pod {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "77", "controller": true});
        serde_json::from_value(json!({"metadata": {"name": "web-0", "labels": labels, "ownerReferences": [owner]}})).unwrap()
    }

    fn set(selector: Value) -> ReplicaSet {
        serde_json::from_value(json!({"metadata": {"name": "web", "uid": "77"}, "spec": {"selector": selector}})).unwrap()
    }

    fn reference(pod: &Pod) -> OwnerReference {
        pod.owner_references().first().cloned().unwrap()
    }

    fn withheld(pod: &Pod, set: &ReplicaSet) -> Vec<String> {
        adoption(pod, set, reference(pod)).labels.into_keys().collect()
    }

    #[test]
    fn below_a_deployment_one_label_waits_below_another_set_all_that_are_selected_by() {
        let labelled = pod(json!({"app": "web", "tier": "front", "pod-template-hash": "6c9f"}));
        let exact = json!({"matchLabels": {"app": "web", "pod-template-hash": "6c9f"}});
        assert_eq!(withheld(&labelled, &set(exact)), ["pod-template-hash"]);
        let own = json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]});
        assert_eq!(withheld(&labelled, &set(own)), ["app", "tier"]);
        // Only an exact value keeps it away for certain.
        let loose = json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "pod-template-hash", "operator": "NotIn", "values": ["1"]}]});
        assert_eq!(withheld(&labelled, &set(loose)), ["app", "pod-template-hash"]);
    }

    #[test]
    fn what_is_being_deleted_is_not_taken_over() {
        let mut target = pod(json!({}));
        let adoption = Adoption { labels: BTreeMap::new(), owner: reference(&target) };
        target.metadata.annotations = Some([(ANNOTATION_ADOPTION.to_owned(), serde_json::to_string(&adoption).unwrap())].into());
        assert_eq!(kept(&target), Some(adoption));
        target.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(kept(&target), None);
    }

    #[test]
    fn an_owner_that_is_gone_or_has_let_go_takes_nothing_over() {
        let (source, there) = (pod(json!({})), set(json!({})));
        let owner = reference(&source);
        assert!(still_owns(&owner, Some(&there), Some(&source)));
        assert!(still_owns(&owner, Some(&there), None));
        assert!(!still_owns(&owner, None, Some(&source)));
        let mut other = there.clone();
        other.metadata.uid = Some("78".into());
        assert!(!still_owns(&owner, Some(&other), Some(&source)));
        let mut going = there.clone();
        going.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert!(!still_owns(&owner, Some(&going), Some(&source)));
        let mut free = source.clone();
        free.metadata.owner_references = None;
        assert!(!still_owns(&owner, Some(&there), Some(&free)));
    }
}
