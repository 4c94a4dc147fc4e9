//! The target pod, made from the live source pod.
//!
//! ```text
//!   source pod (as it runs)                     target pod
//!     name web-0                          ──▶     web-0-m1
//!     labels                              ──▶     the same; below a ReplicaSet without what its selector needs (of a Deployment's: pod-template-hash), which waits in an annotation
//!     spec as admission and scheduler     ──▶     the same, less what they wrote: node name, priority, overhead, ephemeral containers
//!       left it                                   + runtimeClassName godwit, host name, node affinity, readiness gate, patient probes
//!                                                 (without Godwit's runtime handler: checkpoint images instead of that class, import.rs)
//! ```

mod affinity;
pub mod import;
mod probes;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodReadinessGate, PodSpec};
use kube::ResourceExt;
use kube::api::ObjectMeta;

use godwit_api::{lpm, names};

use crate::naming;
use crate::owner::{ANNOTATION_ADOPTION, Adoption};

/// Prefixes of annotations that say something about the source pod's life and not about its work.
const NOT_COPIED: [&str; 8] = [
    "godwit.dev/",
    "kubectl.kubernetes.io/last-applied-configuration",
    "kubectl.kubernetes.io/restartedAt",
    "controller.kubernetes.io/pod-deletion-cost",
    "kubernetes.io/config.",
    "cni.projectcalico.org/",
    "k8s.v1.cni.cncf.io/network-status",
    "k8s.ovn.org/",
];

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// Name of the target pod.
    pub name: &'a str,
    /// The `PodMigration`.
    pub migration: &'a str,
    /// Its UID.
    pub migration_uid: &'a str,
    /// Nodes of which the scheduler may take one.
    pub nodes: &'a [String],
    /// What the owner gets at the end, for a pod that has one.
    pub adoption: Option<&'a Adoption>,
    /// What the label of [`lpm`] says, for an order that came by that manifest.
    pub source_label: Option<&'a str>,
    /// Seconds until the switch, at most.
    pub deadline: u32,
    /// The container runtime itself makes the containers.
    pub import: bool,
}

/// What is asked for when a pod is made of a checkpoint.
#[derive(Clone, Debug)]
pub struct Copy<'a> {
    /// Name of the new pod.
    pub name: &'a str,
    /// The `PodRestore`.
    pub restore: &'a str,
    /// Its UID.
    pub restore_uid: &'a str,
    /// Nodes of which the scheduler may take one.
    pub nodes: &'a [String],
    /// The container runtime itself makes the containers.
    pub import: bool,
}

/// The new pod of a checkpoint of `origin`. It has no owner. One whose origin had an owner has no labels of it either: the owner would take it for one too many,
/// and a Service would send it what is meant for another.
#[must_use]
pub fn copy(origin: &Pod, order: &Copy<'_>) -> Pod {
    let moved_before = origin.annotations().contains_key(names::ANNOTATION_MIGRATION);
    let owned = origin.owner_references().iter().any(|owner| owner.controller == Some(true));
    let mut labels = if owned { BTreeMap::new() } else { origin.labels().clone() };
    labels.retain(|key, _| !key.starts_with("godwit.dev/"));
    labels.insert(names::LABEL_RESTORE.into(), label_value(order.restore));
    let mut annotations = copied(origin.annotations());
    annotations.insert(names::ANNOTATION_MIGRATION.into(), order.restore_uid.into());
    annotations.insert(names::ANNOTATION_SOURCE_UID.into(), order.restore_uid.into());
    let metadata = ObjectMeta {
        name: Some(order.name.into()),
        namespace: origin.namespace(),
        labels: Some(labels),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    };
    let spec = origin.spec.clone().map(|spec| self::spec(spec, origin, order.nodes, moved_before, probes::PATIENCE));
    let pod = Pod { metadata, spec, status: None };
    if order.import { without_handler(pod, origin, order.restore_uid) } else { pod }
}

