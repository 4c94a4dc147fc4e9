//! What cannot move yet is named in the plan, with process and file descriptor or volume, and the pod is left alone.

use anyhow::{Context, Result, ensure};
use godwit_demo::objects::{Pod, container, python};
use godwit_demo::pods;
use godwit_demo::shell::wait_until;
use godwit_e2e::case::MINUTE;
use godwit_e2e::{Case, Scenario};
use serde_json::{Value, json};

use crate::refusals::explained;

pub const SCENARIO: Scenario = Scenario::new("blockers", "What cannot move is named, process and descriptor too.", run);

const PROGRAM: &str = include_str!("programs/unmovable.py");
/// A shell that does nothing and goes when it is told to.
const IDLE: [&str; 3] = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done"];

/// A pod, and the words of which one must be in the refusal.
type Blocked = (&'static str, Pod, &'static [&'static str]);

fn run(case: &Case) -> Result<()> {
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "configuration"}, "data": {"file": "content"}});
    case.apply(&[config])?;
    let blocked: Vec<Blocked> = specs().into_iter().chain(processes()).collect();
    let objects: Vec<Value> = blocked.iter().map(|(_, pod, _)| pod.clone().on(&case.pair.a).class(case.class).object()).collect();
    case.apply(&objects)?;
    case.apply(&owned(&case.pair.a))?;
    for (name, _, words) in &blocked {
        if starts(case, name)? {
            refused(case, name, words)?;
        } else {
            case.note(format!("not tried: {name}, for which this machine lacks CAP_SYS_RESOURCE"));
        }
    }
    for (kind, app) in [("StatefulSet", "set"), ("Job", "job"), ("DaemonSet", "daemon")] {
        let pod = wait_until(&format!("a pod of the {kind}"), MINUTE, || {
            let all = pods::all(&case.lab, &case.namespace)?;
            Ok(all.into_iter().find(|pod| pod["metadata"]["labels"]["app"] == app && pods::is_ready(pod)))
        })?;
        refused(case, pods::name(&pod), &[kind])?;
    }
    Ok(())
}

/// Whether a pod runs; false if its sandbox cannot be made because this machine's root may not lower `oom_score_adj`.
fn starts(case: &Case, name: &str) -> Result<bool> {
    wait_until(&format!("pod {name} ready"), MINUTE, || {
        if pods::is_ready(&case.pod(name)?) {
            return Ok(Some(true));
        }
        let events = case.lab.kubectl(&["events", "-n", &case.namespace, "--for", &format!("pod/{name}")])?;
        Ok(events.contains("oom_score_adj: Permission denied").then_some(false))
    })
}

fn refused(case: &Case, name: &str, words: &[&str]) -> Result<()> {
    let before = case.pod(name)?;
    let target = case.pair.other(pods::node(&before)).to_owned();
    let check = || {
        let moved = case.migrate(name, &target)?.refused("")?;
        let text = moved.text();
        ensure!(words.iter().all(|word| text.contains(word)), "not all of {words:?} are named in:\n{text}");
        explained(moved)
    };
    check().with_context(|| format!("pod {name}"))?;
    let after = case.pod(name)?;
    ensure!(pods::is_ready(&after) && pods::marks(&after) == pods::marks(&before), "{name} was not left alone");
    Ok(())
}

/// In the pod's object.
fn specs() -> Vec<Blocked> {
    let idle = |name: &str| Pod::new(name, [container("main", &IDLE)]);
    let sidecar = {
        let mut sidecar = container("helper", &IDLE);
        sidecar["restartPolicy"] = json!("Always");
        idle("sidecar").with("initContainers", json!([sidecar]))
    };
    let host_path = idle("host-path")
        .with("volumes", json!([{"name": "logs", "hostPath": {"path": "/var/log"}}]))
        .first("volumeMounts", json!([{"name": "logs", "mountPath": "/logs", "readOnly": true}]));
    vec![
        ("terminal", idle("terminal").first("tty", json!(true)), &["Terminal", "main"]),
        ("host-path", host_path, &["HostPath", "logs"]),
        ("shared-pids", idle("shared-pids").with("shareProcessNamespace", json!(true)), &["SharedPidNamespace"]),
        ("host-network", idle("host-network").with("hostNetwork", json!(true)), &["HostNetwork"]),
        ("sidecar", sidecar, &["SidecarContainer", "helper"]),
    ]
}

/// In a process: what holds it is named.
fn processes() -> Vec<Blocked> {
    let program = |name: &str, what: &str| Pod::new(name, [python("main", PROGRAM, &[what])]);
    let file = program("config-map", "config-map")
        .with("volumes", json!([{"name": "configuration", "configMap": {"name": "configuration"}}]))
        .first("volumeMounts", json!([{"name": "configuration", "mountPath": "/configuration"}]));
    vec![
        ("inotify", program("inotify", "inotify"), &["inotify", "python3"]),
        ("io-uring", program("io-uring", "io_uring"), &["io_uring", "python3"]),
        ("packet-pipe", program("packet-pipe", "packet-pipe"), &["pipe", "python3"]),
        ("message-queue", program("message-queue", "message-queue"), &["unmovable", "python3"]),
        ("config-map", file, &["/configuration", "python3"]),
    ]
}

/// Pods with other owners than ReplicaSets, all on one node: other scenarios count what is on theirs.
fn owned(node: &str) -> Vec<Value> {
    let template = |app: &str, restart: &str| {
        let mut pod = Pod::new(app, [container("main", &IDLE)]).on(node).with("restartPolicy", json!(restart)).object();
        json!({"metadata": {"labels": {"app": app}}, "spec": pod["spec"].take()})
    };
    let selector = |app: &str| json!({"matchLabels": {"app": app}});
    let apps = "apps/v1";
    vec![
        json!({"apiVersion": apps, "kind": "StatefulSet", "metadata": {"name": "set"},
               "spec": {"serviceName": "set", "replicas": 1, "selector": selector("set"), "template": template("set", "Always")}}),
        json!({"apiVersion": apps, "kind": "DaemonSet", "metadata": {"name": "daemon"},
               "spec": {"selector": selector("daemon"), "template": template("daemon", "Always")}}),
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": {"template": template("job", "Never")}}),
    ]
}
