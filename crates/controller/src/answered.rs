//! Objects that ask something and are answered in their status: they stay for a while, for whoever asked, and are then taken away.

use std::fmt::Debug;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::DeleteParams;
use kube::runtime::controller::Action;
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Waits out the rest of `stay` after the answer was complete, or takes the object away.
///
/// # Errors
/// When the API server does not delete it.
pub async fn put_away<K>(api: &Api<K>, name: &str, completed: &Time, stay: Duration) -> Result<Action, Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    let left = Duration::try_from((completed.0 + stay).duration_since(Timestamp::now())).unwrap_or_default();
    if !left.is_zero() {
        return Ok(Action::requeue(left));
    }
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(Action::await_change()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Action::await_change()),
        // An API server that is away has deleted nothing: who asked is asked again.
        Err(error) => Err(error.into()),
    }
}
