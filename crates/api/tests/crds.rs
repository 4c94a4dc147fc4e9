//! The chart carries exactly the definitions that the types make, and their rules say what they should.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::Path;

use serde_json::Value;

fn schema(name: &str) -> Value {
    let crds = godwit_api::crds();
    let crd = crds.iter().find(|crd| crd.metadata.name.as_deref() == Some(name)).unwrap();
    serde_json::to_value(crd).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take()
}

#[test]
fn the_chart_carries_them() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/chart/godwit/crds");
    let mut expected = Vec::new();
    for crd in godwit_api::crds() {
        let name = format!("{}.yaml", crd.metadata.name.clone().unwrap());
        let there = fs::read_to_string(directory.join(&name)).unwrap_or_default();
        assert!(
            there == serde_saphyr::to_string(&crd).unwrap(),
            "{name} is not what the types make: cargo run -p godwit-api --example crds -- deploy/chart/godwit/crds"
        );
        expected.push(name);
    }
    let mut found: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn the_chart_carries_the_one_behind_a_value() {
    let there = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/chart/godwit/files/podmigrations.lpm.my.domain.yaml"));
    let crd = godwit_api::lpm_crd();
    assert!(
        there.unwrap_or_default() == serde_saphyr::to_string(&crd).unwrap(),
        "it is not what the types make: cargo run -p godwit-api --example crds -- deploy/chart/godwit/crds"
    );
    let crd = serde_json::to_value(&crd).unwrap();
    assert_eq!(crd["spec"]["names"]["kind"], "PodMigration");
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    assert_eq!(schema["spec"]["required"], serde_json::json!(["podName"]));
    assert_eq!(schema["spec"]["x-kubernetes-validations"][0]["rule"], "self == oldSelf");
    assert!(schema["spec"]["properties"]["podName"]["x-kubernetes-validations"].is_array());
    assert!(!serde_json::to_string(&crd).unwrap().contains("uint"), "the API server knows no unsigned formats");
}

#[test]
fn the_yaml_means_the_same() {
    for crd in godwit_api::crds().into_iter().chain([godwit_api::lpm_crd()]) {
        let yaml = serde_saphyr::to_string(&crd).unwrap();
        let back: Value = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(back, serde_json::to_value(&crd).unwrap());
    }
}

#[test]
fn rules_are_there() {
    let migration = schema("podmigrations.godwit.dev");
    let spec = &migration["properties"]["spec"];
    assert_eq!(spec["required"], serde_json::json!(["podName"]));
    assert_eq!(spec["x-kubernetes-validations"].as_array().unwrap().len(), 17);
    assert_eq!(spec["properties"]["podName"]["maxLength"], 253);
    assert!(spec["properties"]["podName"]["x-kubernetes-validations"].is_array());
    assert!(spec["properties"]["targetNode"]["x-kubernetes-validations"].is_array());
    let checkpoint = &schema("podcheckpoints.godwit.dev")["properties"];
    assert_eq!(checkpoint["spec"]["required"], serde_json::json!(["podName"]));
    assert_eq!(checkpoint["spec"]["x-kubernetes-validations"].as_array().unwrap().len(), 5);
    let encryption = &checkpoint["spec"]["properties"]["encryption"];
    assert_eq!((&encryption["required"], &encryption["properties"]["key"]["default"]), (&serde_json::json!(["secretName"]), &serde_json::json!("key")));
    assert!(encryption["properties"]["secretName"]["x-kubernetes-validations"].is_array());
    let store = checkpoint["spec"]["properties"]["store"]["x-kubernetes-validations"][0]["rule"].as_str().unwrap();
    assert!(store.starts_with("self == 'shared://' || self.matches('^oci://"), "{store}");
    assert!(checkpoint["spec"]["properties"]["credentials"]["properties"]["secretName"]["x-kubernetes-validations"].is_array());
    assert_eq!(checkpoint["status"]["properties"]["pod"]["x-kubernetes-preserve-unknown-fields"], true);
    let restore = schema("podrestores.godwit.dev");
    assert_eq!(restore["properties"]["spec"]["x-kubernetes-validations"][0]["rule"], "self == oldSelf");
    let handover = schema("handovers.godwit.dev");
    assert_eq!(handover["properties"]["spec"]["x-kubernetes-validations"][0]["rule"], "self == oldSelf");
    assert_eq!(handover["properties"]["status"]["x-kubernetes-validations"][0]["optionalOldSelf"], true);
}
