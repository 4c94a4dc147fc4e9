//! Which OCI runtime made a container, and where its bundle is: from the state that runc and crun keep for every container.
//!
//! ```text
//!   runc   <root>/<id>/state.json   {"init_process_pid": 7, "config": {"labels": ["bundle=/…", …], …}, …}     libcontainer's state
//!   crun   <root>/<id>/status       {"pid": 7, "bundle": "/…", "rootfs": "/…", …}                              src/libcrun/status.c
//! ```
//!
//! The root directory: under containerd the shim's option `root` (default /run/containerd/runc) and the containerd namespace `k8s.io`; under CRI-O what conmon, the parent of the
//! container's init, was started with.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Runtime;
use crate::Host;

/// Where to look, and what holds if nothing is found there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Locations {
    roots: Vec<PathBuf>,
    program: String,
    bundle: PathBuf,
}

/// What was found.
pub(super) struct Made {
    pub runtime: Runtime,
    pub bundle: PathBuf,
    /// The init process as the OCI runtime knows it. In a container that Godwit restored it is another than the one that the container runtime watches (the keeper).
    pub init: Option<i32>,
}

impl Locations {
    pub fn of_containerd(id: &str, options: &Value, handler: &str) -> Self {
        let option = |names: [&str; 2]| names.iter().find_map(|name| options[*name].as_str()).filter(|text| !text.is_empty()).map(str::to_owned);
        let root = option(["root", "Root"]).unwrap_or_else(|| "/run/containerd/runc".into());
        let below = |root: &str| Path::new(root).join("k8s.io");
        let mut roots = vec![below(&root), below("/run/containerd/runc")];
        roots.extend(usual(handler));
        Self {
            roots,
            program: option(["binary_name", "BinaryName"]).unwrap_or_else(|| "runc".into()),
            bundle: Path::new("/run/containerd/io.containerd.runtime.v2.task/k8s.io").join(id),
        }
    }

    pub fn of_crio(id: &str, pid: i32, handler: &str) -> Self {
        let arguments = conmon(pid).unwrap_or_default();
        let after = |flag: &str| arguments.iter().position(|argument| argument == flag).and_then(|at| arguments.get(at + 1)).cloned();
        let root = arguments.iter().find_map(|argument| argument.strip_prefix("--root=")).map(PathBuf::from);
        Self {
            roots: root.into_iter().chain(usual(handler)).collect(),
            program: after("-r").unwrap_or_else(|| handler.to_owned()),
            bundle: after("-b").map_or_else(|| Path::new("/run/containers/storage/overlay-containers").join(id).join("userdata"), PathBuf::from),
        }
    }
}

fn usual(handler: &str) -> Vec<PathBuf> {
    let mut names = vec!["runc", "crun"];
    if !handler.is_empty() && !handler.contains('/') {
        names.push(handler);
    }
    names.into_iter().map(|name| Path::new("/run").join(name)).collect()
}

/// The command line of the parent of `pid`, if that is conmon.
fn conmon(pid: i32) -> Option<Vec<String>> {
    let parent = crate::process::of_pids(&[pid]).first()?.ppid;
    let line = fs::read(crate::process::directory(parent).join("cmdline")).ok()?;
    let arguments: Vec<String> = line.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    Path::new(arguments.first()?).file_name()?.to_str()?.starts_with("conmon").then_some(arguments)
}

/// Looks for the runtime's state.
pub(super) fn find(host: &Host, id: &str, locations: &Locations) -> Made {
    for root in &locations.roots {
        let directory = host.path(root).join(id);
        if let Some(status) = json(&directory.join("status")) {
            let bundle = status["bundle"].as_str().map_or_else(|| locations.bundle.clone(), PathBuf::from);
            return Made { runtime: Runtime::Crun, bundle, init: number(&status["pid"]) };
        }
        if let Some(state) = json(&directory.join("state.json")) {
            let labels = state["config"]["labels"].as_array().cloned().unwrap_or_default();
            let bundle = labels.iter().find_map(|label| label.as_str()?.strip_prefix("bundle=")).map_or_else(|| locations.bundle.clone(), PathBuf::from);
            return Made { runtime: Runtime::Runc, bundle, init: number(&state["init_process_pid"]) };
        }
    }
    Made { runtime: by_name(&locations.program), bundle: locations.bundle.clone(), init: None }
}

fn number(value: &Value) -> Option<i32> {
    value.as_i64().and_then(|number| i32::try_from(number).ok()).filter(|number| *number > 0)
}

fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn by_name(program: &str) -> Runtime {
    match Path::new(program).file_name().and_then(|name| name.to_str()) {
        Some("crun") => Runtime::Crun,
        Some("runc") => Runtime::Runc,
        other => Runtime::Other(other.unwrap_or("unknown").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn runcs_state_names_the_bundle() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("run/godwit-root/k8s.io/c1");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("state.json"), json!({"config": {"labels": ["a=b", "bundle=/b/c1"]}}).to_string()).unwrap();
        let locations = Locations::of_containerd("c1", &json!({"BinaryName": "/opt/godwit", "Root": "/run/godwit-root"}), "godwit");
        let made = find(&Host::at(root.path()), "c1", &locations);
        assert_eq!((made.runtime, made.bundle), (Runtime::Runc, "/b/c1".into()));
        let unknown = find(&Host::at(root.path()), "c2", &locations);
        assert_eq!(unknown.runtime, Runtime::Other("godwit".into()));
    }

    #[test]
    fn without_any_state_the_programs_name_decides() {
        assert_eq!(Locations::of_containerd("c", &Value::Null, "").program, "runc");
        assert_eq!(by_name("/usr/bin/crun"), Runtime::Crun);
    }
}