/// The target pod for `source`.
#[must_use]
pub fn pod(source: &Pod, order: &Order<'_>) -> Pod {
    let moved_before = source.annotations().contains_key(names::ANNOTATION_MIGRATION);
    let spec = source.spec.clone().map(|spec| self::spec(spec, source, order.nodes, moved_before, order.deadline));
    let pod = Pod { metadata: metadata(source, order), spec, status: None };
    if order.import { without_handler(pod, source, order.migration_uid) } else { pod }
}

/// The same pod as the container runtime itself is to make it, by the migration or restore of this UID.
fn without_handler(mut pod: Pod, origin: &Pod, uid: &str) -> Pod {
    let Some(spec) = &mut pod.spec else { return pod };
    spec.runtime_class_name = origin.spec.as_ref().and_then(|spec| spec.runtime_class_name.clone()).filter(|class| class != names::RUNTIME_HANDLER);
    let images = import::checkpoints(spec, uid);
    pod.annotations_mut().insert(names::ANNOTATION_IMAGES.into(), serde_json::to_string(&images).unwrap_or_default());
    pod.labels_mut().insert(names::LABEL_IMPORTED.into(), "true".into());
    pod
}

fn metadata(source: &Pod, order: &Order<'_>) -> ObjectMeta {
    let mut labels = source.labels().clone();
    labels.remove(names::LABEL_MIGRATION);
    labels.remove(names::LABEL_RESTORE);
    labels.remove(names::LABEL_IMPORTED);
    if let Some(adoption) = order.adoption {
        labels.retain(|key, _| !adoption.labels.contains_key(key));
    }
    labels.insert(names::LABEL_MIGRATION.into(), label_value(order.migration));
    if let Some(value) = order.source_label {
        labels.insert(lpm::LABEL_SOURCE_POD.into(), value.into());
    }

    let mut annotations = copied(source.annotations());
    annotations.insert(names::ANNOTATION_MIGRATION.into(), order.migration_uid.into());
    annotations.insert(names::ANNOTATION_SOURCE_UID.into(), source.uid().unwrap_or_default());
    if let Some(json) = order.adoption.and_then(|adoption| serde_json::to_string(adoption).ok()) {
        annotations.insert(ANNOTATION_ADOPTION.into(), json);
    }

    let owners: Vec<_> = source.owner_references().iter().filter(|owner| owner.controller != Some(true)).cloned().collect();
    ObjectMeta {
        name: Some(order.name.into()),
        namespace: source.namespace(),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: (!owners.is_empty()).then_some(owners),
        ..ObjectMeta::default()
    }
}

/// Annotations that say something about the work of a pod.
fn copied(annotations: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut annotations = annotations.clone();
    annotations.retain(|key, _| !NOT_COPIED.iter().any(|prefix| key.starts_with(prefix)));
    annotations
}

fn spec(mut spec: PodSpec, source: &Pod, nodes: &[String], moved_before: bool, deadline: u32) -> PodSpec {
    // Written by scheduler and admission; they decide anew.
    spec.node_name = None;
    spec.priority = None;
    spec.preemption_policy = None;
    spec.overhead = None;
    spec.scheduling_gates = None;
    // Debugging guests do not move.
    spec.ephemeral_containers = None;
    import::own(&mut spec, source);

    spec.runtime_class_name = Some(names::RUNTIME_HANDLER.into());
    spec.hostname = naming::hostname(source);
    let gates = spec.readiness_gates.get_or_insert_default();
    if !gates.iter().any(|gate| gate.condition_type == names::CONDITION_LIVE) {
        gates.push(PodReadinessGate { condition_type: names::CONDITION_LIVE.into() });
    }
    spec.affinity = affinity::onto(spec.affinity, nodes, moved_before);
    spec.containers.iter_mut().for_each(|container| probes::make_patient(container, deadline));
    spec
}

/// A label value: at most 63 characters, ending alphanumerically. The full name is found through the annotation's UID.
fn label_value(name: &str) -> String {
    name[..name.len().min(63)].trim_end_matches(['-', '.', '_']).to_owned()
}
