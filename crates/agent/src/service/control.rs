//! `Agent`: what the controller asks for.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use godwit_migration::handover::source::State;
use godwit_node::cri;
use godwit_rpc::{
    Identity, Key, tls,
    v1::{self, agent_server::Agent, anchor_request::Action, checkpoint_reply, restore_pod_reply, switch_event},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Replies, is_uid, named};
use crate::{
    arbiter::Arbiter,
    checkpoint::{
        self,
        cipher::Vault,
        job,
        place::{Place, Shelf},
    },
    inspect,
    registry::Registry,
    source, target,
};

/// How long an earlier migration of the same pod may take to end on its target after it was taken back at its source.
const ENDING: Duration = Duration::from_secs(15);

/// Answers the controller.
pub struct Control {
    registry: Arc<Registry>,
}

impl Control {
    /// For this node's migrations.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

fn admit<T>(request: &Request<T>) -> Result<(), Status> {
    tls::require(request, &[Identity::Controller])
}

#[tonic::async_trait]
impl Agent for Control {
    async fn inspect(&self, request: Request<v1::InspectRequest>) -> Result<Response<v1::InspectReply>, Status> {
        admit(&request)?;
        let migration = named(request.into_inner().migration)?;
        let node = &self.registry.node;
        let reply = match inspect::inspect(&node.host, &node.cri, &migration.source_pod_uid).await {
            Ok(reply) => reply,
            Err(blocker) => v1::InspectReply { blockers: vec![blocker], ..v1::InspectReply::default() },
        };
        // Its earlier addresses live on through tunnels of their own.
        let earlier = node.mirrors.of_pod(&migration.source_pod_uid);
        let encrypts = node.wireguard.encrypts() && earlier.iter().all(|held| held.segment || !held.wireguard.is_empty());
        Ok(Response::new(v1::InspectReply { no_anchor: node.no_anchor.clone(), encrypts, ..reply }))
    }

    async fn assess(&self, request: Request<v1::AssessRequest>) -> Result<Response<v1::AssessReply>, Status> {
        admit(&request)?;
        let node = &self.registry.node;
        let request = request.into_inner();
        let reply = inspect::assess(&node.host, node.no_handler.is_empty(), &request).await;
        let no_anchor = match &request.migration {
            Some(migration) if request.reach && node.no_anchor.is_empty() => node.no_way_from(&migration.source_node, &migration.source_address).await,
            _ => node.no_anchor.clone(),
        };
        let no_same_address = match &request.migration {
            Some(migration) if request.same_address => node.no_same_address(migration, request.reach).await,
            _ => String::new(),
        };
        let (no_handler, no_import) = (node.no_handler.clone(), node.no_import(request.crun));
        Ok(Response::new(v1::AssessReply { no_anchor, no_same_address, encrypts: node.wireguard.encrypts(), no_handler, no_import, ..reply }))
    }

    async fn prepare_target(&self, request: Request<v1::PrepareTargetRequest>) -> Result<Response<v1::PrepareTargetReply>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        let migration = named(request.migration)?;
        let registry = &self.registry;
        let end = tokio::time::Instant::now() + ENDING;
        loop {
            let prepare = || {
                let imports = request.imports.iter().cloned().map(Into::into).collect();
                target::session::Session::prepare(registry.node.clone(), registry.desk.clone(), migration.clone(), request.containers.clone(), imports)
            };
            match registry.target_or(&migration, prepare) {
                Ok(_) => break,
                // An earlier migration of the pod was taken back at its source, and is about to end here, too.
                Err(why) if tokio::time::Instant::now() > end => return Err(Status::failed_precondition(why.message)),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        Ok(Response::new(v1::PrepareTargetReply {}))
    }

    async fn await_keepers(&self, request: Request<v1::AwaitKeepersRequest>) -> Result<Response<v1::AwaitKeepersReply>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        let session = self.registry.target(&named(request.migration)?).ok_or_else(|| Status::not_found("this migration was not prepared here"))?;
        Ok(Response::new(session.keepers(Duration::from_millis(request.wait_ms.into())).await))
    }

    type SwitchStream = Replies<v1::SwitchEvent>;

