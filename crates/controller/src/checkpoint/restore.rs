//! `PodRestore`: a new pod of a checkpoint. It is a copy: nobody has to hand over to it, and when it is not restored it is removed, with nothing lost.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use serde_json::json;

use godwit_api::checkpoint::{CheckpointPhase, RestorePhase};
use godwit_api::migration::Failure;
use godwit_api::{PodCheckpoint, PodCheckpointStatus, PodRestore, PodRestoreStatus, names};
use godwit_migration::plan::nodes as comparison;
use godwit_rpc::Key;
use godwit_rpc::v1::{AssessRequest, Imported, RestorePodRequest, Shelf, restore_pod_reply};

use super::{keys, logins, make, seal};
use crate::aftermath::{self, Arrival, Look};
use crate::answered::put_away;
use crate::candidates::Candidate;
use crate::context::Context;
use crate::error::Error;
use crate::plan::engine;
use crate::pods::Images;
use crate::target::import;
use crate::{checks, failure, finalizer, naming, nodes, phase, pods, target};

/// How long one call waits.
const WAIT: Duration = Duration::from_secs(1);
/// How long an agent that restarts is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a pod that has no node or no containers yet.
const LOOK: Duration = Duration::from_millis(300);
/// How long the record stays.
const STAY: Duration = Duration::from_secs(86_400);

/// Carries one restore as far as it goes now.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn reconcile(object: Arc<PodRestore>, context: Arc<Context>) -> Result<Action, Error> {
    let api: Api<PodRestore> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let Some(object) = api.get_opt(&object.name_any()).await? else { return Ok(Action::await_change()) };
    let status = object.status.clone().unwrap_or_default();
    let restore = Restore { context: &context, api: &api, object: &object };
    if status.phase.is_final() {
        restore.finalizer(false).await?;
        let Some(done) = status.completion_time.clone().filter(|_| object.metadata.deletion_timestamp.is_none()) else { return Ok(Action::await_change()) };
        return match restore.look(status, done.0).await? {
            Some(action) => Ok(action),
            None => put_away(&api, &object.name_any(), &done, STAY).await,
        };
    }
    if object.metadata.deletion_timestamp.is_some() {
        restore.give_up(&status).await?;
        restore.finalizer(false).await?;
        return Ok(Action::await_change());
    }
    // Before a pod is made, and again when Godwit was uninstalled meanwhile, which lifts it.
    if restore.finalizer(true).await? {
        return Ok(Action::requeue(Duration::ZERO));
    }
    match status.phase {
        RestorePhase::Pending => restore.begin(status).await,
        RestorePhase::Preparing => restore.place(status).await,
        _ => restore.run(status).await,
    }
}

/// How soon to try again.
#[must_use]
pub fn retry(object: Arc<PodRestore>, error: &Error, _: Arc<Context>) -> Action {
    let error: &dyn std::error::Error = error;
    tracing::warn!(namespace = object.namespace(), name = object.name_any(), error, "a PodRestore will be looked at again");
    Action::requeue(Duration::from_secs(1))
}

/// What is to be restored, checked.
struct Origin {
    checkpoint: PodCheckpoint,
    status: PodCheckpointStatus,
    pod: Pod,
}

struct Restore<'a> {
    context: &'a Context,
    api: &'a Api<PodRestore>,
    object: &'a PodRestore,
}

