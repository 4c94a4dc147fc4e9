//! The `Handover` object: read and swapped, never guessed. A reply that leaves a doubt is [`Written::Unknown`], which the protocol answers with an uncached read.

use std::time::{Duration, Instant};

use godwit_api::{Handover, HandoverSpec, HandoverState, HandoverStatus, names};
use godwit_migration::handover::{Owner, Read, Written};
use godwit_rpc::v1::Migration;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

/// How long one call to the API server may take before its reply counts as lost.
const CALL: Duration = Duration::from_secs(5);

/// The calls of one worker: only the answer to the last one counts.
#[derive(Default)]
pub struct Calls {
    last: u64,
    /// Since when its answer is awaited.
    since: Option<Instant>,
}

impl Calls {
    /// A call begins; its number.
    pub fn begin(&mut self) -> u64 {
        self.since = Some(Instant::now());
        self.last += 1;
        self.last
    }

    /// An answer has come; whether it counts.
    pub fn answered(&mut self, call: u64) -> bool {
        let counts = call == self.last;
        if counts {
            self.since = None;
        }
        counts
    }

    /// Whether an answer is on its way. It is not given up for another question: where the API server is slow none would ever count.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() <= CALL)
    }
}

/// Access to one Handover.
#[derive(Clone)]
pub struct Arbiter {
    api: Api<Handover>,
    name: String,
    migration: String,
}

impl Arbiter {
    /// The Handover of this migration's source pod.
    #[must_use]
    pub fn new(client: Client, migration: &Migration) -> Self {
        Self { api: Api::namespaced(client, &migration.namespace), name: migration.source_pod_uid.clone(), migration: migration.uid.clone() }
    }

    /// Creates it with the source as owner. `Conflict`: there is one already (read it to see whose).
    pub async fn create(&self, migration: &Migration) -> Written {
        let mut object = Handover::new(
            &self.name,
            HandoverSpec {
                migration_uid: migration.uid.clone(),
                migration_name: migration.name.clone(),
                source_pod: migration.source_pod.clone(),
                source_node: migration.source_node.clone(),
                target_pod: migration.target_pod.clone(),
                target_pod_uid: migration.target_pod_uid.clone(),
                target_node: migration.target_node.clone(),
            },
        );
        object.metadata.finalizers = Some(vec![names::FINALIZER.to_owned()]);
        verdict(tokio::time::timeout(CALL, self.api.create(&PostParams::default(), &object)).await)
    }

    /// Reads it from etcd, past every cache.
    pub async fn read(&self) -> Read {
        match tokio::time::timeout(CALL, self.api.get_opt(&self.name)).await {
            Ok(Ok(Some(object))) if object.spec.migration_uid != self.migration => Read::Foreign,
            Ok(Ok(Some(object))) => Read::Found {
                owner: owner(object.status.map_or(HandoverState::Source, |status| status.state)),
                version: object.metadata.resource_version.unwrap_or_default(),
            },
            Ok(Ok(None)) => Read::NotFound,
            Ok(Err(error)) => {
                tracing::warn!(%error, handover = self.name, "cannot read the Handover");
                Read::Away
            }
            Err(_) => Read::Away,
        }
    }

    /// Sets the state if the object is still at `version`.
    pub async fn swap(&self, version: &str, to: HandoverState) -> Written {
        let patch = json!({"metadata": {"resourceVersion": version}, "status": HandoverStatus { state: to }});
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
        verdict(tokio::time::timeout(CALL, self.api.patch_status(&self.name, &parameters, &patch)).await)
    }

    /// Takes the finalizer off and deletes it; it may be gone already, or be another migration's.
    ///
    /// # Errors
    /// When the API server does not do it.
    pub async fn remove(&self) -> Result<(), kube::Error> {
        match self.api.get_opt(&self.name).await? {
            Some(object) if object.spec.migration_uid == self.migration => {}
            _ => return Ok(()),
        }
        let patch = json!({"metadata": {"finalizers": null}});
        self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(|_| ()).or_else(absent)?;
        self.api.delete(&self.name, &DeleteParams::default()).await.map(|_| ()).or_else(absent)
    }
}

fn absent(error: kube::Error) -> Result<(), kube::Error> {
    match error {
        kube::Error::Api(status) if status.code == 404 => Ok(()),
        other => Err(other),
    }
}

fn owner(state: HandoverState) -> Owner {
    match state {
        HandoverState::Source => Owner::Source,
        HandoverState::Target => Owner::Target,
        HandoverState::Running => Owner::Running,
        HandoverState::Aborted => Owner::Aborted,
    }
}

/// A refusal by the API server is certain; anything else is not.
fn verdict(outcome: Result<Result<Handover, kube::Error>, tokio::time::error::Elapsed>) -> Written {
    match outcome {
        Ok(Ok(object)) => Written::Ok { version: object.metadata.resource_version.unwrap_or_default() },
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 403 | 404 | 409 | 422) => {
            tracing::debug!(code = status.code, message = status.message, "a write to the Handover was refused");
            Written::Conflict
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "a write to the Handover has no certain outcome");
            Written::Unknown
        }
        Err(_) => Written::Unknown,
    }
}
