//! Where pods are measured: a namespace of their own, made anew for each case.

use std::time::Duration;

use anyhow::Result;
use godwit_demo::lab::Lab;
use godwit_demo::objects::Pod;
use godwit_demo::pods;

const MINUTE: Duration = Duration::from_secs(60);

/// An empty namespace of this name.
pub fn empty(lab: &Lab, namespace: &str) -> Result<()> {
    lab.kubectl(&["delete", "namespace", namespace, "--ignore-not-found", "--timeout=50s"])?;
    lab.kubectl(&["create", "namespace", namespace]).map(drop)
}

/// Starts a pod in it, and waits until it is Ready.
pub fn start(lab: &Lab, namespace: &str, pod: Pod) -> Result<()> {
    start_within(lab, namespace, pod, MINUTE)
}

/// The same with another patience.
pub fn start_within(lab: &Lab, namespace: &str, pod: Pod, limit: Duration) -> Result<()> {
    let mut object = pod.object();
    object["metadata"]["namespace"] = namespace.into();
    let name = pods::name(&object).to_owned();
    lab.apply(&[object])?;
    pods::wait_ready(lab, namespace, &name, limit).map(drop)
}