    async fn switch(&self, request: Request<v1::SwitchRequest>) -> Result<Response<Self::SwitchStream>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        let wishes = source::travel::Wishes::of(&request);
        let migration = named(request.migration)?;
        let registry = &self.registry;
        let session = registry
            .source_or(&migration, || source::session::Session::begin(registry.node.clone(), migration.clone(), wishes))
            .map_err(|why| Status::failed_precondition(why.message))?;
        let last = |event: &v1::SwitchEvent| matches!(event.event, Some(switch_event::Event::Outcome(_)));
        Ok(Response::new(session.events.follow(last).map(Ok).boxed()))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelReply>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        if let Some(session) = self.registry.source(&named(request.migration)?) {
            session.cancel(&request.why);
        }
        Ok(Response::new(v1::CancelReply {}))
    }

    async fn undo(&self, request: Request<v1::UndoRequest>) -> Result<Response<v1::UndoReply>, Status> {
        admit(&request)?;
        if let Some(session) = self.registry.target(&named(request.into_inner().migration)?) {
            session.undo("the controller undid it");
        }
        Ok(Response::new(v1::UndoReply {}))
    }

    async fn retire(&self, request: Request<v1::RetireRequest>) -> Result<Response<v1::RetireReply>, Status> {
        admit(&request)?;
        if let Some(session) = self.registry.source(&named(request.into_inner().migration)?) {
            session.retire();
            for _ in 0..300 {
                if *session.machine().state() == State::Retired {
                    return Ok(Response::new(v1::RetireReply {}));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            return Err(Status::failed_precondition("the source has not heard yet that the target runs"));
        }
        Ok(Response::new(v1::RetireReply {}))
    }

    async fn fill(&self, request: Request<v1::FillRequest>) -> Result<Response<v1::FillReply>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        let session = self.registry.target(&named(request.migration)?).ok_or_else(|| Status::not_found("this migration was not prepared here"))?;
        Ok(Response::new(session.filling.wait(Duration::from_millis(request.wait_ms.into())).await))
    }

    async fn check(&self, request: Request<v1::CheckRequest>) -> Result<Response<v1::CheckReply>, Status> {
        admit(&request)?;
        Ok(Response::new(crate::check::check(&self.registry.node, request.into_inner().fix).await))
    }

    type TraceStream = Replies<v1::TraceLine>;

    async fn trace(&self, request: Request<v1::TraceRequest>) -> Result<Response<Self::TraceStream>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        let migration = named(request.migration.clone())?;
        let lines = crate::trace::listen(&self.registry.node, &migration, &request);
        Ok(Response::new(ReceiverStream::new(lines).boxed()))
    }

