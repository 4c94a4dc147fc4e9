//! The migrations that this agent has a part in, by the source pod's UID and role.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::FutureExt;
use godwit_rpc::v1::{Checkpoint, CheckpointMade, Failure, Migration};
use godwit_runtime::protocol::{Reply, Request};

use crate::{
    checkpoint::{
        cipher::Vault,
        grip,
        job::Job,
        place::Shelf,
        restore::{Order, Restoration},
        take::take,
    },
    failure::failure,
    import,
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
    /// By the UID of the PodCheckpoint.
    checkpoints: Mutex<HashMap<String, Keeping>>,
    /// By the UID of the PodRestore.
    restorations: Mutex<HashMap<String, Arc<Restoration>>>,
    arrived: tokio::sync::Notify,
}

/// A checkpoint that is being made, or was.
struct Keeping {
    pod_uid: String,
    job: Job<CheckpointMade>,
}

/// So many checkpoints and restores that have ended are remembered.
const REMEMBERED: usize = 256;

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
        import::leftovers::forget_others(&node.host, &targets.values().map(|session| session.migration.uid.clone()).collect());
        let registry = Arc::new(Self {
            node,
            desk,
            sources: Mutex::new(sources),
            targets: Mutex::new(targets),
            checkpoints: Mutex::default(),
            restorations: Mutex::default(),
            arrived: tokio::sync::Notify::new(),
        });
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
        // Held to the end: a checkpoint begins in the same order.
        let checkpoints = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if checkpoints.values().any(|keeping| keeping.pod_uid == migration.source_pod_uid && !keeping.job.ended()) {
            return Err(being_checkpointed(&migration.source_pod));
        }
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

    /// The checkpoint of this name, begun where it is not there yet.
    ///
    /// # Errors
    /// When the pod is on its way, another checkpoint of it is being made, or the key is not there, which only its beginning needs.
    pub fn checkpoint(
        &self,
        checkpoint: &Checkpoint,
        pod_uid: &str,
        shelf: Shelf,
        vault: Result<Option<Vault>, Failure>,
    ) -> Result<Job<CheckpointMade>, Failure> {
        let mut checkpoints = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keeping) = checkpoints.get(&checkpoint.uid) {
            return Ok(keeping.job.clone());
        }
        let vault = vault?;
        if checkpoints.values().any(|keeping| keeping.pod_uid == pod_uid && !keeping.job.ended()) {
            return Err(being_checkpointed(pod_uid));
        }
        let leaves = self.sources.lock().unwrap_or_else(PoisonError::into_inner).get(pod_uid).is_some_and(|session| !session.machine().finished());
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let comes = targets.values().any(|session| session.migration.target_pod_uid == pod_uid && !session.machine().finished());
        let restorations = self.restorations.lock().unwrap_or_else(PoisonError::into_inner);
        if leaves || comes || restorations.values().any(|one| one.order.pod_uid == pod_uid && !one.job.ended()) {
            return Err(failure("OnTheMove", "the pod is being moved or restored", "wait until that has ended"));
        }
        if checkpoints.len() > REMEMBERED {
            checkpoints.retain(|_, keeping| !keeping.job.ended());
        }
        let job = Job::new("look");
        checkpoints.insert(checkpoint.uid.clone(), Keeping { pod_uid: pod_uid.to_owned(), job: job.clone() });
        let (node, checkpoint, pod_uid, own) = (self.node.clone(), checkpoint.clone(), pod_uid.to_owned(), job.clone());
        tokio::spawn(async move {
            let outcome = take(&node, &checkpoint, &pod_uid, &shelf, vault, &own).await;
            if let Err(why) = &outcome {
                tracing::warn!(checkpoint = checkpoint.name, namespace = checkpoint.namespace, reason = why.reason, message = why.message, "no checkpoint");
            }
            grip::tidy(&node, &checkpoint.uid);
            own.end(outcome);
        });
        Ok(job)
    }

    /// Forgets a checkpoint that has ended. `false`: it has not.
    #[must_use]
    pub fn forget_checkpoint(&self, uid: &str) -> bool {
        let mut checkpoints = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = checkpoints.get(uid).is_none_or(|keeping| keeping.job.ended());
        if ended {
            checkpoints.remove(uid);
        }
        ended
    }

    /// The restore of this name, begun where it is not there yet.
    #[must_use]
    pub fn restore(&self, order: Order, vault: Option<Vault>) -> Arc<Restoration> {
        let restoration = {
            let mut restorations = self.restorations.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(restoration) = restorations.get(&order.uid) {
                return restoration.clone();
            }
            if restorations.len() > REMEMBERED {
                restorations.retain(|_, restoration| !restoration.job.ended());
            }
            let restoration = Restoration::begin(self.node.clone(), self.desk.clone(), order, vault);
            restorations.insert(restoration.order.uid.clone(), restoration.clone());
            restoration
        };
        self.arrived.notify_waiters();
        restoration
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
        let checkpoints = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner).values().any(|keeping| !keeping.job.ended());
        let restores = self.restorations.lock().unwrap_or_else(PoisonError::into_inner).values().any(|restoration| !restoration.job.ended());
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        checkpoints
            || restores
            || sources.values().any(|session| !session.machine().finished())
            || targets.values().any(|session| !session.machine().finished() || session.filling.is_under_way())
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
            let restoration = self.restorations.lock().unwrap_or_else(PoisonError::into_inner).get(migration).cloned();
            if let Some(restoration) = restoration.filter(|restoration| restoration.order.pod_uid == *pod_uid) {
                return restoration.create(name, container);
            }
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

fn being_checkpointed(pod: &str) -> Failure {
    failure("BeingCheckpointed", format!("a checkpoint of pod {pod} is being made"), "wait until it has ended: kubectl get podcheckpoints")
}
