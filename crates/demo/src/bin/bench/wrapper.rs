//! What the OCI wrapper adds to plain runc: the same calls to both, one after the other, on one node, each timed from start to exit.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use godwit_demo::lab::Lab;
use godwit_demo::numbers::Row;

/// Makes, asks, starts and deletes containers, see there.
const PROGRAM: &str = include_str!("../../programs/oci_calls.py");
/// The wrapper, where the agent installs it.
const WRAPPER: &str = "/opt/godwit/bin/godwit-runtime";
const CASE: &str = "an OCI call";

/// Milliseconds by call, by runtime.
type Times = BTreeMap<String, BTreeMap<String, Vec<f64>>>;

/// Runs so many containers through both on the first node.
pub fn measure(lab: &Lab, containers: usize) -> Result<Vec<Row>> {
    let node = &lab.nodes().first().context("the lab has no node")?.name;
    let printed = lab.on_node(node, &["python3", "-c", PROGRAM, WRAPPER, &containers.to_string()])?;
    let times: Times = serde_json::from_str(&printed).with_context(|| format!("not times: {printed}"))?;
    let mut rows = Vec::new();
    for (call, systems) in &times {
        let of = |name: &str| systems.get(name).cloned().unwrap_or_default();
        let (runc, wrapper) = (of("runc"), of("wrapper"));
        let added: Vec<f64> = wrapper.iter().zip(&runc).map(|(with, without)| with - without).collect();
        rows.extend(Row::of(CASE, "runc", call, "ms", &runc));
        rows.extend(Row::of(CASE, "runc below the wrapper", call, "ms", &wrapper));
        rows.extend(Row::of(CASE, "the wrapper alone, pair by pair", call, "ms", &added));
    }
    Ok(rows)
}
