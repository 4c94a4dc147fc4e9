//! Two real ends over TCP on the loopback interface.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status};

use super::*;
use crate::authority::Authority;
use crate::credentials::Credentials;
use crate::identity::Identity;
use crate::v1;
use crate::v1::handoff_client::HandoffClient;
use crate::v1::handoff_server::{Handoff, HandoffServer};

/// Answers `Ask` to agents only, with the caller's node as the failure's message.
struct Echo;

#[tonic::async_trait]
impl Handoff for Echo {
    type RestoreStream = tokio_stream::Empty<Result<v1::RestoreEvent, Status>>;

    async fn ask(&self, request: Request<v1::AskRequest>) -> Result<Response<v1::AskReply>, Status> {
        let message = require_agent(&request)?;
        Ok(Response::new(v1::AskReply { state: 0, failure: Some(v1::Failure { message, ..Default::default() }) }))
    }
    async fn open(&self, _: Request<v1::OpenRequest>) -> Result<Response<v1::OpenReply>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn files(&self, _: Request<tonic::Streaming<v1::FileChunk>>) -> Result<Response<v1::Receipt>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn restore(&self, _: Request<v1::RestoreRequest>) -> Result<Response<Self::RestoreStream>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn pages(&self, _: Request<tonic::Streaming<v1::PageChunk>>) -> Result<Response<v1::Receipt>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn fetch(&self, _: Request<v1::FetchRequest>) -> Result<Response<v1::FetchReply>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn sealed(&self, _: Request<v1::SealedRequest>) -> Result<Response<v1::SealedReply>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn link(&self, _: Request<v1::LinkRequest>) -> Result<Response<v1::LinkReply>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn probe(&self, _: Request<v1::ProbeRequest>) -> Result<Response<v1::ProbeReply>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn shout(&self, _: Request<v1::ShoutRequest>) -> Result<Response<v1::ShoutReply>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn unlink(&self, _: Request<v1::AnchorName>) -> Result<Response<v1::AnchorDone>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn hold(&self, _: Request<v1::AnchorName>) -> Result<Response<v1::AnchorDone>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn pass(&self, _: Request<v1::AnchorName>) -> Result<Response<v1::AnchorDone>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn held(&self, _: Request<v1::AnchorName>) -> Result<Response<v1::HeldReply>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn connections(&self, _: Request<v1::AnchorName>) -> Result<Response<v1::ConnectionsReply>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn end_connections(&self, _: Request<v1::AnchorName>) -> Result<Response<v1::ConnectionsReply>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn node(name: &str) -> Identity {
    Identity::Agent(name.into())
}

fn credentials(authority: &Authority, identity: &Identity) -> Arc<Credentials> {
    Arc::new(Credentials::new(&authority.issue(identity).unwrap()).unwrap())
}

async fn listen(credentials: Arc<Credentials>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(server().add_service(HandoffServer::new(Echo)).serve_with_incoming(incoming(listener, credentials)));
    address
}

async fn ask(address: &str, expected: Identity, credentials: &Arc<Credentials>) -> Result<String, Status> {
    let channel = connect(address, expected, Arc::clone(credentials)).unwrap();
    let reply = HandoffClient::new(channel).ask(v1::AskRequest::default()).await?;
    Ok(reply.into_inner().failure.unwrap().message)
}

#[tokio::test]
async fn an_agent_is_known_by_its_certificate() {
    let authority = Authority::create().unwrap();
    let address = listen(credentials(&authority, &node("node-b"))).await;
    let caller = credentials(&authority, &node("node-a"));
    assert_eq!(ask(&address, node("node-b"), &caller).await.unwrap(), "node-a");
}

#[tokio::test]
async fn the_wrong_caller_the_wrong_server_and_another_ca_are_refused() {
    let authority = Authority::create().unwrap();
    let address = listen(credentials(&authority, &node("node-b"))).await;

    let controller = credentials(&authority, &Identity::Controller);
    assert_eq!(ask(&address, node("node-b"), &controller).await.unwrap_err().code(), Code::PermissionDenied);

    let agent = credentials(&authority, &node("node-a"));
    assert_eq!(ask(&address, node("node-c"), &agent).await.unwrap_err().code(), Code::Unavailable);

    let stranger = credentials(&Authority::create().unwrap(), &node("node-a"));
    assert!(ask(&address, node("node-b"), &stranger).await.is_err());
}

#[tokio::test]
async fn new_credentials_count_from_the_next_connection_on() {
    let (old, new) = (Authority::create().unwrap(), Authority::create().unwrap());
    let server = credentials(&old, &node("node-b"));
    let address = listen(Arc::clone(&server)).await;
    let caller = credentials(&old, &node("node-a"));
    ask(&address, node("node-b"), &caller).await.unwrap();

    server.replace(&new.issue(&node("node-b")).unwrap()).unwrap();
    assert!(ask(&address, node("node-b"), &caller).await.is_err());
    caller.replace(&new.issue(&node("node-x")).unwrap()).unwrap();
    assert_eq!(ask(&address, node("node-b"), &caller).await.unwrap(), "node-x");
}

#[test]
fn a_call_without_a_certificate_is_nobody() {
    assert_eq!(require(&Request::new(()), &[Identity::Controller]).unwrap_err().code(), Code::Unauthenticated);
}
