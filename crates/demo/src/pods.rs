//! Pods as they are now, and waiting for them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::Lab;
use crate::shell::wait_until;

/// What must not change when a pod is left alone: container ids and restart counts, by container.
pub type Marks = Vec<(String, String, i64)>;

/// Whether a pod runs and all its containers are ready.
#[must_use]
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"));
    pod["status"]["phase"] == "Running" && ready && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Waits until a pod is ready.
///
/// # Errors
/// When it is not within `limit`.
pub fn wait_ready(lab: &Lab, namespace: &str, name: &str, limit: Duration) -> Result<Value> {
    wait_until(&format!("pod {name} ready"), limit, || Ok(lab.find(&["pod", "-n", namespace, name])?.filter(is_ready)))
}

/// Waits until a pod is gone.
///
/// # Errors
/// When it is not within `limit`.
pub fn wait_gone(lab: &Lab, namespace: &str, name: &str, limit: Duration) -> Result<()> {
    wait_until(&format!("pod {name} gone"), limit, || Ok(lab.find(&["pod", "-n", namespace, name])?.is_none().then_some(())))
}

/// All pods of a namespace.
///
/// # Errors
/// When kubectl does not succeed.
pub fn all(lab: &Lab, namespace: &str) -> Result<Vec<Value>> {
    Ok(lab.get(&["pods", "-n", namespace])?["items"].as_array().cloned().unwrap_or_default())
}

/// Name of an object.
#[must_use]
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Node of a pod.
#[must_use]
pub fn node(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

/// Container ids and restart counts.
#[must_use]
pub fn marks(pod: &Value) -> Marks {
    let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    statuses.iter().map(|one| (text(&one["name"]), text(&one["containerID"]), one["restartCount"].as_i64().unwrap_or(-1))).collect()
}

/// Restarts of all containers together.
#[must_use]
pub fn restarts(pod: &Value) -> i64 {
    marks(pod).iter().map(|(_, _, restarts)| restarts).sum()
}

/// Cluster address and port of a Service.
///
/// # Errors
/// When it has none.
pub fn service_address(lab: &Lab, namespace: &str, name: &str) -> Result<SocketAddr> {
    let service = lab.get(&["service", "-n", namespace, name])?;
    let text = format!("{}:{}", service["spec"]["clusterIP"].as_str().unwrap_or_default(), service["spec"]["ports"][0]["port"]);
    text.parse().with_context(|| format!("service {name} has no address: {text}"))
}

/// Everything that helps to understand why a scenario failed.
#[must_use]
pub fn diagnosis(lab: &Lab, namespace: &str) -> String {
    let looks: [&[&str]; 7] = [
        &["get", "podcheckpoints,podrestores", "-n", namespace, "-o", "wide"],
        &["get", "pods", "-n", namespace, "-o", "wide"],
        &["get", "podmigrations,handovers", "-n", namespace, "-o", "wide"],
        &["get", "podmigrations", "-n", namespace, "-o", "jsonpath={range .items[*]}{.metadata.name}{\": \"}{.status}{\"\\n\"}{end}"],
        &["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"],
        &["logs", "-n", crate::install::NAMESPACE, "-l", "app.kubernetes.io/name=godwit-controller", "--tail=25", "--prefix"],
        &["logs", "-n", crate::install::NAMESPACE, "-l", "app.kubernetes.io/name=godwit-agent", "--tail=25", "--prefix"],
    ];
    let mut text = String::new();
    for look in looks {
        text.push_str(&format!("--- kubectl {}\n", look.join(" ")));
        text.push_str(&match lab.try_kubectl(look) {
            Ok(output) => output.stdout + &output.stderr,
            Err(error) => format!("{error:#}\n"),
        });
    }
    text.push_str(&last_words(lab, namespace));
    text
}

/// How containers ended that were started again, and what they said last.
fn last_words(lab: &Lab, namespace: &str) -> String {
    let mut text = String::new();
    for pod in all(lab, namespace).unwrap_or_default() {
        for container in pod["status"]["containerStatuses"].as_array().into_iter().flatten().filter(|one| one["restartCount"] != 0) {
            let (pod, container, state) = (name(&pod), container["name"].as_str().unwrap_or_default(), &container["lastState"]);
            let said = lab.try_kubectl(&["logs", "-n", namespace, pod, "-c", container, "--previous", "--tail=5"]);
            text.push_str(&format!("--- {pod}, {container} before it was started again: {state}\n{}", said.map(|said| said.stdout).unwrap_or_default()));
        }
    }
    text
}
