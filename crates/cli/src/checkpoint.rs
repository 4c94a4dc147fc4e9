//! `kubectl migrate checkpoint`, `checkpoints` and `restore`: orders, and what their objects say.
//!
//! ```text
//!   checkpoint POD      ─▶ a PodCheckpoint ─▶ followed until it is complete
//!   restore CHECKPOINT  ─▶ a PodRestore    ─▶ followed until the new pod runs
//!   checkpoints         ─▶ list, describe, delete
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::runtime::{conditions, wait::await_condition, watcher};
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use godwit_api::checkpoint::{CheckpointPhase, Credentials, Encrypted, Encryption, RestorePhase, SHARED};
use godwit_api::migration::Failure;
use godwit_api::{PodCheckpoint, PodCheckpointSpec, PodRestore, PodRestoreSpec};

use crate::cluster::Cluster;
use crate::error::{Error, innermost};
use crate::options::{Checkpoint, Kept, Output, Place, Restore};
use crate::table::{self, print};
use crate::text;

/// For how long the cluster may be away while something is waited for.
const AWAY: Duration = Duration::from_secs(60);

/// Keeps what a pod is at this instant. Gives the exit code.
///
/// # Errors
/// When the cluster does not take the order.
pub async fn checkpoint(order: &Checkpoint, place: &Place) -> Result<u8, Error> {
    let cluster = Cluster::connect(&place.at).await?;
    let api: Api<PodCheckpoint> = Api::namespaced(cluster.client().clone(), &cluster.namespace);
    let pod = order.pod.strip_prefix("pod/").or_else(|| order.pod.strip_prefix("pods/")).unwrap_or(&order.pod);
    let spec = PodCheckpointSpec {
        pod_name: pod.to_owned(),
        ttl_seconds: order.ttl.map(|time| u32::try_from(time.as_secs().max(1)).unwrap_or(u32::MAX)),
        keep: order.keep,
        encryption: order.encrypt_with.as_deref().map(secret),
        credentials: order.registry_secret.clone().map(|secret_name| Credentials { secret_name }),
        store: order.store.clone().unwrap_or_else(|| SHARED.to_owned()),
    };
    let mut object = PodCheckpoint::new("", spec);
    object.metadata = metadata(order.name.as_deref(), pod);
    let ordered = api.create(&PostParams::default(), &object).await?;
    let name = ordered.name_any();
    let last = if order.no_wait { ordered } else { follow(&api, &name, ended).await? };
    let status = last.status.clone().unwrap_or_default();
    show(place, &last, || match (status.phase, &status.failure) {
        (CheckpointPhase::Complete, _) => format!(
            "✔ checkpoint {name} of pod {pod}: {}{}. The pod stood still for {} ms and goes on.\n  restore it: kubectl migrate restore {name} -n {}",
            text::bytes(status.bytes.unwrap_or_default()),
            if status.encryption.is_some() { ", encrypted" } else { "" },
            status.freeze_ms.unwrap_or_default(),
            cluster.namespace
        ),
        (_, Some(why)) => sorry(&format!("no checkpoint of pod {pod}; it goes on"), why),
        _ => format!("ordered: {name}. See it: kubectl migrate checkpoints describe {name} -n {}", cluster.namespace),
    })?;
    Ok(u8::from(status.phase == CheckpointPhase::Failed))
}

/// Makes a new pod. Gives the exit code.
///
/// # Errors
/// When the cluster does not take the order.
pub async fn restore(order: &Restore, place: &Place) -> Result<u8, Error> {
    let cluster = Cluster::connect(&place.at).await?;
    let api: Api<PodRestore> = Api::namespaced(cluster.client().clone(), &cluster.namespace);
    // Who may not see it is told so by the order itself.
    let kept: Api<PodCheckpoint> = Api::namespaced(cluster.client().clone(), &cluster.namespace);
    let kept = kept.get(&order.checkpoint).await.ok().map(|kept| kept.spec).unwrap_or_default();
    let spec = PodRestoreSpec {
        checkpoint_name: order.checkpoint.clone(),
        pod_name: order.name.clone(),
        node_name: order.node.clone(),
        engine: order.engine.map(Into::into),
        encryption: order.decrypt_with.as_deref().map(secret).or(kept.encryption),
        credentials: order.registry_secret.clone().map(|secret_name| Credentials { secret_name }).or(kept.credentials),
    };
    let mut object = PodRestore::new("", spec);
    object.metadata = metadata(None, &order.checkpoint);
    let ordered = api.create(&PostParams::default(), &object).await?;
    let name = ordered.name_any();
    let last =
        if order.no_wait { ordered } else { follow(&api, &name, |one: &PodRestore| one.status.as_ref().is_some_and(|status| status.phase.is_final())).await? };
    let status = last.status.clone().unwrap_or_default();
    show(place, &last, || match (status.phase, &status.failure) {
        (RestorePhase::Succeeded, _) => format!(
            "✔ pod {} runs on {}, restored from checkpoint {}",
            status.pod.clone().unwrap_or_default(),
            status.node.clone().unwrap_or_default(),
            order.checkpoint
        ),
        (_, Some(why)) => sorry(&format!("checkpoint {} was not restored", order.checkpoint), why),
        _ => format!("ordered: {name}. See it: kubectl get podrestore {name} -n {}", cluster.namespace),
    })?;
    Ok(u8::from(status.phase == RestorePhase::Failed))
}

