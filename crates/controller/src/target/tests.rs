//! Golden target pods: what a user would get, in full.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;
use crate::owner::Owner;

/// A pod as the API server returns it: defaults filled in, admission and scheduler done.
fn running() -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "web-0", "namespace": "shop", "uid": "5d0c6a4e", "resourceVersion": "812",
            "labels": {"app": "web", "tier": "front"},
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
                "cni.projectcalico.org/podIP": "10.1.0.7/32",
                "example.com/team": "blue",
            },
            "finalizers": ["example.com/watch"],
        },
        "spec": {
            "nodeName": "node-a", "hostname": null, "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
            "priorityClassName": "standard", "serviceAccountName": "default", "restartPolicy": "Always",
            "containers": [{
                "name": "web", "image": "example.com/web:1",
                "livenessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 5, "failureThreshold": 3},
                "startupProbe": {"exec": {"command": ["true"]}, "periodSeconds": 7, "failureThreshold": 2},
                "readinessProbe": {"httpGet": {"path": "/", "port": 80}},
                "volumeMounts": [{"name": "kube-api-access-x2x7k", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}],
            }],
            "ephemeralContainers": [{"name": "debug", "image": "example.com/tools"}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "volumes": [{"name": "kube-api-access-x2x7k", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
        },
        "status": {"phase": "Running", "podIP": "10.1.0.7"},
    }))
    .unwrap()
}

fn order<'a>(name: &'a str, nodes: &'a [String], adoption: Option<&'a Adoption>) -> Order<'a> {
    Order { name, migration: "web-0-x7k2p", migration_uid: "9f1e22aa", nodes, adoption, source_label: None, deadline: 120, import: false }
}

#[test]
fn a_bare_pod_keeps_its_labels() {
    let nodes = ["node-b".to_owned()];
    insta::assert_yaml_snapshot!(pod(&running(), &order("web-0-m1", &nodes, None)));
}

#[test]
fn a_pod_of_a_replica_set_waits_without_its_selector() {
    let mut source = running();
    source.metadata.labels.as_mut().unwrap().insert("pod-template-hash".into(), "6c9f".into());
    source.metadata.owner_references = Some(
        serde_json::from_value(json!([
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6c9f", "uid": "77", "controller": true, "blockOwnerDeletion": true},
        ]))
        .unwrap(),
    );
    let set = serde_json::from_value(json!({
        "metadata": {"name": "web-6c9f"},
        "spec": {"selector": {"matchLabels": {"app": "web", "pod-template-hash": "6c9f"}}},
    }))
    .unwrap();
    let Owner::ReplicaSet(owner) = Owner::of(&source) else { panic!("a ReplicaSet owns it") };
    let adoption = crate::owner::adoption(&source, &set, owner);
    let nodes = ["node-b".to_owned(), "node-c".to_owned()];
    let target = pod(&source, &order("web-0-m1", &nodes, Some(&adoption)));
    assert_eq!(crate::owner::kept(&target), Some(adoption));
    insta::assert_yaml_snapshot!(target.metadata);
}

#[test]
fn a_second_move_adds_nothing() {
    let (b, a) = (["node-b".to_owned()], ["node-a".to_owned()]);
    let mut first = pod(&running(), &order("web-0-m1", &b, None));
    first.metadata.uid = Some("aa01".into());
    let second = pod(&first, &order("web-0-m2", &a, None));
    let third = pod(&second, &order("web-0-m2", &a, None));
    assert_eq!(second.spec, third.spec);
    assert_eq!(second.spec.unwrap().hostname.as_deref(), Some("web-0"));
    let labels: BTreeMap<_, _> = second.metadata.labels.unwrap();
    assert_eq!(labels.len(), 3);
}

#[test]
fn a_pod_moved_by_the_other_manifest_says_so() {
    let nodes = ["node-b".to_owned()];
    let target = pod(&running(), &Order { source_label: Some("web-0"), ..order("web-0-m1", &nodes, None) });
    assert_eq!(target.metadata.labels.unwrap()["migration.source-pod"], "web-0");
}

#[test]
fn a_copy_has_no_owner_and_nothing_of_its_owner() {
    let nodes = ["node-a".to_owned(), "node-b".to_owned()];
    let order = Copy { name: "web-0-r1", restore: "first-x", restore_uid: "31aa", nodes: &nodes, import: false };
    let bare = serde_json::to_value(copy(&running(), &order)).unwrap();
    assert_eq!(bare["metadata"]["labels"], json!({"app": "web", "tier": "front", "godwit.dev/restore-name": "first-x"}));
    assert_eq!(bare["metadata"]["annotations"], json!({"example.com/team": "blue", "godwit.dev/migration": "31aa", "godwit.dev/source-uid": "31aa"}));
    assert_eq!((&bare["spec"]["runtimeClassName"], &bare["spec"]["hostname"]), (&json!("godwit"), &json!("web-0")));
    let mut source = running();
    source.metadata.owner_references =
        Some(serde_json::from_value(json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "77", "controller": true}])).unwrap());
    let owned = serde_json::to_value(copy(&source, &order)).unwrap();
    assert_eq!(owned["metadata"]["labels"], json!({"godwit.dev/restore-name": "first-x"}));
    assert!(owned["metadata"]["ownerReferences"].is_null());
    // Moved later, it is a target like any other.
    let moved: Pod = serde_json::from_value(bare).unwrap();
    let target = pod(&moved, &self::order("web-0-r1-m1", &nodes[..1], None));
    assert!(!target.metadata.labels.unwrap().contains_key(names::LABEL_RESTORE));
}
