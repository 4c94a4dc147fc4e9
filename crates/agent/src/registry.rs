//! The migrations that this agent has a part in, by the source pod's UID and role.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::FutureExt;
use godwit_rpc::v1::{Failure, Migration};
use godwit_runtime::protocol::{Reply, Request};

use crate::{
    failure::failure,
    node::Node,
    source,
    target::{self, desk::Desk},
};

/// How long a `create` waits for the controller's word about its pod: both set out at the same time.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);

/// All of them.
pub struct Registry {
    /// The node.
    pub node: Arc<Node>,
    /// Where keepers ask.
    pub desk: Arc<Desk>,
    sources: Mutex<HashMap<String, source::session::Session>>,
    targets: Mutex<HashMap<String, target::session::Session>>,
    arrived: tokio::sync::Notify,
}

impl Registry {
    /// Takes up whatever the journal holds.
    ///
    /// # Errors
    /// When the journal cannot be read or understood: going on without it could let a pod run twice.
    pub fn load(node: Arc<Node>) -> anyhow::Result<Arc<Self>> {
        let desk = Desk::new();
        let mut sources = HashMap::new();
        for entry in node.journal.load(source::session::ROLE)? {
            let (key, session) = source::session::Session::resume(node.clone(), entry)?;
            tracing::info!(migration = session.migration.uid, pod = key, "taken up again as source");
            sources.insert(key, session);
        }
        node.anchors.keep_only(|pod| sources.contains_key(pod));
        let mut targets = HashMap::new();
        for entry in node.journal.load(target::session::ROLE)? {
            let session = target::session::Session::resume(node.clone(), desk.clone(), entry)?;
            tracing::info!(migration = session.migration.uid, pod = session.migration.source_pod_uid, "taken up again as target");
            targets.insert(session.migration.source_pod_uid.clone(), session);
        }
        let registry = Arc::new(Self { node, desk, sources: Mutex::new(sources), targets: Mutex::new(targets), arrived: tokio::sync::Notify::new() });
        let doorman = registry.clone();
        registry.desk.employ(Box::new(move |request| {
            let registry = doorman.clone();
            async move { registry.create(&request).await }.boxed()
        }));
        Ok(registry)
    }

    /// The migration of this pod in the source role, begun by `begin` where there is none or another one that has ended.
    ///
    /// # Errors
    /// When another migration of the pod is under way here.
    pub fn source_or(&self, migration: &Migration, begin: impl FnOnce() -> source::session::Session) -> Result<source::session::Session, Failure> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = sources.get(&migration.source_pod_uid) {
            if session.migration.uid == migration.uid {
                return Ok(session.clone());
            }
            if !session.machine().finished() {
                return Err(failure(
                    "AlreadyMigrating",
                    format!("pod {} is moved by {} already", migration.source_pod, session.migration.name),
                    "wait until it has ended, or cancel it",
                ));
            }
        }
        let session = begin();
        if let Some(ended) = sources.insert(migration.source_pod_uid.clone(), session.clone()) {
            ended.end();
        }
        Ok(session)
    }

    /// The migration in the source role, if it is here.
    #[must_use]
    pub fn source(&self, migration: &Migration) -> Option<source::session::Session> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.get(&migration.source_pod_uid).filter(|session| session.migration.uid == migration.uid).cloned()
    }

    /// The migration of this pod in the target role, prepared by `prepare` where there is none or another one that has ended.
    ///
    /// # Errors
    /// When another migration of the pod comes here already.
    pub fn target_or(&self, migration: &Migration, prepare: impl FnOnce() -> target::session::Session) -> Result<target::session::Session, Failure> {
        let session = {
            let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
            match targets.get(&migration.source_pod_uid) {
                Some(session) if session.migration.uid == migration.uid => {
                    return Ok(session.clone());
                }
                Some(session) if !session.machine().finished() => {
                    return Err(failure(
                        "AlreadyMigrating",
                        format!("{} brings the same pod here already", session.migration.name),
                        "wait until it has ended, or cancel it",
                    ));
                }
                _ => {}
            }
            let session = prepare();
            if let Some(ended) = targets.insert(migration.source_pod_uid.clone(), session.clone()) {
                ended.end();
            }
            session
        };
        self.arrived.notify_waiters();
        Ok(session)
    }

    /// The migration in the target role, if it is here.
    #[must_use]
    pub fn target(&self, migration: &Migration) -> Option<target::session::Session> {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.get(&migration.source_pod_uid).filter(|session| session.migration.uid == migration.uid).cloned()
    }

    /// Whether a hand-over has not ended on this node.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        sources.values().any(|session| !session.machine().finished()) || targets.values().any(|session| !session.machine().finished())
    }

    /// Drops what has ended. Whatever has not stays.
    ///
    /// # Errors
    /// When the journal cannot be changed.
    pub async fn forget(&self, migration: &Migration) -> std::io::Result<bool> {
        let key = &migration.source_pod_uid;
        let source = self.source(migration);
        let target = self.target(migration);
        if source.as_ref().is_some_and(|session| !session.machine().finished()) || target.as_ref().is_some_and(|session| !session.machine().finished()) {
            return Ok(false);
        }
        if let Some(session) = source {
            session.forget().await?;
            self.sources.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        }
        if let Some(session) = target {
            session.forget().await?;
            self.targets.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        }
        Ok(true)
    }

    /// Decides about a `create` that names a migration: only what the controller has announced for this very pod leaves a keeper.
    async fn create(&self, request: &Request) -> Reply {
        let Request::Create { container, name, pod_uid, migration, source_uid, .. } = request else {
            return Reply::Fail { why: "not a create".into() };
        };
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let arrived = self.arrived.notified();
            let session = self.targets.lock().unwrap_or_else(PoisonError::into_inner).get(source_uid).cloned();
            if let Some(session) = session
                && session.migration.uid == *migration
                && session.migration.target_pod_uid == *pod_uid
            {
                return session.create(name, container).await;
            }
            if tokio::time::timeout_at(end, arrived).await.is_err() {
                return Reply::Fail { why: format!("no migration {migration} is announced for pod {pod_uid} on this node") };
            }
        }
    }
}
