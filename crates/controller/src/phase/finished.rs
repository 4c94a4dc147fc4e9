//! `Succeeded`, `RolledBack`, `Failed`: the record stays for its time.

use std::time::Duration;

use jiff::Timestamp;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};

use godwit_api::migration::Phase;
use godwit_api::{PodMigration, names};

use super::{anchored, settling, undo};
use crate::aftermath;
use crate::context::Context;
use crate::error::Error;
use crate::reconcile::Next;
use crate::record::Record;

/// Seconds for which a record stays: one day.
const TTL: u32 = 24 * 3600;
/// How often an agent that was away is told again.
const AGAIN: Duration = Duration::from_secs(5);

/// See the module.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn run(context: &Context, record: &mut Record) -> Result<Next, Error> {
    let look = aftermath::look(context, record).await?;
    Ok(match (stay(context, record).await?, look) {
        (Next::After(time), Some(sooner)) => Next::After(time.min(sooner)),
        (next, _) => next,
    })
}

async fn stay(context: &Context, record: &mut Record) -> Result<Next, Error> {
    if record.status().anchor.is_some_and(|anchor| anchor.active) {
        return anchored::run(context, record).await;
    }
    if record.object().finalizers().iter().any(|one| one == names::FINALIZER) {
        if record.status().target_pod_uid.is_some() {
            if record.phase() != Phase::Succeeded {
                undo::tell(context, record).await?;
            }
            if !settling::forget(context, record).await {
                return Ok(Next::After(AGAIN));
            }
        }
        record.hold(false).await?;
    }
    if record.object().metadata.deletion_timestamp.is_some() {
        return Ok(Next::Done);
    }
    let end = record.status().completion_time.map_or_else(Timestamp::now, |time| time.0);
    let stay = Duration::from_secs(u64::from(record.object().spec.ttl_seconds.unwrap_or(TTL)));
    let left = Duration::try_from((end + stay).duration_since(Timestamp::now())).unwrap_or_default();
    if !left.is_zero() {
        return Ok(Next::After(left));
    }
    let params = DeleteParams { preconditions: Some(Preconditions { uid: record.object().uid(), resource_version: None }), ..DeleteParams::default() };
    let api: Api<PodMigration> = Api::namespaced(context.client.clone(), &record.namespace());
    match api.delete(&record.object().name_any(), &params).await {
        Ok(_) => Ok(Next::Done),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(Next::Done),
        Err(error) => Err(error.into()),
    }
}
