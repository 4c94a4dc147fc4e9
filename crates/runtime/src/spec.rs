//! The part of an OCI bundle's `config.json` (runtime-spec 1.2) that the wrapper reads.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use crate::error::Error;

/// Annotation on a target pod: UID of the `PodMigration` (`godwit_api::names::ANNOTATION_MIGRATION`).
pub const MIGRATION: &str = "godwit.dev/migration";
/// Annotation on a target pod: UID of the source pod (`godwit_api::names::ANNOTATION_SOURCE_UID`).
pub const SOURCE_UID: &str = "godwit.dev/source-uid";

/// Annotations under which CRI-O and containerd say the same, CRI-O's first.
const TYPE: [&str; 2] = ["io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri.container-type"];
const POD_UID: [&str; 2] = ["io.kubernetes.pod.uid", "io.kubernetes.cri.sandbox-uid"];
const CONTAINER_NAME: [&str; 2] = ["io.kubernetes.container.name", "io.kubernetes.cri.container-name"];

/// A bundle's configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// Version of the runtime specification.
    #[serde(rename = "ociVersion")]
    pub version: String,
    /// The pod's annotations, and those of the container runtime.
    pub annotations: BTreeMap<String, String>,
    /// The process.
    pub process: Process,
    /// The root file system.
    pub root: Root,
    /// The Linux part.
    pub linux: Linux,
}

/// `process`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// `root`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Absolute or relative to the bundle.
    pub path: String,
}

/// `linux`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Linux {
    /// The cgroup: a path, or `slice:prefix:name` with systemd.
    #[serde(rename = "cgroupsPath")]
    pub cgroups_path: String,
    /// Namespaces.
    pub namespaces: Vec<Namespace>,
}

/// One of `linux.namespaces`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// `network`, `ipc`, `uts`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The file of an existing namespace; empty: a new one.
    pub path: String,
}

impl Spec {
    /// Reads a bundle.
    ///
    /// # Errors
    /// When the file is missing or no OCI configuration.
    pub fn load(bundle: &Path) -> Result<Self, Error> {
        let path = bundle.join("config.json");
        let text = fs::read(&path).map_err(Error::file("cannot read", &path))?;
        serde_json::from_slice(&text).map_err(|error| Error::file("cannot understand", &path)(error.into()))
    }

    /// The migration that brings this container, if its pod names one and it is not the pod's sandbox.
    #[must_use]
    pub fn migration(&self) -> Option<&str> {
        (self.first(TYPE)? == "container").then(|| self.annotations.get(MIGRATION).map(String::as_str)).flatten().filter(|uid| !uid.is_empty())
    }

    /// UID of the pod.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&str> {
        self.first(POD_UID)
    }

    /// Whether the container gets a new cgroup namespace.
    #[must_use]
    pub fn new_cgroup_namespace(&self) -> bool {
        self.linux.namespaces.iter().any(|namespace| namespace.kind == "cgroup" && namespace.path.is_empty())
    }

    /// Name of the container in its pod.
    #[must_use]
    pub fn container_name(&self) -> Option<&str> {
        self.first(CONTAINER_NAME)
    }

    /// UID of the source pod.
    #[must_use]
    pub fn source_uid(&self) -> Option<&str> {
        self.annotations.get(SOURCE_UID).map(String::as_str)
    }

    /// The first of these annotations that is there.
    fn first(&self, names: [&str; 2]) -> Option<&str> {
        names.iter().find_map(|name| self.annotations.get(*name)).map(String::as_str).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(annotations: &str) -> Spec {
        serde_json::from_str(&format!("{{\"ociVersion\":\"1.2.0\",\"annotations\":{annotations}}}")).unwrap()
    }

    #[test]
    fn names_are_those_of_the_api() {
        let names = include_str!("../../api/src/names.rs");
        for (constant, value) in [("ANNOTATION_MIGRATION", MIGRATION), ("ANNOTATION_SOURCE_UID", SOURCE_UID)] {
            assert!(names.contains(&format!("{constant}: &str = \"{value}\";")), "{constant}");
        }
    }

    #[test]
    fn crio_and_containerd() {
        let crio = spec(
            r#"{"io.kubernetes.cri-o.ContainerType":"container","io.kubernetes.pod.uid":"u","io.kubernetes.container.name":"c","godwit.dev/migration":"m"}"#,
        );
        assert_eq!((crio.migration(), crio.pod_uid(), crio.container_name()), (Some("m"), Some("u"), Some("c")));
        let containerd = spec(
            r#"{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-uid":"u","io.kubernetes.cri.container-name":"c","godwit.dev/migration":"m"}"#,
        );
        assert_eq!((containerd.migration(), containerd.pod_uid(), containerd.container_name()), (Some("m"), Some("u"), Some("c")));
    }

    #[test]
    fn sandboxes_and_others_are_plain() {
        assert_eq!(spec(r#"{"io.kubernetes.cri.container-type":"sandbox","godwit.dev/migration":"m"}"#).migration(), None);
        assert_eq!(spec(r#"{"io.kubernetes.cri.container-type":"container"}"#).migration(), None);
        assert_eq!(spec(r#"{"godwit.dev/migration":"m"}"#).migration(), None);
        assert_eq!(spec("{}").migration(), None);
    }
}
