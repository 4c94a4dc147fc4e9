//! `PodMigration` of `lpm.my.domain`: each is carried out by a `PodMigration.godwit.dev` of the same name, and says how that one goes in words of its own.
//!
//! ```text
//!   lpm.my.domain NAME   ── made by us, owned by it, labelled ──▶ godwit.dev NAME ──▶ the road of any migration
//!     status ◀── phase by phase, what has been reached ──────────    status
//!     deleted ────────── withdraw (the collector would too) ────▶    deleted: taken back if it has not committed
//!     forgotten ◀──────────────────────────────────────────────     gone: deleted by a user, or its time is over
//! ```
//!
//! Whoever makes the one needs the rights that the other asks for: the admission policy `godwit-lpm` looks. What was made before it was there is refused ([`guard`]).

mod guard;
mod label;
mod mirror;
mod step;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};

use godwit_api::lpm::{LABEL_SOURCE_POD, PodMigration as Manifest, PodMigrationStatus as Status};
use godwit_api::{PodMigration, PodMigrationSpec};

use crate::context::Context;
use crate::error::Error;
use step::Step;

/// Carries out all of them until the watch ends.
pub async fn run(context: Arc<Context>) {
    let client = context.client.clone();
    tokio::spawn(follow_deletions(client.clone()));
    Controller::new(Api::<Manifest>::all(client.clone()), watcher::Config::default())
        .owns(Api::<PodMigration>::all(client), watcher::Config::default().labels(LABEL_SOURCE_POD))
        .run(reconcile, retry, context)
        .for_each(|_| std::future::ready(()))
        .await;
}

/// Carries one as far as it goes now.
async fn reconcile(object: Arc<Manifest>, context: Arc<Context>) -> Result<Action, Error> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let manifests: Api<Manifest> = Api::namespaced(context.client.clone(), &namespace);
    // The watch may be behind what was written a moment ago.
    let Some(object) = manifests.get_opt(&name).await? else { return Ok(Action::await_change()) };
    let ours: Api<PodMigration> = Api::namespaced(context.client.clone(), &namespace);
    match step::next(&object, ours.get_opt(&name).await?.as_ref()) {
        Step::Nothing => Ok(Action::await_change()),
        Step::Order => match guard::check(&context.client, &object).await? {
            Err(why) => write(&manifests, &object, step::refused(&object, why)).await,
            Ok(()) => order(&ours, &manifests, &object).await,
        },
        Step::Write(status) => write(&manifests, &object, status).await,
        Step::Forget => {
            tracing::info!(namespace, name, "its PodMigration.godwit.dev is gone, so it goes");
            match manifests.delete(&name, &only(object.uid())).await {
                Err(kube::Error::Api(said)) if !said.is_not_found() && !said.is_conflict() => Err(kube::Error::Api(said).into()),
                Err(error @ (kube::Error::Service(_) | kube::Error::HyperError(_))) => Err(error.into()),
                _ => Ok(Action::await_change()),
            }
        }
    }
}

/// How soon to try again.
fn retry(object: Arc<Manifest>, error: &Error, _: Arc<Context>) -> Action {
    let error: &dyn std::error::Error = error;
    tracing::warn!(namespace = object.namespace(), name = object.name_any(), error, "a PodMigration of lpm.my.domain will be looked at again");
    Action::requeue(Duration::from_secs(1))
}

/// Makes ours.
async fn order(ours: &Api<PodMigration>, manifests: &Api<Manifest>, object: &Manifest) -> Result<Action, Error> {
    match ours.create(&PostParams::default(), &made_of(object)).await {
        Ok(_) => Ok(Action::requeue(Duration::ZERO)),
        Err(kube::Error::Api(said)) if said.is_already_exists() => Ok(Action::requeue(Duration::ZERO)),
        Err(kube::Error::Api(said)) if said.is_forbidden() || said.is_invalid() => write(manifests, object, step::refused(object, said.message)).await,
        Err(error) => Err(error.into()),
    }
}

