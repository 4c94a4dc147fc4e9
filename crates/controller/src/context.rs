//! What every phase needs: the API server, the agents, events, fault points, and whether somebody wants out.

use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use tokio::sync::Mutex;

use godwit_api::PodMigration;
use godwit_api::migration::{Failure, Phase};
use godwit_rpc::v1;

use crate::agents::Agents;
use crate::error::Error;
use crate::failure;
use crate::record::Record;

/// Pause between two looks at whether somebody wants out.
const LOOK: Duration = Duration::from_millis(100);
/// Longest note of an event.
const NOTE: usize = 1000;

/// See the module.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The agents.
    pub agents: Agents,
    /// Events on PodMigrations and pods.
    pub recorder: Recorder,
    /// PodMigrations as last seen by the watch: for whether one was cancelled, nothing else.
    pub seen: Store<PodMigration>,
    /// Only one migration is admitted at a time, so that two of one pod cannot both be.
    pub admission: Mutex<()>,
    /// Migrations in flight from or to one node.
    pub limit: usize,
    /// Memory may travel after the switch.
    pub post_copy: bool,
    /// Where the spans of migrations go when these have ended.
    pub traces: godwit_otlp::Exporter,
    /// Key of the tickets.
    pub ticket_key: [u8; 32],
}

impl Context {
    /// Pods of the migration's namespace.
    #[must_use]
    pub fn pods(&self, record: &Record) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &record.namespace())
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Passes a fault point.
    ///
    /// # Errors
    /// When a test ordered it to fail.
    pub async fn point(&self, name: &str) -> Result<(), Error> {
        Ok(godwit_fault::point(name).await?)
    }

    /// The trace that a migration's spans will be exported to, if they will.
    #[must_use]
    pub fn trace_id(&self, object: &PodMigration) -> Option<String> {
        let trace = godwit_otlp::context::Context::of(object);
        (self.traces.is_on() && trace.sampled).then(|| trace.trace_id())
    }

    /// Why the migration should not go on, as far as it is for the controller to say: cancelled, deleted, or too late.
    #[must_use]
    pub fn interrupted(&self, record: &Record) -> Option<Failure> {
        if wants_out(record.object()) || self.cancelled(record) {
            return Some(failure::cancelled());
        }
        let phase = record.phase();
        let late = record.deadline().is_some_and(|deadline| Timestamp::now() > deadline);
        (late && phase < Phase::Switching).then(|| failure::deadline(i64::from(record.deadline_seconds()), doing(phase)))
    }

    /// Whether the watch has seen that it was cancelled or deleted.
    #[must_use]
    pub fn cancelled(&self, record: &Record) -> bool {
        self.seen.get(&ObjectRef::from_obj(record.object())).is_some_and(|object| wants_out(&object))
    }

    /// Runs `work` unless the migration is interrupted first.
    pub async fn unless_interrupted<T>(&self, record: &Record, work: impl Future<Output = T>) -> Result<T, Failure> {
        let interrupted = async {
            loop {
                if let Some(failure) = self.interrupted(record) {
                    return failure;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            failure = interrupted => Err(failure),
            result = work => Ok(result),
        }
    }

    /// Watches a pod until `wanted` finds in it what it looks for; `None` stands for a pod that is gone.
    ///
    /// # Errors
    /// When the watch ends.
    pub async fn watch_pod<T>(&self, record: &Record, name: &str, mut wanted: impl FnMut(Option<&Pod>) -> Option<T>) -> Result<T, Error> {
        let stream = watcher::watch_object(self.pods(record), name);
        futures::pin_mut!(stream);
        while let Some(seen) = stream.next().await {
            if let Some(found) = wanted(seen.map_err(Box::new)?.as_ref()) {
                return Ok(found);
            }
        }
        Err(Error::NotYet("the watch of a pod ended"))
    }

    /// The names under which both agents know this migration.
    ///
    /// # Errors
    /// When a node's address cannot be found out.
    pub async fn migration(&self, record: &Record) -> Result<v1::Migration, Error> {
        let (object, status) = (record.object(), record.status());
        let address = async |node: &Option<String>| match node {
            // A node that is gone has no address; who needs it will find out.
            Some(node) => self.agents.address(node).await.map_or_else(|error| if error.passes() { Err(error) } else { Ok(String::new()) }, Ok),
            None => Ok(String::new()),
        };
        let uid = object.metadata.uid.clone().unwrap_or_default();
        Ok(v1::Migration {
            ticket: blake3::keyed_hash(&self.ticket_key, uid.as_bytes()).as_bytes().to_vec(),
            uid,
            namespace: record.namespace(),
            name: object.metadata.name.clone().unwrap_or_default(),
            source_pod: record.pod().to_owned(),
            source_address: address(&status.source_node).await?,
            target_address: address(&status.target_node).await?,
            source_pod_uid: status.source_pod_uid.unwrap_or_default(),
            source_node: status.source_node.unwrap_or_default(),
            target_pod: status.target_pod.unwrap_or_default(),
            target_pod_uid: status.target_pod_uid.unwrap_or_default(),
            target_node: status.target_node.unwrap_or_default(),
            network: status.plan.map(|plan| plan.network).unwrap_or_default(),
        })
    }

    /// Publishes an event on the PodMigration and on the source pod. Failing to do so stops nothing.
    pub async fn event(&self, record: &Record, bad: bool, reason: &str, note: &str) {
        let status = record.status();
        let pod = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(record.pod().to_owned()),
            namespace: Some(record.namespace()),
            uid: status.source_pod_uid,
            ..ObjectReference::default()
        };
        let action = format!("{:?}", status.phase);
        for object in [record.object().object_ref(&()), pod] {
            self.publish(&object, if bad { EventType::Warning } else { EventType::Normal }, reason, note, &action).await;
        }
    }

    /// Publishes a warning on an object that is being deleted. Failing to do so stops nothing.
    pub async fn warn_at_the_end(&self, object: &ObjectReference, reason: &str, note: &str) {
        tracing::warn!(namespace = object.namespace, name = object.name, reason, note, "deleted");
        self.publish(object, EventType::Warning, reason, note, "Deleting").await;
    }

    async fn publish(&self, object: &ObjectReference, type_: EventType, reason: &str, note: &str, action: &str) {
        let note: String = note.chars().take(NOTE).collect();
        let event = Event { type_, reason: reason.to_owned(), note: Some(note), action: action.to_owned(), secondary: None };
        if let Err(error) = self.recorder.publish(&event, object).await {
            tracing::debug!(%error, reason, "no event");
        }
    }
}

fn wants_out(object: &PodMigration) -> bool {
    object.spec.cancel || object.metadata.deletion_timestamp.is_some()
}

/// What a phase does, for a sentence.
fn doing(phase: Phase) -> &'static str {
    match phase {
        Phase::Planning => "planning",
        Phase::Preparing => "the target pod was made",
        Phase::Copying => "its containers were awaited at the target",
        _ => "waiting",
    }
}
