//! Who owns a pod, and what that means for moving it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

/// Annotation on a target pod: what it gets when its owner is to take it over, as JSON of [`Adoption`].
pub const ANNOTATION_ADOPTION: &str = "godwit.dev/adoption";

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
    /// The labels that the selector looks at.
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

/// The labels of `pod` that the selector of `set` mentions.
#[must_use]
pub fn adoption(pod: &Pod, set: &ReplicaSet, owner: OwnerReference) -> Adoption {
    let selector = &set.spec.selector;
    let exact = selector.match_labels.iter().flat_map(BTreeMap::keys);
    let expressions = selector.match_expressions.iter().flatten().map(|expression| &expression.key);
    let labels = exact.chain(expressions).filter_map(|key| pod.labels().get(key).map(|value| (key.clone(), value.clone()))).collect();
    Adoption { labels, owner }
}

/// What a target pod is to get when its owner takes it over.
#[must_use]
pub fn kept(target: &Pod) -> Option<Adoption> {
    target.annotations().get(ANNOTATION_ADOPTION).and_then(|text| serde_json::from_str(text).ok())
}
