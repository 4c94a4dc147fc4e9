//! `state`.

use serde_json::{Value, json};

use crate::{error::Error, layout::Layout, record::Record, runc, spec::Spec};

/// Prints the container's state.
pub fn state(layout: &Layout, record: &Record) -> Result<i32, Error> {
    let keeper = layout.keeper().filter(|keeper| keeper.alive());
    let started = layout.has("started");
    let state = match (keeper, layout.restored()) {
        (Some(_), Some(_)) => below(record, started)?,
        (Some(keeper), None) => own(record, if started { "running" } else { "created" }, keeper.pid),
        (None, _) => own(record, "stopped", 0),
    };
    let text = serde_json::to_string_pretty(&state).map_err(|error| Error::Runtime(error.to_string()))?;
    super::small::print(&format!("{text}\n"));
    Ok(0)
}

/// What the runtime below says, but `created` until the OCI `start`.
fn below(record: &Record, started: bool) -> Result<Value, Error> {
    let output = runc::capture(record, &["state", &record.id])?;
    let known: Option<Value> = output.status.success().then(|| serde_json::from_slice(&output.stdout).ok()).flatten();
    let Some(mut state) = known else {
        return Ok(own(record, "stopped", 0));
    };
    if !started
        && let Some(status) = state.get_mut("status")
        && status == "running"
    {
        *status = json!("created");
    }
    Ok(state)
}

/// The state of a container whose init is the keeper.
fn own(record: &Record, status: &str, pid: i32) -> Value {
    let annotations = Spec::load(&record.bundle).map(|spec| spec.annotations).unwrap_or_default();
    json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "pid": pid,
        "status": status,
        "bundle": record.bundle,
        "rootfs": record.rootfs,
        "created": record.created,
        "annotations": annotations,
        "owner": "",
    })
}