/// The migration that carries `object` out.
fn made_of(object: &Manifest) -> PodMigration {
    let spec = PodMigrationSpec { pod_name: object.spec.pod_name.clone(), target_node: object.spec.target_node.clone(), ..PodMigrationSpec::default() };
    let owner = OwnerReference {
        api_version: Manifest::api_version(&()).into_owned(),
        kind: Manifest::kind(&()).into_owned(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let mut migration = PodMigration::new(&object.name_any(), spec);
    migration.metadata = ObjectMeta {
        namespace: object.namespace(),
        labels: Some(BTreeMap::from([(LABEL_SOURCE_POD.to_owned(), label::of(&object.spec.pod_name))])),
        owner_references: Some(vec![owner]),
        ..migration.metadata
    };
    migration
}

/// Whether `migration` carries the manifest with this UID out.
fn is_of(migration: &PodMigration, uid: &str) -> bool {
    migration.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

async fn write(manifests: &Api<Manifest>, object: &Manifest, status: Status) -> Result<Action, Error> {
    let mut next = object.clone();
    next.status = Some(status);
    match manifests.replace_status(&object.name_any(), &PostParams::default(), &next).await {
        Ok(_) => Ok(Action::requeue(Duration::ZERO)),
        // Deleted, or written by another leader: the watch tells.
        Err(kube::Error::Api(said)) if said.is_not_found() || said.is_conflict() => Ok(Action::requeue(Duration::from_millis(100))),
        Err(error) => Err(error.into()),
    }
}

/// The cluster's garbage collector may take half a minute to hear of a kind that has just been defined: a migration that nobody wants any more does not wait for it.
async fn follow_deletions(client: Client) {
    let events = watcher(Api::<Manifest>::all(client.clone()), watcher::Config::default()).default_backoff();
    futures::pin_mut!(events);
    while let Some(event) = events.next().await {
        let Ok(watcher::Event::Delete(object)) = event else { continue };
        if let Err(error) = withdraw(&client, &object).await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(namespace = object.namespace(), name = object.name_any(), error, "a migration is left to the garbage collector");
        }
    }
}

/// Deletes the migration of a manifest that is gone.
async fn withdraw(client: &Client, object: &Manifest) -> Result<(), kube::Error> {
    let ours: Api<PodMigration> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let name = object.name_any();
    let uid = object.uid().unwrap_or_default();
    let Some(migration) = ours.get_opt(&name).await?.filter(|migration| is_of(migration, &uid)) else { return Ok(()) };
    match ours.delete(&name, &only(migration.uid())).await {
        Err(kube::Error::Api(said)) if said.is_not_found() || said.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

/// Nothing but the object with this UID.
fn only(uid: Option<String>) -> DeleteParams {
    DeleteParams { preconditions: Some(Preconditions { uid, resource_version: None }), ..DeleteParams::default() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    /// A manifest as its users write it, as the API server returns it.
    pub fn manifest() -> Manifest {
        serde_json::from_value(json!({
            "apiVersion": "lpm.my.domain/v1", "kind": "PodMigration",
            "metadata": {"name": "analytics-migration", "namespace": "default", "uid": "m-1", "creationTimestamp": "2026-01-01T00:00:10Z"},
            "spec": {"podName": "analytics-counter", "targetNode": "node-b"},
        }))
        .unwrap()
    }

    #[test]
    fn ours_has_the_same_name_and_belongs_to_it() {
        let made = made_of(&manifest());
        assert!(is_of(&made, "m-1") && !is_of(&made, "m-2"));
        assert_eq!(
            serde_json::to_value(made).unwrap(),
            json!({
                "apiVersion": "godwit.dev/v1alpha1", "kind": "PodMigration",
                "metadata": {
                    "name": "analytics-migration", "namespace": "default",
                    "labels": {"migration.source-pod": "analytics-counter"},
                    "ownerReferences": [{"apiVersion": "lpm.my.domain/v1", "kind": "PodMigration", "name": "analytics-migration", "uid": "m-1", "controller": true}],
                },
                "spec": {"podName": "analytics-counter", "targetNode": "node-b"},
            })
        );
    }
}
