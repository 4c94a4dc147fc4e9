//! The cluster as the kubeconfig has it, and the objects in it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, Node, Pod as PodObject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;

use godwit_api::migration::{Compression, MemoryStrategy, Network, NotConverging, PodMigrationSpec, Tracking};
use godwit_api::{PodMigration, names};

use crate::error::{Error, innermost};
use crate::explain::Happened;
use crate::options::{self, Memory, Pod, Where};

/// For how long the cluster may be away while a migration is watched.
const AWAY: Duration = Duration::from_secs(60);

/// Environment variable with the `traceparent` of whoever runs this command, as OpenTelemetry's programs pass it on.
const TRACEPARENT: &str = "TRACEPARENT";

/// Most events that are told.
const EVENTS: usize = 10;

/// The trace that an order is a part of.
fn traceparent() -> Option<String> {
    std::env::var(TRACEPARENT).ok().filter(|text| !text.is_empty())
}

/// See the module.
pub struct Cluster {
    client: Client,
    /// The namespace asked for, or that of the context.
    pub namespace: String,
}

impl Cluster {
    /// Connects as the options say.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when there is no usable kubeconfig.
    pub async fn connect(place: &Where) -> Result<Self, Error> {
        let unreachable = |error: &(dyn std::error::Error + 'static)| Error::Unreachable(innermost(error));
        let options = KubeConfigOptions { context: place.context.clone(), ..KubeConfigOptions::default() };
        let config = match &place.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| unreachable(&error))?;
                Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unreachable(&error))?
            }
            None if place.context.is_some() => Config::from_kubeconfig(&options).await.map_err(|error| unreachable(&error))?,
            None => Config::infer().await.map_err(|error| unreachable(&error))?,
        };
        let namespace = place.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { client: Client::try_from(config)?, namespace })
    }

    fn migrations(&self) -> Api<PodMigration> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Orders a migration.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn order(&self, pod: &Pod) -> Result<PodMigration, Error> {
        let name = pod.name.strip_prefix("pod/").or_else(|| pod.name.strip_prefix("pods/")).unwrap_or(&pod.name);
        let mut short: String = name.chars().take(50).collect();
        short.truncate(short.trim_end_matches(['-', '.']).len());
        let object = PodMigration {
            metadata: ObjectMeta {
                generate_name: Some(format!("{short}-")),
                annotations: traceparent().map(|text| BTreeMap::from([(names::ANNOTATION_TRACEPARENT.to_owned(), text)])),
                labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), "kubectl-migrate".to_owned())])),
                ..ObjectMeta::default()
            },
            spec: PodMigrationSpec {
                pod_name: name.to_owned(),
                target_node: pod.to.clone(),
                engine: pod.engine.map(Into::into),
                memory: pod.memory.map(|memory| match memory {
                    Memory::Auto => MemoryStrategy::Auto,
                    Memory::StopAndCopy => MemoryStrategy::StopAndCopy,
                    Memory::PreCopy => MemoryStrategy::PreCopy,
                    Memory::PostCopy => MemoryStrategy::PostCopy,
                }),
                freeze_budget_ms: pod.freeze_budget,
                bandwidth_mib: pod.bandwidth,
                compression: pod.compression.map(|what| match what {
                    options::Compression::Auto => Compression::Auto,
                    options::Compression::Always => Compression::Always,
                    options::Compression::Never => Compression::Never,
                }),
                if_not_converging: pod.if_not_converging.map(|what| match what {
                    options::NotConverging::LongerFreeze => NotConverging::LongerFreeze,
                    options::NotConverging::GiveUp => NotConverging::GiveUp,
                    options::NotConverging::PostCopy => NotConverging::PostCopy,
                }),
                tracking: pod.tracking.map(|what| match what {
                    options::Tracking::Auto => Tracking::Auto,
                    options::Tracking::Digests => Tracking::Digests,
                }),
                connections: pod.connections,
                deadline_seconds: pod.deadline.map(|time| u32::try_from(time.as_secs().max(1)).unwrap_or(u32::MAX)),
                network: match pod.network {
                    options::Network::Auto => Network::Auto,
                    options::Network::KeepAddress => Network::KeepAddress,
                    options::Network::Anchor => Network::Anchor,
                    options::Network::Close => Network::Close,
                },
                dry_run: pod.dry_run,
                ttl_seconds: pod.dry_run.then_some(300),
                ..PodMigrationSpec::default()
            },
            status: None,
        };
        Ok(self.migrations().create(&PostParams::default(), &object).await?)
    }

    /// One migration.
    ///
    /// # Errors
    /// [`Error::NoMigration`] when there is none of that name.
    pub async fn get(&self, name: &str) -> Result<PodMigration, Error> {
        match self.migrations().get(name).await {
            Err(kube::Error::Api(status)) if status.code == 404 && status.details.as_ref().is_some_and(|details| !details.name.is_empty()) => {
                Err(Error::NoMigration(name.to_owned(), self.namespace.clone()))
            }
            other => Ok(other?),
        }
    }

    /// The migration of that name, else the newest of a pod of that name.
    ///
    /// # Errors
    /// [`Error::NoMigration`] when there is neither.
    pub async fn find(&self, name: &str) -> Result<PodMigration, Error> {
        let pod = name.strip_prefix("pod/").unwrap_or(name);
        match self.get(name).await {
            Err(Error::NoMigration(..)) => {}
            other => return other,
        }
        let now = |one: &PodMigration| one.status.as_ref().and_then(|status| status.target_pod.clone());
        let found = self.list(false).await?.into_iter().rev().find(|one| one.spec.pod_name == pod || now(one).as_deref() == Some(pod));
        found.ok_or_else(|| Error::NoMigration(name.to_owned(), self.namespace.clone()))
    }

    /// The API server.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The node of a pod, if that may be known.
    pub async fn node_of(&self, pod: &str) -> Option<String> {
        let pods: Api<PodObject> = Api::namespaced(self.client.clone(), &self.namespace);
        pods.get(pod).await.ok()?.spec?.node_name
    }

    /// The newest migration that is under way.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn under_way(&self) -> Result<Option<PodMigration>, Error> {
        let ended = |one: &PodMigration| one.status.as_ref().is_some_and(|status| status.phase.is_final());
        Ok(self.list(false).await?.into_iter().rev().find(|one| !ended(one)))
    }

    /// All nodes with an agent but that of the pod.
    ///
    /// # Errors
    /// When there is no such pod, or it is on no node.
    pub async fn other_nodes(&self, pod: &str) -> Result<Vec<String>, Error> {
        let pods: Api<PodObject> = Api::namespaced(self.client.clone(), &self.namespace);
        let own = pods.get(pod).await?.spec.and_then(|spec| spec.node_name);
        let nodes: Api<Node> = Api::all(self.client.clone());
        let found = nodes.list(&ListParams::default().labels(names::NODE_LABEL_READY)).await?;
        Ok(found.items.iter().map(ResourceExt::name_any).filter(|name| Some(name) != own.as_ref()).collect())
    }

    /// Orders a dry run.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn dry_run(&self, pod: &str, node: &str) -> Result<PodMigration, Error> {
        self.order(&Pod {
            name: pod.to_owned(),
            to: Some(node.to_owned()),
            dry_run: true,
            deadline: None,
            engine: None,
            memory: None,
            freeze_budget: None,
            bandwidth: None,
            compression: None,
            if_not_converging: None,
            tracking: None,
            connections: None,
            network: options::Network::Auto,
            no_wait: true,
        })
        .await
    }

    /// Takes the record of a dry run away; its time to live does so too.
    pub async fn forget(&self, name: &str) {
        let _ = self.migrations().delete(name, &DeleteParams::default()).await;
    }

    /// The last migration that failed, else the last one.
    ///
    /// # Errors
    /// [`Error::NoMigration`] when there is none.
    pub async fn last(&self) -> Result<PodMigration, Error> {
        let mut all = self.list(false).await?;
        let failed = all.iter().rposition(|one| one.status.as_ref().is_some_and(|status| status.failure.is_some()));
        let index = failed.or_else(|| all.len().checked_sub(1)).ok_or_else(|| Error::NoMigration("at all".to_owned(), self.namespace.clone()))?;
        Ok(all.swap_remove(index))
    }

    /// Warnings about a migration and its pods, the oldest first. None when they may not be read: they only add to what the record says.
    pub async fn warnings(&self, object: &PodMigration) -> Vec<Happened> {
        let status = object.status.clone().unwrap_or_default();
        let names = [Some(object.name_any()), Some(object.spec.pod_name.clone()), status.target_pod];
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let Ok(found) = events.list(&ListParams::default().fields("type=Warning")).await else { return Vec::new() };
        let began = object.metadata.creation_timestamp.clone();
        let when = |event: &Event| event.last_timestamp.clone().or_else(|| event.event_time.as_ref().map(|time| Time(time.0)));
        let mut about: Vec<Event> = found.items.into_iter().filter(|event| names.contains(&event.involved_object.name) && when(event) >= began).collect();
        about.sort_by_key(when);
        let told = about.into_iter().map(|event| Happened {
            about: format!("{} {}", event.involved_object.kind.unwrap_or_default(), event.involved_object.name.unwrap_or_default()),
            reason: event.reason.unwrap_or_default(),
            note: event.message.unwrap_or_default(),
        });
        let mut told: Vec<Happened> = told.collect();
        told.dedup();
        told.split_off(told.len().saturating_sub(EVENTS))
    }

    /// All migrations of the namespace, or of all; the oldest first.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn list(&self, everywhere: bool) -> Result<Vec<PodMigration>, Error> {
        let api = if everywhere { Api::all(self.client.clone()) } else { self.migrations() };
        let mut found = api.list(&ListParams::default()).await?.items;
        found.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
        Ok(found)
    }

    /// Asks for a migration to be taken back.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn cancel(&self, name: &str) -> Result<PodMigration, Error> {
        self.get(name).await?;
        Ok(self.migrations().patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"cancel": true}}))).await?)
    }

    /// Asks for an anchor to be retired.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn release(&self, name: &str) -> Result<PodMigration, Error> {
        self.get(name).await?;
        Ok(self.migrations().patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"releaseAnchor": true}}))).await?)
    }

    /// Shows each version of a migration to `see` until that answers. `None` for one that is gone.
    ///
    /// # Errors
    /// When the API server has been away for too long.
    pub async fn watch<T>(&self, name: &str, mut see: impl FnMut(Option<&PodMigration>) -> Result<Option<T>, Error>) -> Result<T, Error> {
        let stream = watcher::watch_object(self.migrations(), name);
        futures::pin_mut!(stream);
        let mut away = None;
        loop {
            match stream.next().await {
                Some(Ok(object)) => {
                    away = None;
                    if let Some(answer) = see(object.as_ref())? {
                        return Ok(answer);
                    }
                }
                Some(Err(error)) => {
                    let since = *away.get_or_insert_with(tokio::time::Instant::now);
                    if since.elapsed() > AWAY {
                        return Err(Error::Unreachable(innermost(&error)));
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                None => return Err(Error::Unreachable("the watch ended".into())),
            }
        }
    }
}