    async fn checkpoint(&self, request: Request<v1::CheckpointRequest>) -> Result<Response<v1::CheckpointReply>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        let checkpoint = checkpoint::named(request.checkpoint)?;
        let vault = checkpoint::vault(&checkpoint, &request.key_id, request.key);
        let state = match self.registry.checkpoint(&checkpoint, &request.pod_uid, Shelf::received(request.shelf), vault) {
            Ok(job) => job.wait(Duration::from_millis(request.wait_ms.into())).await,
            Err(why) => job::State::Failed(why),
        };
        let state = match state {
            job::State::Doing(step) => checkpoint_reply::State::Doing(step.into()),
            job::State::Failed(why) => checkpoint_reply::State::Failure(why),
            job::State::Done(made) => checkpoint_reply::State::Made(made),
        };
        Ok(Response::new(v1::CheckpointReply { state: Some(state) }))
    }

    async fn remove_checkpoint(&self, request: Request<v1::RemoveCheckpointRequest>) -> Result<Response<v1::RemoveCheckpointReply>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        let checkpoint = checkpoint::named(request.checkpoint)?;
        if !self.registry.forget_checkpoint(&checkpoint.uid) {
            return Err(Status::unavailable("the checkpoint is still being made"));
        }
        let place = Place::open(&self.registry.node, &Shelf::received(request.shelf), &checkpoint.uid).map_err(|why| Status::unavailable(why.message))?;
        let left = match place.remove(&checkpoint).await {
            Ok(left) => left.unwrap_or_default(),
            Err(why) if request.once && place.is_remote() => why,
            Err(why) => return Err(Status::unavailable(format!("the checkpoint cannot be deleted: {why}"))),
        };
        Ok(Response::new(v1::RemoveCheckpointReply { left }))
    }

    async fn restore_pod(&self, request: Request<v1::RestorePodRequest>) -> Result<Response<v1::RestorePodReply>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        let checkpoint = checkpoint::named(request.checkpoint)?;
        if !is_uid(&request.uid) || !is_uid(&request.pod_uid) {
            return Err(Status::invalid_argument("the request names no restore or pod by a UID"));
        }
        let shelf = Shelf::received(request.shelf);
        let order = checkpoint::restore::Order {
            uid: request.uid,
            pod_uid: request.pod_uid,
            containers: request.containers,
            checkpoint,
            digest: request.digest,
            shelf,
            imports: request.imports.into_iter().map(Into::into).collect(),
        };
        let vault = request.key.and_then(Key::received).map(|key| Vault::new(key, &order.checkpoint.uid));
        let restoration = self.registry.restore(order, vault);
        if request.abandon {
            restoration.abandon();
        } else if !request.hold {
            restoration.release();
        }
        let state = match restoration.job.wait(Duration::from_millis(request.wait_ms.into())).await {
            job::State::Doing(step) => restore_pod_reply::State::Doing(step.into()),
            job::State::Failed(why) => restore_pod_reply::State::Failure(why),
            job::State::Done(restored) => restore_pod_reply::State::Restored(restored),
        };
        Ok(Response::new(v1::RestorePodReply { state: Some(state) }))
    }

    async fn aftermath(&self, request: Request<v1::AftermathRequest>) -> Result<Response<v1::AftermathReply>, Status> {
        admit(&request)?;
        let (node, uid) = (&self.registry.node, request.into_inner().pod_uid);
        let standing = node.cri.containers_of(&uid).await.ok().map(|containers| v1::Standing {
            containers: containers.into_iter().filter(|container| container.state != cri::State::Exited).map(|container| container.name).collect(),
        });
        Ok(Response::new(v1::AftermathReply { standing, ..node.deaths.of(&uid) }))
    }

    async fn clock(&self, request: Request<v1::ClockRequest>) -> Result<Response<v1::ClockReply>, Status> {
        admit(&request)?;
        Ok(Response::new(v1::ClockReply { now_us: crate::clock::now_us() }))
    }

    async fn anchor(&self, request: Request<v1::AnchorRequest>) -> Result<Response<v1::AnchorReply>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        let action = request.action();
        let migration = named(request.migration)?;
        let node = &self.registry.node;
        let Some(session) = self.registry.source(&migration) else {
            let end = action == Action::End;
            let reply = if node.name == migration.target_node { node.look_at_mirror(&migration, end).await } else { Ok(v1::AnchorReply::default()) };
            return reply.map(Response::new).map_err(|why| Status::internal(why.message));
        };
        match action {
            Action::Look => {}
            Action::Keep => session.empty().await.map_err(|why| Status::failed_precondition(why.message))?,
            Action::End if *session.machine().state() == State::Gone => node.end_anchor(&migration.source_pod_uid).await,
            Action::End => return Err(Status::failed_precondition("the source has not heard yet that the target runs")),
        }
        let look = node.look_at_anchor(&migration.source_pod_uid).await;
        Ok(Response::new(v1::AnchorReply {
            held: look.held,
            busy: look.busy,
            connections: look.connections,
            node: look.node,
            addresses: look.addresses,
            failure: look.failure,
        }))
    }

    async fn forget(&self, request: Request<v1::ForgetRequest>) -> Result<Response<v1::ForgetReply>, Status> {
        admit(&request)?;
        let request = request.into_inner();
        let migration = named(request.migration)?;
        let forgotten = self.registry.forget(&migration).await.map_err(|error| Status::internal(error.to_string()))?;
        if !forgotten {
            return Err(Status::failed_precondition("the hand-over has not ended on this node"));
        }
        // Asked again after a failure, the source knows the migration no more.
        if self.registry.node.name == migration.source_node || request.source_gone {
            let arbiter = Arbiter::new(self.registry.node.kube.clone(), &migration);
            arbiter.remove().await.map_err(|error| Status::unavailable(format!("the Handover cannot be removed: {error}")))?;
        }
        Ok(Response::new(v1::ForgetReply {}))
    }
}