/// List, describe, delete. Gives the exit code.
///
/// # Errors
/// When the cluster does not answer.
pub async fn checkpoints(what: Option<&Kept>, place: &Place) -> Result<u8, Error> {
    let place = what.map_or(place, Kept::place);
    let cluster = Cluster::connect(&place.at).await?;
    let own: Api<PodCheckpoint> = Api::namespaced(cluster.client().clone(), &cluster.namespace);
    match what {
        None | Some(Kept::List { all_namespaces: false, .. }) => list(&own, false, &cluster.namespace, place).await,
        Some(Kept::List { all_namespaces: true, .. }) => list(&Api::all(cluster.client().clone()), true, &cluster.namespace, place).await,
        Some(Kept::Describe { name, .. }) => {
            let found = own.get_opt(name).await?.ok_or_else(|| unknown(name, &cluster.namespace))?;
            show(place, &found, || describe(&found))?;
            Ok(0)
        }
        Some(Kept::Delete { names, no_wait, .. }) => {
            for name in names {
                let found = own.get_opt(name).await?.ok_or_else(|| unknown(name, &cluster.namespace))?;
                own.delete(name, &DeleteParams::default()).await?;
                if !no_wait {
                    let uid = found.uid().unwrap_or_default();
                    let gone = await_condition(own.clone(), name, conditions::is_deleted(&uid));
                    tokio::select! {
                        gone = gone => drop(gone.map_err(|error| Error::Unreachable(innermost(&error)))?),
                        _ = tokio::signal::ctrl_c() => return Ok(6),
                    }
                }
                if place.output == Output::Text {
                    print(&format!("deleted: {name}"))?;
                }
            }
            Ok(0)
        }
    }
}

async fn list(api: &Api<PodCheckpoint>, everywhere: bool, namespace: &str, place: &Place) -> Result<u8, Error> {
    let mut found = api.list(&ListParams::default()).await?.items;
    found.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
    let head = ["NAME", "POD", "PHASE", "NODE", "SIZE", "KEY", "FREEZE", "MADE", "WHY"];
    table::list(&found, "checkpoints", (everywhere, namespace, place.output), head, |object| {
        let status = object.status.clone().unwrap_or_default();
        [
            object.name_any(),
            object.spec.pod_name.clone(),
            format!("{:?}", status.phase),
            status.node.unwrap_or_default(),
            status.bytes.map(text::bytes).unwrap_or_default(),
            status.encryption.map(|encrypted| encrypted.key_id).unwrap_or_default(),
            status.freeze_ms.map(|ms| text::time(i64::from(ms) * 1000)).unwrap_or_default(),
            status.completion_time.map(|time| time.0.to_string()).unwrap_or_default(),
            status.failure.map(|failure| failure.reason).unwrap_or_default(),
        ]
    })?;
    Ok(0)
}

fn describe(object: &PodCheckpoint) -> String {
    let status = object.status.clone().unwrap_or_default();
    let mut lines = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(lines, "{:<11}{value}", format!("{name}:"));
        }
    };
    line("Name", object.name_any());
    line("Pod", object.spec.pod_name.clone());
    line("Phase", format!("{:?}", status.phase));
    line("Node", status.node.unwrap_or_default());
    line("Made", status.completion_time.map(|time| time.0.to_string()).unwrap_or_default());
    line("Freeze", status.freeze_ms.map(|ms| text::time(i64::from(ms) * 1000)).unwrap_or_default());
    line("Size", status.bytes.map(|bytes| format!("{} in {} files", text::bytes(bytes), status.files.unwrap_or_default())).unwrap_or_default());
    line("Store", status.path.map(|path| format!("{}{path}", object.spec.store)).unwrap_or_default());
    line("Login", object.spec.credentials.as_ref().map(|named| format!("Secret {}", named.secret_name)).unwrap_or_default());
    line("Digest", status.digest.unwrap_or_default());
    line("Encrypted", object.spec.encryption.as_ref().map(|named| encrypted(named, status.encryption.as_ref())).unwrap_or_default());
    line("Stays", object.spec.ttl_seconds.map(|seconds| format!("{seconds} s")).unwrap_or_default());
    for container in status.containers {
        line("Container", format!("{}: {}, images {}", container.name, text::count(container.processes, "process", "processes"), text::bytes(container.bytes)));
    }
    line("Handler", if status.importable { "not needed".into() } else { String::new() });
    for warning in status.warnings {
        line("Warning", warning);
    }
    if let Some(why) = status.failure {
        line("Why", format!("{}: {}", why.reason, why.message));
        line("What to do", why.remedy);
    }
    lines.trim_end().to_owned()
}

