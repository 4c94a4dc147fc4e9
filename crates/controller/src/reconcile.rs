//! One migration, from where its status says it is to where it must wait.
//!
//! ```text
//!   Pending → Planning → Preparing → Copying → Switching → Settling → Succeeded
//!      │          │          │          │          │
//!      └──────────┴──────────┴──────────┴──────────┴─ failure is written ─▶ undo ─▶ Failed (nothing was touched)
//!                                                                                   RolledBack (from Switching)
//! ```
//!
//! A phase writes what it is about to do into the status *before* it does it, and every effect may be repeated. So a controller that is killed at any
//! point goes on, or another one does. `status.failure` in a phase that is not final means: being undone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::runtime::controller::Action;

use godwit_api::PodMigration;
use godwit_api::migration::Phase;
use godwit_rpc::logs;
use tracing::Instrument;

use crate::context::Context;
use crate::error::Error;
use crate::phase;
use crate::record::Record;
use crate::run::METRICS;

/// What comes after a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The status has moved on: look again.
    Again,
    /// Look again later.
    After(Duration),
    /// Nothing more to do.
    Done,
}

/// Carries one migration as far as it goes now.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn reconcile(object: Arc<PodMigration>, context: Arc<Context>) -> Result<Action, Error> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    godwit_fault::within(namespace.clone(), carry(&context, &namespace, &name)).instrument(about(&object)).await
}

/// What is logged about it.
fn about(object: &PodMigration) -> tracing::Span {
    logs::about(&object.uid().unwrap_or_default(), &object.namespace().unwrap_or_default(), &object.name_any())
}

async fn carry(context: &Context, namespace: &str, name: &str) -> Result<Action, Error> {
    let Some(mut record) = Record::read(&context.client, namespace, name).await? else {
        return Ok(Action::await_change());
    };
    let _at_work = (!record.phase().is_final()).then(|| METRICS.at_work());
    let mut began = Instant::now();
    loop {
        let phase = record.phase();
        let failed = record.status().failure.is_some();
        tracing::debug!(?phase, failed, "at work");
        let next = match phase {
            Phase::Succeeded | Phase::RolledBack | Phase::Failed => phase::finished::run(context, &mut record).await?,
            _ if failed => phase::undo::run(context, &mut record).await?,
            Phase::Pending => phase::pending::run(context, &mut record).await?,
            Phase::Planning => phase::planning::run(context, &mut record).await?,
            Phase::Preparing => phase::preparing::run(context, &mut record).await?,
            Phase::Copying => phase::copying::run(context, &mut record).await?,
            Phase::Switching => phase::switching::run(context, &mut record).await?,
            Phase::Settling => phase::settling::run(context, &mut record).await?,
        };
        if record.phase() != phase {
            METRICS.phase(&format!("{phase:?}"), failed, began.elapsed());
            began = Instant::now();
            if record.phase().is_final() {
                ended(&record);
                context.traces.export(record.object());
            }
        }
        match next {
            Next::Again => {}
            Next::After(time) => return Ok(Action::requeue(time)),
            Next::Done => return Ok(Action::await_change()),
        }
    }
}

/// Counts a migration that has ended.
fn ended(record: &Record) {
    let status = record.status();
    let freeze = status.freeze.as_ref().filter(|freeze| freeze.total_ms > 0).map(|freeze| Duration::from_millis(freeze.total_ms.into()));
    METRICS.ended(&godwit_metrics::controller::Ended {
        outcome: &format!("{:?}", status.phase),
        reason: status.failure.as_ref().map(|failure| failure.reason.as_str()),
        freeze,
        bytes: status.progress.as_ref().map_or(0, |progress| progress.bytes),
    });
}

/// How soon to try again.
#[must_use]
pub fn retry(object: Arc<PodMigration>, error: &Error, _: Arc<Context>) -> Action {
    let error: &dyn std::error::Error = error;
    about(&object).in_scope(|| tracing::warn!(error, "will be tried again"));
    Action::requeue(Duration::from_millis(500))
}
