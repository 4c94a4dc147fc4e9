//! The parts of an OCI runtime configuration (`config.json` of the runtime specification) that a move needs. What is absent or null is empty.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// An OCI runtime configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spec {
    /// Hostname, when the container sets one.
    pub hostname: String,
    /// `linux.cgroupsPath`: a path, or `slice:prefix:name` for systemd.
    pub cgroups_path: String,
    /// `root.path`; relative to the bundle unless absolute.
    pub root: PathBuf,
    /// `root.readonly`.
    pub readonly_root: bool,
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// The user of the process.
    pub user: User,
    /// Namespaces that the container joins or makes.
    pub namespaces: Vec<Namespace>,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// Paths that are covered.
    pub masked_paths: Vec<PathBuf>,
    /// Paths that cannot be written.
    pub readonly_paths: Vec<PathBuf>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Devices beside the standard ones.
    pub devices: Vec<PathBuf>,
    /// Whether a seccomp filter is set.
    pub seccomp: bool,
    /// All of it.
    pub raw: Value,
}

/// User of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id inside the container.
    pub uid: u32,
    /// Group id inside the container.
    pub gid: u32,
}

/// A namespace of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// `pid`, `network`, `ipc`, `uts`, `mount`, `user`, `cgroup` or `time`.
    pub kind: String,
    /// The one that it joins; it gets a new one without.
    pub path: Option<PathBuf>,
}

/// A mount of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where, in the container.
    pub destination: PathBuf,
    /// What, on the node.
    pub source: PathBuf,
    /// Kind of filesystem; `bind` or empty for binds.
    pub kind: String,
    /// Options.
    pub options: Vec<String>,
}

impl Spec {
    /// The namespace of a kind, if the container has one of its own or joins one. Absent: the node's.
    #[must_use]
    pub fn namespace(&self, kind: &str) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| namespace.kind == kind)
    }

    /// The path of the namespace of a kind that it joins.
    #[must_use]
    pub fn joined(&self, kind: &str) -> Option<&Path> {
        self.namespace(kind)?.path.as_deref()
    }

    /// The source of the last mount at a place.
    #[must_use]
    pub fn source_of(&self, destination: impl AsRef<Path>) -> Option<&Path> {
        self.mounts.iter().rev().find(|mount| mount.destination == destination.as_ref()).map(|mount| mount.source.as_path())
    }
}

impl From<Value> for Spec {
    fn from(raw: Value) -> Self {
        let (process, linux) = (&raw["process"], &raw["linux"]);
        let id = |name: &str| process["user"][name].as_u64().and_then(|id| u32::try_from(id).ok()).unwrap_or_default();
        Self {
            hostname: text(&raw["hostname"]),
            cgroups_path: text(&linux["cgroupsPath"]),
            root: text(&raw["root"]["path"]).into(),
            readonly_root: raw["root"]["readonly"].as_bool().unwrap_or_default(),
            terminal: process["terminal"].as_bool().unwrap_or_default(),
            user: User { uid: id("uid"), gid: id("gid") },
            namespaces: list(&linux["namespaces"], |one| Namespace { kind: text(&one["type"]), path: path(&one["path"]) }),
            mounts: list(&raw["mounts"], |one| Mount {
                destination: text(&one["destination"]).into(),
                source: text(&one["source"]).into(),
                kind: text(&one["type"]),
                options: list(&one["options"], text),
            }),
            masked_paths: list(&linux["maskedPaths"], |one| text(one).into()),
            readonly_paths: list(&linux["readonlyPaths"], |one| text(one).into()),
            annotations: raw["annotations"].as_object().map(|map| map.iter().map(|(name, value)| (name.clone(), text(value))).collect()).unwrap_or_default(),
            devices: list(&linux["devices"], |one| text(&one["path"]).into()),
            seccomp: linux["seccomp"].is_object(),
            raw,
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn path(value: &Value) -> Option<PathBuf> {
    value.as_str().filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn list<T>(value: &Value, each: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().map(|list| list.iter().map(each).collect()).unwrap_or_default()
}
