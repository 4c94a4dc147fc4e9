//! `Handoff`: what the other agent of a migration asks for. The target answers Open, Files, Restore and Ask; the source answers Sealed.

use std::sync::Arc;

use futures::StreamExt;
use godwit_memory::Range;
use godwit_migration::handover::Sealed;
use godwit_rpc::{
    tls,
    v1::{self, FileChunk, Migration, Receipt, ask_reply, handoff_server::Handoff, restore_event},
};
use tonic::{Request, Response, Status, Streaming};

use super::{Replies, named};
use crate::{
    anchor::{
        self,
        holder::{Holder, Link},
    },
    convert,
    failure::{failure, internal},
    registry::Registry,
    source::fetch,
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

impl Peer {
    /// Does something with a link of an anchor of this node, for the node at its other end.
    async fn about_link(
        &self,
        request: Request<v1::AnchorName>,
        act: impl FnOnce(&Holder, &v1::AnchorName) -> Result<(), v1::Failure> + Send + 'static,
    ) -> Result<Response<v1::AnchorDone>, Status> {
        let caller = tls::require_agent(&request)?;
        let (node, name) = (self.registry.node.clone(), request.into_inner());
        let unknown = || Status::not_found("this node has no such anchor (any more)");
        let anchor = node.anchors.find(&name).ok_or_else(unknown)?;
        match anchor.links.iter().find(|link| link.target_pod_uid == name.target_pod_uid) {
            None => return Err(unknown()),
            Some(link) if link.node != caller => return Err(Status::permission_denied("this node has no part in this anchor")),
            Some(_) => {}
        }
        anchor::blocking(move || act(&node.anchors, &name)).await.map_err(|why| Status::internal(why.message))?;
        Ok(Response::new(v1::AnchorDone {}))
    }

    /// For the node that holds the anchor of a mirror of this node.
    async fn about_mirror(&self, request: Request<v1::AnchorName>, end: bool) -> Result<Response<v1::ConnectionsReply>, Status> {
        let caller = tls::require_agent(&request)?;
        let (node, name) = (self.registry.node.clone(), request.into_inner());
        if node.mirrors.find(&name).is_some_and(|held| held.node != caller) {
            return Err(Status::permission_denied("this node does not hold this anchor"));
        }
        let answer = node.answer_mirror(&name, end).await.map_err(|why| Status::internal(why.message))?;
        Ok(Response::new(v1::ConnectionsReply { known: answer.is_some(), connections: answer.unwrap_or(0) }))
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
        Ok(Response::new(v1::OpenReply { failure: session.open(request).await.err(), fetches: true }))
    }

    async fn files(&self, request: Request<Streaming<FileChunk>>) -> Result<Response<Receipt>, Status> {
        let caller = tls::require_agent(&request)?;
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        let session = self.target(&caller, &named(first.migration.clone())?)?;
        let outcome = if first.kind == "images" { images(&session, first, chunks).await } else { apply(&session, first, chunks).await };
        Ok(Response::new(outcome.unwrap_or_else(|why| Receipt { failure: Some(why), ..Receipt::default() })))
    }

    async fn pages(&self, request: Request<Streaming<v1::PageChunk>>) -> Result<Response<Receipt>, Status> {
        let caller = tls::require_agent(&request)?;
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        let session = self.target(&caller, &named(first.migration)?)?;
        let outcome = pages(&session, first.fresh, chunks).await;
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
            Ok(session) => session.stand(request.abandon).await.map_or(unknown, convert::ask_reply),
            Err(status) if status.code() == tonic::Code::NotFound => unknown,
            Err(status) => return Err(status),
        };
        Ok(Response::new(reply))
    }

    async fn probe(&self, request: Request<v1::ProbeRequest>) -> Result<Response<v1::ProbeReply>, Status> {
        let caller = tls::require_agent(&request)?;
        let request = request.into_inner();
        let node = self.registry.node.clone();
        let remote = request.underlay.parse().map_err(|_| Status::invalid_argument("the request names no address"))?;
        let (underlay, wireguard) = (node.ip.to_string(), node.wireguard.key());
        let made = anchor::blocking(move || {
            let tunnel = node.wireguard.tunnel(request.vni, (node.ip, remote), (&caller, &request.wireguard))?;
            anchor::probe::answer(tunnel)
        });
        let made = made.await;
        let (taken, failure) = match made {
            Ok(made) => (!made, None),
            Err(why) => (false, Some(why)),
        };
        Ok(Response::new(v1::ProbeReply { underlay, taken, failure, wireguard }))
    }

    async fn shout(&self, request: Request<v1::ShoutRequest>) -> Result<Response<v1::ShoutReply>, Status> {
        tls::require_agent(&request)?;
        let request = request.into_inner();
        let mac = request.mac.try_into().map_err(|_| Status::invalid_argument("a hardware address has six bytes"))?;
        let shouted = self.registry.node.shout(&request.pod_uid, mac).await;
        Ok(Response::new(shouted.unwrap_or_else(|why| v1::ShoutReply { failure: Some(why), ..v1::ShoutReply::default() })))
    }

    async fn link(&self, request: Request<v1::LinkRequest>) -> Result<Response<v1::LinkReply>, Status> {
        let caller = tls::require_agent(&request)?;
        let request = request.into_inner();
        let name = request.name.clone().ok_or_else(|| Status::invalid_argument("the request names no anchor"))?;
        if caller != request.node {
            return Err(Status::permission_denied("a node asks for its own pods only"));
        }
        let node = self.registry.node.clone();
        let link = Link {
            device: String::new(),
            segment: request.segment,
            target_pod_uid: name.target_pod_uid.clone(),
            node: request.node,
            agent: request.agent,
            wireguard: request.wireguard.clone(),
        };
        if link.segment {
            let failure = anchor::blocking(move || node.anchors.adjoin(&name, link)).await.err();
            return Ok(Response::new(v1::LinkReply { taken: false, failure }));
        }
        let remote = request.underlay.parse().map_err(|_| Status::invalid_argument("the request names no address"))?;
        let made = anchor::blocking(move || {
            node.anchors.find(&name).ok_or_else(anchor::holder::unknown)?;
            let tunnel = node.wireguard.answering(request.vni, (node.ip, remote), (&caller, &request.wireguard))?;
            node.anchors.tunnel(&name, link, tunnel)
        });
        let made = made.await;
        Ok(Response::new(match made {
            Ok(made) => v1::LinkReply { taken: !made, failure: None },
            Err(why) => v1::LinkReply { taken: false, failure: Some(why) },
        }))
    }

    async fn unlink(&self, request: Request<v1::AnchorName>) -> Result<Response<v1::AnchorDone>, Status> {
        self.about_link(request, |holder, name| holder.unlink(name)).await
    }

    async fn hold(&self, request: Request<v1::AnchorName>) -> Result<Response<v1::AnchorDone>, Status> {
        tls::require_agent(&request)?;
        let (node, name) = (self.registry.node.clone(), request.into_inner());
        let Some(anchor) = node.anchors.find(&name) else { return Err(Status::not_found("this node has no such anchor")) };
        anchor::blocking(move || node.anchors.hold(&anchor.name.pod_uid)).await.map_err(|why| Status::internal(why.message))?;
        Ok(Response::new(v1::AnchorDone {}))
    }

    async fn pass(&self, request: Request<v1::AnchorName>) -> Result<Response<v1::AnchorDone>, Status> {
        self.about_link(request, |holder, name| holder.pass(name)).await
    }

    async fn held(&self, request: Request<v1::AnchorName>) -> Result<Response<v1::HeldReply>, Status> {
        tls::require_agent(&request)?;
        Ok(Response::new(self.registry.node.anchors.held(&request.into_inner())))
    }

    async fn connections(&self, request: Request<v1::AnchorName>) -> Result<Response<v1::ConnectionsReply>, Status> {
        self.about_mirror(request, false).await
    }

    async fn end_connections(&self, request: Request<v1::AnchorName>) -> Result<Response<v1::ConnectionsReply>, Status> {
        self.about_mirror(request, true).await
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<v1::FetchReply>, Status> {
        let caller = tls::require_agent(&request)?;
        let request = request.into_inner();
        let migration = named(request.migration)?;
        let session = self.registry.source(&migration).ok_or_else(|| Status::not_found("its node knows nothing of this migration any more"))?;
        admit(&caller, &session.migration.target_node, &session.migration.ticket, &migration.ticket)?;
        let ranges = convert::page_ranges(&request.ranges).ok_or_else(|| Status::invalid_argument("an address is missing"))?;
        if ranges.iter().map(Range::len).try_fold(0u64, u64::checked_add).is_none_or(|bytes| bytes > fetch::MOST) {
            return Err(Status::invalid_argument("that is too much at once"));
        }
        let reply = match session.grip().await.map_err(|why| Status::unavailable(why.message))? {
            Err(gone) => v1::FetchReply { gone, ..v1::FetchReply::default() },
            Ok(grip) => crate::task::spawn_blocking(move || fetch::pages(&grip, &request.container, request.process, &ranges))
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?
                .map_err(|error| Status::unavailable(error.to_string()))?,
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
        // A stream that always has more would keep its thread for seconds on a slow CPU: the peer's keep-alive would go unanswered.
        tokio::task::yield_now().await;
        next = chunks.message().await.map_err(|status| broken(&status.message()))?;
    }
    images.finish().map_err(|error| broken(&error))
}

async fn pages(session: &Session, fresh: bool, mut chunks: Streaming<v1::PageChunk>) -> Result<Receipt, v1::Failure> {
    godwit_fault::point("agent.target.pages").await.map_err(|error| internal("stopped", error))?;
    let mut arriving = session.pages.begin(&session.containers, fresh)?;
    // As with images: a copy in memory.
    while let Some(chunk) = chunks.message().await.map_err(|status| internal("the pages did not arrive whole", status.message()))? {
        arriving.take(&chunk)?;
        tokio::task::yield_now().await;
    }
    Ok(arriving.finish())
}

async fn apply(session: &Session, first: FileChunk, chunks: Streaming<FileChunk>) -> Result<Receipt, v1::Failure> {
    let directory = session.directory(&first.container, &first.kind).await?;
    files::apply(&directory, first, chunks).await
}