impl Restore<'_> {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.context.client.clone(), &self.object.namespace().unwrap_or_default())
    }

    fn uid(&self) -> String {
        self.object.uid().unwrap_or_default()
    }

    /// Sets the finalizer or takes it away. `true`: it had to be changed.
    async fn finalizer(&self, wanted: bool) -> Result<bool, Error> {
        let Some(patch) = finalizer::patch(&self.object.metadata, names::FINALIZER_CHECKPOINT, wanted) else { return Ok(false) };
        match self.api.patch(&self.object.name_any(), &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(true),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(true),
        }
    }

    async fn write(&self, status: PodRestoreStatus) -> Result<Action, Error> {
        let mut next = self.object.clone();
        next.status = Some(status);
        match self.api.replace_status(&self.object.name_any(), &PostParams::default(), &next).await {
            Ok(_) => Ok(Action::requeue(Duration::ZERO)),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(Action::requeue(Duration::from_millis(100))),
            Err(error) => Err(error.into()),
        }
    }

    /// The new pod goes, and the record says why.
    async fn fail(&self, mut status: PodRestoreStatus, why: Failure) -> Result<Action, Error> {
        tracing::info!(namespace = self.object.namespace(), name = self.object.name_any(), reason = why.reason, message = why.message, "not restored");
        self.remove_pod(&status).await?;
        status.phase = RestorePhase::Failed;
        status.failure = Some(why);
        status.completion_time = Some(Time(Timestamp::now()));
        self.write(status).await
    }

    /// Deletes the new pod, if it is ours.
    async fn remove_pod(&self, status: &PodRestoreStatus) -> Result<(), Error> {
        let Some(name) = &status.pod else { return Ok(()) };
        let Some(pod) = self.pods().get_opt(name).await?.filter(|pod| self.is_ours(pod)) else { return Ok(()) };
        let only = Preconditions { uid: pod.uid(), resource_version: None };
        match self.pods().delete(name, &DeleteParams { preconditions: Some(only), ..DeleteParams::default() }).await {
            Err(kube::Error::Api(status)) if !status.is_not_found() && !status.is_conflict() => Err(kube::Error::Api(status).into()),
            Err(kube::Error::Api(_)) | Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The record was deleted on the way.
    async fn give_up(&self, status: &PodRestoreStatus) -> Result<(), Error> {
        if let (Some(node), Some(pod_uid)) = (&status.node, &status.pod_uid) {
            let request = RestorePodRequest {
                uid: self.uid(),
                pod_uid: pod_uid.clone(),
                checkpoint: Some(godwit_rpc::v1::Checkpoint { uid: self.uid(), namespace: "none".into(), name: "none".into() }),
                abandon: true,
                // Until CRIU has tidied up.
                wait_ms: 20_000,
                ..RestorePodRequest::default()
            };
            let told = self.context.agents.call(node, WAIT, |mut agent| {
                let request = request.clone();
                async move { agent.restore_pod(request).await }
            });
            if let Err(error) = told.await {
                tracing::debug!(node, cause = error.cause(), "the agent was not told that a restore is given up");
            }
        }
        self.remove_pod(status).await
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        pod.annotations().get(names::ANNOTATION_MIGRATION) == self.object.metadata.uid.as_ref()
    }

    /// The checkpoint as it was made. The inner result says why it cannot be restored.
    async fn origin(&self) -> Result<Result<Origin, Failure>, Error> {
        let api: Api<PodCheckpoint> = Api::namespaced(self.context.client.clone(), &self.object.namespace().unwrap_or_default());
        let name = &self.object.spec.checkpoint_name;
        let Some(checkpoint) = api.get_opt(name).await? else {
            return Ok(Err(failure::checkpoint_unknown(name, &self.object.namespace().unwrap_or_default())));
        };
        let status = checkpoint.status.clone().unwrap_or_default();
        if checkpoint.metadata.deletion_timestamp.is_some() {
            return Ok(Err(failure::checkpoint_not_ready(name, "it is being deleted")));
        }
        match status.phase {
            CheckpointPhase::Complete => {}
            CheckpointPhase::Failed => return Ok(Err(failure::checkpoint_not_ready(name, "it was not made"))),
            CheckpointPhase::Pending | CheckpointPhase::Working => return Ok(Err(failure::checkpoint_not_ready(name, "it is still being made"))),
        }
        let pod: Option<Pod> = status.pod.clone().and_then(|pod| serde_json::from_value(pod).ok());
        let (seal, digest) = (status.seal.clone().unwrap_or_default(), status.digest.clone().unwrap_or_default());
        let uid = checkpoint.uid().unwrap_or_default();
        match pod.filter(|pod| seal::holds(&seal, &self.context.ticket_key, &uid, &digest, pod)) {
            Some(pod) => Ok(Ok(Origin { checkpoint, status, pod })),
            None => Ok(Err(failure::checkpoint_forged(name))),
        }
    }

    /// The key of an encrypted checkpoint. The inner result says why it is not there.
    async fn key(&self, origin: &Origin) -> Result<Result<Option<Key>, Failure>, Error> {
        let Some(encrypted) = &origin.status.encryption else { return Ok(Ok(None)) };
        let name = origin.checkpoint.name_any();
        let Some(named) = &self.object.spec.encryption else {
            return Ok(Err(failure::key_missing(
                &format!("checkpoint {name} is encrypted with the key {}, and the order names no Secret", encrypted.key_id),
                "Name the Secret that has its key: --decrypt-with SECRET, or spec.encryption.secretName.",
            )));
        };
        let read = keys::read(&self.context.client, &self.object.namespace().unwrap_or_default(), named).await?;
        Ok(read.and_then(|key| if key.id() == encrypted.key_id { Ok(Some(key)) } else { Err(failure::key_wrong(&name, &key.id(), &encrypted.key_id)) }))
    }

    /// Where it is kept; and why nobody logs in there, although somebody should.
    async fn shelf(&self, origin: &Origin) -> Result<(Shelf, Option<Failure>), Error> {
        let namespace = self.object.namespace().unwrap_or_default();
        logins::shelf(&self.context.client, &namespace, &origin.checkpoint.spec.store, self.object.spec.credentials.as_ref()).await
    }

    /// Chooses nodes and a name, and writes them down.
    async fn begin(&self, mut status: PodRestoreStatus) -> Result<Action, Error> {
        status.start_time.get_or_insert_with(|| Time(Timestamp::now()));
        let origin = match self.origin().await? {
            Ok(origin) => origin,
            Err(why) => return self.fail(status, why).await,
        };
        if let Err(why) = self.key(&origin).await? {
            return self.fail(status, why).await;
        }
        if let (_, Some(why)) = self.shelf(&origin).await? {
            return self.fail(status, why).await;
        }
        match self.nodes(&origin).await? {
            Ok((engine, nodes)) => (status.engine, status.nodes) = (Some(engine.into()), nodes),
            Err(why) => return self.fail(status, why).await,
        }
        let name = match &self.object.spec.pod_name {
            Some(name) => match self.pods().get_opt(name).await? {
                Some(_) => return self.fail(status, failure::pod_exists(name)).await,
                None => name.clone(),
            },
            None => self.free_name(&origin.pod).await?,
        };
        status.pod = Some(name);
        status.phase = RestorePhase::Preparing;
        self.write(status).await
    }

    async fn free_name(&self, origin: &Pod) -> Result<String, Error> {
        for number in 1.. {
            let name = naming::restored_name(&origin.name_any(), number);
            if self.pods().get_opt(&name).await?.is_none() {
                return Ok(name);
            }
        }
        Err(Error::NotYet("no name is free"))
    }

    /// What makes the pod, and nodes that can take it so. The inner result says why there is none.
    async fn nodes(&self, origin: &Origin) -> Result<Result<(&'static str, Vec<String>), Failure>, Error> {
        let candidates = match self.candidates(origin).await? {
            Ok(candidates) => candidates,
            Err(why) => return Ok(Err(why)),
        };
        let engine = engine::choose(self.object.spec.engine.unwrap_or_default(), || engine::restorable(&origin.status), &candidates);
        Ok(engine.map(|engine| {
            let able = candidates.iter().filter(|candidate| engine::unable(engine, candidate).is_empty());
            (engine, able.map(|candidate| candidate.node.clone()).collect())
        }))
    }

    /// Nodes that can take it, by whatever engine. The inner result says why there is none.
    async fn candidates(&self, origin: &Origin) -> Result<Result<Vec<Candidate>, Failure>, Error> {
        let pod = origin.pod.name_any();
        if let Some(name) = &self.object.spec.node_name {
            let Some(node) = self.context.nodes().get_opt(name).await? else { return Ok(Err(failure::node_not_found(name))) };
            return Ok(self.could_take(origin, &node).await.map(|candidate| vec![candidate]));
        }
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for node in self.context.nodes().list(&ListParams::default()).await?.items {
            match self.could_take(origin, &node).await {
                Ok(candidate) => good.push(candidate),
                Err(why) => bad.push(format!("{}: {}", node.name_any(), why.message)),
            }
        }
        if good.is_empty() {
            return Ok(Err(failure::no_target(&pod, &bad.join("; "))));
        }
        Ok(Ok(good))
    }

    async fn could_take(&self, origin: &Origin, node: &Node) -> Result<Candidate, Failure> {
        let name = node.name_any();
        nodes::check(node, &origin.pod.name_any(), "")?;
        let memory = origin.status.bytes.unwrap_or_default();
        let asked = self.context.agents.call(&name, PATIENCE, |mut agent| {
            let request = AssessRequest { bytes: memory, ..AssessRequest::default() };
            async move { agent.assess(request).await }
        });
        let mut reply = asked.await.map_err(|error| phase::explain(&error))?;
        let there = reply.node.take().unwrap_or_default();
        let facts = origin.status.facts.clone().unwrap_or_default();
        let before = comparison::Node {
            // The same node may have changed since, too.
            name: format!("{} (when the checkpoint was made)", origin.status.node.clone().unwrap_or_default()),
            architecture: facts.architecture,
            cpu_flags: facts.cpu_flags,
            kernel: facts.kernel,
            criu: facts.criu,
            cgroup: facts.cgroup,
            // Checkpoints outlive releases: the format of the index says whether an agent understands it.
            agent: there.agent.clone(),
        };
        let now = checks::comparable(&name, &there);
        let differs =
            comparison::compare(&before, &now, comparison::Needs::default()).blockers.into_iter().map(|why| failure::new(&why.reason, why.message, why.remedy));
        let blocker = std::mem::take(&mut reply.blockers).into_iter().map(phase::api_failure).chain(differs).next();
        blocker.map_or(Ok(Candidate { node: name, reply }), Err)
    }

    /// Makes the pod and waits until it has a node.
    async fn place(&self, mut status: PodRestoreStatus) -> Result<Action, Error> {
        let name = status.pod.clone().unwrap_or_default();
        let pod = match self.pods().get_opt(&name).await? {
            Some(pod) if self.is_ours(&pod) => pod,
            Some(_) if self.object.spec.pod_name.is_some() => {
                status.pod = None;
                return self.fail(status, failure::pod_exists(&name)).await;
            }
            Some(_) => {
                // Somebody was faster.
                status.phase = RestorePhase::Pending;
                return self.write(status).await;
            }
            None if status.pod_uid.is_some() => return self.fail(status, failure::target_gone(&name, "was deleted by somebody else")).await,
            None => {
                let origin = match self.origin().await? {
                    Ok(origin) => origin,
                    Err(why) => return self.fail(status, why).await,
                };
                let order =
                    target::Copy { name: &name, restore: &self.object.name_any(), restore_uid: &self.uid(), nodes: &status.nodes, import: by_import(&status) };
                match self.pods().create(&PostParams::default(), &target::copy(&origin.pod, &order)).await {
                    Ok(pod) => pod,
                    Err(kube::Error::Api(said)) if said.is_already_exists() => return Ok(Action::requeue(Duration::ZERO)),
                    Err(kube::Error::Api(said)) if said.is_forbidden() || said.is_invalid() => {
                        return self.fail(status, failure::target_refused(&said.message)).await;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        if status.pod_uid.is_none() {
            status.pod_uid = pod.uid();
            return self.write(status).await;
        }
        match pods::node(&pod) {
            Some(node) => {
                status.node = Some(node.to_owned());
                status.phase = RestorePhase::Restoring;
                self.write(status).await
            }
            None => match pods::unschedulable(&pod).or_else(|| pods::hopeless(&pod)) {
                Some(why) => self.fail(status, why).await,
                None => Ok(Action::requeue(LOOK)),
            },
        }
    }

    /// The agent restores; the pod is ready to be used when its processes run.
    async fn run(&self, mut status: PodRestoreStatus) -> Result<Action, Error> {
        let name = status.pod.clone().unwrap_or_default();
        let Some(pod) = self.pods().get_opt(&name).await?.filter(|pod| pod.metadata.uid == status.pod_uid) else {
            return self.fail(status, failure::target_gone(&name, "was deleted by somebody else")).await;
        };
        let origin = match self.origin().await? {
            Ok(origin) => origin,
            Err(why) => return self.fail(status, why).await,
        };
        let imports = imports(&status, &origin.pod, &pod);
        // A tag may have moved: the files below the container must be the ones that its processes have open. Of what the runtime itself makes the agent sees to that.
        let hold = match pods::images(&origin.pod, &pod) {
            _ if !imports.is_empty() => false,
            Images::Same => false,
            Images::Unknown => true,
            Images::Differ(why) => {
                self.give_up(&status).await?;
                return self.fail(status, why).await;
            }
        };
        // An agent that is at work does not need it any more.
        let (key, no_key) = match self.key(&origin).await? {
            Ok(key) => (key, None),
            Err(why) => (None, Some(why)),
        };
        let (shelf, no_login) = self.shelf(&origin).await?;
        let containers = origin.pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.clone());
        let request = RestorePodRequest {
            uid: self.uid(),
            pod_uid: status.pod_uid.clone().unwrap_or_default(),
            containers: containers.collect(),
            checkpoint: Some(super::name(&origin.checkpoint)),
            digest: origin.status.digest.clone().unwrap_or_default(),
            wait_ms: u32::try_from(if hold { LOOK } else { WAIT }.as_millis()).unwrap_or(u32::MAX),
            abandon: false,
            hold,
            key: key.as_ref().map(Key::message),
            shelf: Some(shelf),
            imports,
        };
        let node = status.node.clone().unwrap_or_default();
        let asked = self.context.agents.call(&node, PATIENCE, |mut agent| {
            let request = request.clone();
            async move { agent.restore_pod(request).await }
        });
        match asked.await.map(|reply| reply.state) {
            Ok(Some(restore_pod_reply::State::Restored(_))) => {
                self.live(&name).await?;
                status.phase = RestorePhase::Succeeded;
                status.completion_time = Some(Time(Timestamp::now()));
                self.write(status).await
            }
            Ok(Some(restore_pod_reply::State::Failure(why))) => self.fail(status, make::first_cause(phase::api_failure(why), no_key, no_login)).await,
            // A checkpoint image, whose name has our UID, cannot be pulled before the agent has the checkpoint, and then the kubelet waits for a while.
            Ok(Some(restore_pod_reply::State::Doing(_)) | None) => match pods::hopeless(&pod).filter(|why| !why.message.contains(&self.uid())) {
                Some(why) => {
                    self.give_up(&status).await?;
                    self.fail(status, why).await
                }
                None => Ok(Action::requeue(Duration::from_millis(20))),
            },
            Err(error) => self.fail(status, phase::explain(&error)).await,
        }
    }

    /// Whether the new pod still runs after a while, once. Returns when to come back for that.
    async fn look(&self, mut status: PodRestoreStatus, since: Timestamp) -> Result<Option<Action>, Error> {
        if status.phase != RestorePhase::Succeeded || aftermath::is_judged(&status.conditions) {
            return Ok(None);
        }
        let (Some(name), Some(uid), Some(node)) = (&status.pod, &status.pod_uid, &status.node) else { return Ok(None) };
        let namespace = self.object.namespace().unwrap_or_default();
        match (Arrival { namespace: &namespace, name, uid, node, since }).look(self.context).await? {
            Look::Early(left) => Ok(Some(Action::requeue(left))),
            Look::Late => Ok(None),
            Look::Done(verdict) => {
                verdict.write(&mut status.conditions, self.object.metadata.generation);
                // Who changes the record meanwhile brings it back here.
                self.write(status).await.map(|_| None)
            }
        }
    }

    /// Opens the readiness gate of the new pod.
    async fn live(&self, name: &str) -> Result<(), Error> {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let patch = json!({"status": {"conditions": [
            {"type": names::CONDITION_LIVE, "status": "True", "reason": "Running", "message": "the restored processes run here", "lastTransitionTime": now},
        ]}});
        match self.pods().patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }
}

/// The container runtime itself makes the pod.
fn by_import(status: &PodRestoreStatus) -> bool {
    status.engine.as_deref() == Some(engine::CHECKPOINT)
}

/// The containers that the runtime itself makes, and their own images.
fn imports(status: &PodRestoreStatus, origin: &Pod, pod: &Pod) -> Vec<Imported> {
    if !by_import(status) {
        return Vec::new();
    }
    let mut images = import::own_images(pod);
    let names = origin.spec.iter().flat_map(|spec| &spec.containers).map(|container| &container.name);
    names.map(|name| Imported { name: name.clone(), image: images.remove(name).unwrap_or_default(), archived: Vec::new() }).collect()
}
