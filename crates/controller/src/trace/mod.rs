//! `MigrationTrace` objects: what both agents tell about a migration is passed on through a window in the object's status, and goes when it was read.
//!
//! ```text
//!   agents ── Agent.Trace (streams) ──▶ worker ── status: at most a window full ──▶ kubectl migrate trace
//!                                         ◀────── spec.read: what is before this may go ──
//! ```
//!
//! The window is what makes a slow reader slow the streams down instead of filling etcd: nothing more is written until what is there was read.

mod side;
mod window;
mod worker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::watch;

use godwit_api::MigrationTrace;

use crate::answered::put_away;
use crate::context::Context;
use crate::error::Error;

/// How long an ended one stays, if its reader does not take it away.
const STAY: Duration = Duration::from_secs(120);
/// Most at a time.
const MOST: usize = 8;

/// All that are under way.
pub struct Traces {
    context: Arc<Context>,
    /// By UID: how far each was read.
    running: Mutex<HashMap<String, watch::Sender<u64>>>,
}

impl Traces {
    /// None yet.
    #[must_use]
    pub fn new(context: Arc<Context>) -> Self {
        Self { context, running: Mutex::default() }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, watch::Sender<u64>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts what is new, tells what was read, takes away what has ended.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn reconcile(object: Arc<MigrationTrace>, traces: Arc<Traces>) -> Result<Action, Error> {
    let (uid, namespace) = (object.uid().unwrap_or_default(), object.namespace().unwrap_or_default());
    let api: Api<MigrationTrace> = Api::namespaced(traces.context.client.clone(), &namespace);
    if let Some(done) = object.status.as_ref().and_then(|status| status.completion_time.clone()) {
        return put_away(&api, &object.name_any(), &done, STAY).await;
    }
    if let Some(read) = traces.running().get(&uid) {
        read.send_if_modified(|read| std::mem::replace(read, object.spec.read) != object.spec.read);
        return Ok(Action::await_change());
    }
    let refused = match &object.status {
        Some(_) => Some("the controller was restarted: trace again"),
        None if traces.running().len() >= MOST => Some("too many traces at a time: end another one first"),
        None => None,
    };
    if let Some(why) = refused {
        end(&api, &object.name_any(), why).await?;
        return Ok(Action::requeue(STAY));
    }
    let (sender, read) = watch::channel(object.spec.read);
    traces.running().insert(uid.clone(), sender);
    tokio::spawn(async move {
        let name = object.name_any();
        let outcome = worker::Worker::new(Arc::clone(&traces.context), &object, read).run().await;
        if let Err(error) = outcome {
            let why = error.to_string();
            tracing::warn!(name, error = why, "a trace ended early");
            let _ = end(&api, &name, &format!("the API server did not answer: {why}")).await;
        }
        traces.running().remove(&uid);
    });
    Ok(Action::await_change())
}

/// How soon to try again.
#[must_use]
pub fn retry(object: Arc<MigrationTrace>, error: &Error, _: Arc<Traces>) -> Action {
    let error: &dyn std::error::Error = error;
    tracing::warn!(name = object.name_any(), error, "a MigrationTrace will be looked at again");
    Action::requeue(Duration::from_secs(1))
}

async fn end(api: &Api<MigrationTrace>, name: &str, why: &str) -> Result<(), Error> {
    let patch = json!({"status": {"completionTime": Time(Timestamp::now()), "message": why}});
    match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}
