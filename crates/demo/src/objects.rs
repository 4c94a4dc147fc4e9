//! Kubernetes objects, written as briefly as a test reads.

use serde_json::{Value, json};

/// The lab's workload image: Debian with Redis, Python and network tools.
pub const IMAGE: &str = "localhost/godwit-lab/app:1";

/// A container that runs a command in the workload image.
#[must_use]
pub fn container(name: &str, command: &[&str]) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": command})
}

/// A container that runs a Python program; its text is part of the command line, so that no volume is needed.
#[must_use]
pub fn python(name: &str, program: &str, arguments: &[&str]) -> Value {
    let mut command = vec!["python3", "-c", program];
    command.extend(arguments);
    container(name, &command)
}

/// A bare pod.
#[derive(Debug, Clone)]
pub struct Pod(Value);

impl Pod {
    /// A pod of these containers. Its label `app` is its name; it is given one second to end.
    #[must_use]
    pub fn new(name: &str, containers: impl IntoIterator<Item = Value>) -> Self {
        Self(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "enableServiceLinks": false,
                "containers": containers.into_iter().collect::<Vec<_>>(),
            },
        }))
    }

    /// On this node.
    #[must_use]
    pub fn on(self, node: &str) -> Self {
        self.with("nodeName", json!(node))
    }

    /// Run by this RuntimeClass; by the node's default runtime without.
    #[must_use]
    pub fn class(self, class: Option<&str>) -> Self {
        match class {
            Some(class) => self.with("runtimeClassName", json!(class)),
            None => self,
        }
    }

    /// A field of the spec.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.0["spec"][field] = value;
        self
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.0["metadata"]["annotations"][name] = json!(value);
        self
    }

    /// A field of the first container.
    #[must_use]
    pub fn first(mut self, field: &str, value: Value) -> Self {
        self.0["spec"]["containers"][0][field] = value;
        self
    }

    /// The object.
    #[must_use]
    pub fn object(self) -> Value {
        self.0
    }
}

/// A Service for the pods with label `app` = `name`.
#[must_use]
pub fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": port}]},
    })
}

/// A Deployment of `replicas` pods of this kind, on `node` as long as there is room.
#[must_use]
pub fn deployment(pod: Pod, replicas: u32, node: &str) -> Value {
    let mut template = pod.object();
    let name = template["metadata"]["name"].take();
    let (metadata, mut spec) = (json!({"labels": {"app": name}}), template["spec"].take());
    spec["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}},
    ]}});
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": metadata, "spec": spec},
        },
    })
}