/// `SECRET` or `SECRET/VALUE`.
fn secret(named: &str) -> Encryption {
    match named.split_once('/') {
        Some((secret, key)) => Encryption { key: key.to_owned(), ..Encryption::with(secret) },
        None => Encryption::with(named),
    }
}

fn encrypted(named: &Encryption, by: Option<&Encrypted>) -> String {
    let id = by.map(|by| format!("key {}, ", by.key_id)).unwrap_or_default();
    format!("{id}{} of Secret {}", named.key, named.secret_name)
}

fn metadata(name: Option<&str>, base: &str) -> ObjectMeta {
    let mut short: String = base.chars().take(50).collect();
    short.truncate(short.trim_end_matches(['-', '.']).len());
    ObjectMeta {
        name: name.map(str::to_owned),
        generate_name: name.is_none().then(|| format!("{short}-")),
        labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "kubectl-migrate".to_owned())])),
        ..ObjectMeta::default()
    }
}

fn ended(object: &PodCheckpoint) -> bool {
    object.status.as_ref().is_some_and(|status| status.phase.is_final())
}

/// Waits until an object has ended.
async fn follow<K>(api: &Api<K>, name: &str, ended: impl Fn(&K) -> bool) -> Result<K, Error>
where
    K: kube::Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let stream = watcher::watch_object(api.clone(), name);
    futures::pin_mut!(stream);
    let mut away = None;
    let end = async {
        loop {
            match stream.next().await {
                Some(Ok(Some(object))) if ended(&object) => return Ok(object),
                Some(Ok(Some(_))) => away = None,
                Some(Ok(None)) => return Err(Error::Refused(format!("{name} was deleted while it was waited for"))),
                Some(Err(error)) => {
                    let since: &mut tokio::time::Instant = away.get_or_insert_with(tokio::time::Instant::now);
                    if since.elapsed() > AWAY {
                        return Err(Error::Unreachable(innermost(&error)));
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                None => return Err(Error::Unreachable("the watch ended".into())),
            }
        }
    };
    tokio::select! {
        object = end => object,
        _ = tokio::signal::ctrl_c() => Err(Error::Refused(format!("not waiting any longer; {name} goes on"))),
    }
}

fn unknown(name: &str, namespace: &str) -> Error {
    Error::Refused(format!("there is no checkpoint {name} in namespace {namespace}\n  What to do: kubectl migrate checkpoints -n {namespace}"))
}

fn sorry(what: &str, why: &Failure) -> String {
    format!("✘ {what}\n  Why: {} ({})\n  What to do: {}", why.message, why.reason, why.remedy)
}

fn show<K: Serialize>(place: &Place, object: &K, text: impl FnOnce() -> String) -> Result<(), Error> {
    match place.output {
        Output::Json => print(&serde_json::to_string_pretty(object).unwrap_or_default()),
        Output::Text => print(&text()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_checkpoint_is_described() {
        let object: PodCheckpoint = serde_json::from_value(serde_json::json!({
            "apiVersion": "godwit.dev/v1alpha1", "kind": "PodCheckpoint", "metadata": {"name": "web-1", "namespace": "shop"},
            "spec": {"podName": "web", "store": "shared://", "ttlSeconds": 60, "encryption": {"secretName": "vault"}},
            "status": {"phase": "Complete", "node": "a", "path": "shop/web-1-u", "bytes": 1_048_576, "files": 40, "freezeMs": 87, "encryption": {"keyId": "0011223344556677"},
                "containers": [{"name": "main", "processes": 1, "bytes": 1024}], "completionTime": "2026-01-01T00:00:00Z"}}))
        .unwrap();
        let text = describe(&object);
        for part in [
            "Phase:     Complete",
            "Size:      1 MiB in 40 files",
            "Store:     shared://shop/web-1-u",
            "Container: main: 1 process, images 1 KiB",
            "Freeze:    87 ms",
            "Encrypted: key 0011223344556677, key of Secret vault",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let failed = sorry("no checkpoint", &Failure { reason: "StoreFull".into(), message: "full".into(), remedy: "delete some".into(), log: String::new() });
        assert_eq!(failed, "✘ no checkpoint\n  Why: full (StoreFull)\n  What to do: delete some");
    }
}
