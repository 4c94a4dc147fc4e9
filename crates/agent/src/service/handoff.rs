//! `Handoff`: what the other agent of a migration asks for. The target answers Open, Files, Restore and Ask; the source answers Sealed.

use std::sync::Arc;

use futures::StreamExt;
use godwit_migration::handover::Sealed;
use godwit_rpc::{
    tls,
    v1::{self, FileChunk, Migration, Receipt, ask_reply, handoff_server::Handoff, restore_event},
};
use tonic::{Request, Response, Status, Streaming};

use super::{Replies, named};
use crate::{
    failure::{failure, internal},
    registry::Registry,
    target::{files, receive::Images, session::Session},
};

/// Answers other agents.
pub struct Peer {
    registry: Arc<Registry>,
}

impl Peer {
    /// For this node's migrations.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// The migration in the target role, when the caller is its source: by certificate and by ticket.
    fn target(&self, caller: &str, migration: &Migration) -> Result<Session, Status> {
        let session = self.registry.target(migration).ok_or_else(|| Status::not_found("this migration was not prepared here"))?;
        admit(caller, &session.migration.source_node, &session.migration.ticket, &migration.ticket)?;
        Ok(session)
    }
}

fn admit(caller: &str, expected: &str, ticket: &[u8], shown: &[u8]) -> Result<(), Status> {
    // blake3's comparison of hashes takes the same time whatever they are.
    if caller == expected && !ticket.is_empty() && blake3::hash(ticket) == blake3::hash(shown) {
        Ok(())
    } else {
        Err(Status::permission_denied("this node has no part in this migration"))
    }
}

#[tonic::async_trait]
impl Handoff for Peer {
    async fn open(&self, request: Request<v1::OpenRequest>) -> Result<Response<v1::OpenReply>, Status> {
        let caller = tls::require_agent(&request)?;
        let request = request.into_inner();
        let session = self.target(&caller, &named(request.migration.clone())?)?;
        Ok(Response::new(v1::OpenReply { failure: session.open(request).await.err() }))
    }

    async fn files(&self, request: Request<Streaming<FileChunk>>) -> Result<Response<Receipt>, Status> {
        let caller = tls::require_agent(&request)?;
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        let session = self.target(&caller, &named(first.migration.clone())?)?;
        let outcome = if first.kind == "images" { images(&session, first, chunks).await } else { apply(&session, first, chunks).await };
        Ok(Response::new(outcome.unwrap_or_else(|why| Receipt { failure: Some(why), ..Receipt::default() })))
    }

    type RestoreStream = Replies<v1::RestoreEvent>;

    async fn restore(&self, request: Request<v1::RestoreRequest>) -> Result<Response<Self::RestoreStream>, Status> {
        let caller = tls::require_agent(&request)?;
        let request = request.into_inner();
        let session = self.target(&caller, &named(request.migration)?)?;
        session.restore(request.containers);
        let last = |event: &v1::RestoreEvent| matches!(event.event, Some(restore_event::Event::State(_)));
        Ok(Response::new(session.events.follow(last).map(Ok).boxed()))
    }

    async fn ask(&self, request: Request<v1::AskRequest>) -> Result<Response<v1::AskReply>, Status> {
        let caller = tls::require_agent(&request)?;
        let request = request.into_inner();
        let unknown = v1::AskReply { state: ask_reply::State::Unknown.into(), failure: None };
        let reply = match self.target(&caller, &named(request.migration)?) {
            Ok(session) => session.stand(request.abandon).await.map_or(unknown, crate::convert::ask_reply),
            Err(status) if status.code() == tonic::Code::NotFound => unknown,
            Err(status) => return Err(status),
        };
        Ok(Response::new(reply))
    }

    async fn sealed(&self, request: Request<v1::SealedRequest>) -> Result<Response<v1::SealedReply>, Status> {
        let caller = tls::require_agent(&request)?;
        let migration = named(request.into_inner().migration)?;
        let no = |why: &str| v1::SealedReply { sealed: false, why_not: why.to_owned() };
        let reply = match self.registry.source(&migration) {
            None => no("this node has no such migration as its source"),
            Some(session) => {
                admit(&caller, &session.migration.target_node, &session.migration.ticket, &migration.ticket)?;
                match session.ask_sealed().await {
                    Some(Sealed::Yes) => v1::SealedReply { sealed: true, why_not: String::new() },
                    Some(Sealed::No { why }) => no(&why),
                    None => return Err(Status::unavailable("the migration has just ended here")),
                }
            }
        };
        Ok(Response::new(reply))
    }
}

async fn images(session: &Session, first: FileChunk, mut chunks: Streaming<FileChunk>) -> Result<Receipt, v1::Failure> {
    let directory = session.images(&first.container).await?;
    let broken = |error: &dyn std::fmt::Display| {
        failure(
            "TransferFailed",
            format!("the images did not arrive whole: {error}"),
            "try again; look for a fault in the network between the nodes, or for a full /run on the target",
        )
    };
    godwit_fault::point("agent.target.files").await.map_err(|error| internal("stopped", error))?;
    let mut images = Images::into(&directory).map_err(|error| broken(&error))?;
    let mut next = Some(first);
    while let Some(chunk) = next {
        // A write to tmpfs is a copy in memory: not worth a thread of its own.
        images.take(&chunk).map_err(|error| broken(&error))?;
        next = chunks.message().await.map_err(|status| broken(&status.message()))?;
    }
    images.finish().map_err(|error| broken(&error))
}

async fn apply(session: &Session, first: FileChunk, chunks: Streaming<FileChunk>) -> Result<Receipt, v1::Failure> {
    let directory = session.directory(&first.container, &first.kind).await?;
    files::apply(&directory, first, chunks).await
}
