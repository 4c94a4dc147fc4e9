//! The registry on the node's loopback from which its kubelet has checkpoint images pulled (OCI Distribution Specification, pull only). They hold no memory, so nobody is asked who he is.
//!
//! ```text
//!   GET /v2/                                              200
//!   GET /v2/MIGRATION/CONTAINER/manifests/REFERENCE       waits until the migration is announced here; then CRIU's configuration is written
//!   GET /v2/MIGRATION/CONTAINER/blobs/DIGEST
//!   GET /v2/base/ID/manifests/DIGEST                      an image that containerd has, by another name
//! ```

use std::{
    net::Ipv4Addr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use anyhow::Context;
use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing,
};
use godwit_api::names::IMAGES_PORT;

use super::image::{self, Blob, MANIFEST};
use crate::node::Node;

/// How long a pull waits for the controller's word about its pod: both set out at the same time. The kubelet pulls one image after the other; it tries again.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two tries to serve.
const AGAIN: Duration = Duration::from_secs(5);
const DIGEST: &str = "docker-content-digest";

/// Serves, for ever. While it cannot, no pod comes to this node so.
pub async fn keep_serving(node: Arc<Node>) {
    loop {
        if let Err(error) = serve(node.clone()).await {
            tracing::error!(error = format!("{error:#}"), "no pod can come by import");
            *node.imports.unserved.lock().unwrap_or_else(PoisonError::into_inner) = format!("{error:#}");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn serve(node: Arc<Node>) -> anyhow::Result<()> {
    let address = (Ipv4Addr::LOCALHOST, IMAGES_PORT);
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("cannot listen on 127.0.0.1:{IMAGES_PORT}"))?;
    node.imports.unserved.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let router = Router::new()
        .route("/v2/", routing::get(|| async { StatusCode::OK }))
        .route("/v2/base/{id}/manifests/{reference}", routing::get(base))
        .route("/v2/{migration}/{container}/manifests/{reference}", routing::get(manifest))
        .route("/v2/{migration}/{container}/blobs/{digest}", routing::get(blob))
        .with_state(node);
    axum::serve(listener, router).await.context("the registry ended")
}

async fn manifest(State(node): State<Arc<Node>>, Path((migration, container, reference)): Path<(String, String, String)>) -> Response {
    let Some(import) = node.imports.announced(&migration, PATIENCE).await else {
        return refused(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "no migration of this name brings a pod to this node now");
    };
    let Some(ordered) = import.container(&container).filter(|ordered| reference == "1" || reference == ordered.image.manifest.digest) else {
        return refused(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "the migration brings no such container");
    };
    match import.configure(&node, ordered).await {
        Ok(()) => found(&ordered.image.manifest, MANIFEST),
        Err(why) => {
            tracing::warn!(migration, container, reason = why.reason, message = why.message, "no checkpoint image");
            refused(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", &why.message)
        }
    }
}

/// Only what is to come: whoever else asked would have an image run that he may not pull.
async fn base(State(node): State<Arc<Node>>, Path((id, reference)): Path<(String, String)>) -> Response {
    let blob = image::base(&id);
    if reference == blob.digest && node.imports.wants(&id) {
        found(&blob, MANIFEST)
    } else {
        refused(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "there is no such image")
    }
}

async fn blob(State(node): State<Arc<Node>>, Path((migration, container, digest)): Path<(String, String, String)>) -> Response {
    let import = node.imports.get(&migration);
    let ordered = import.as_ref().and_then(|import| import.container(&container));
    match ordered.and_then(|ordered| ordered.image.blobs.iter().find(|blob| blob.digest == digest)) {
        Some(blob) => found(blob, "application/octet-stream"),
        None => refused(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "there is no such blob"),
    }
}

fn found(blob: &Blob, kind: &'static str) -> Response {
    ([(header::CONTENT_TYPE.as_str(), kind.to_owned()), (DIGEST, blob.digest.clone())], blob.bytes.clone()).into_response()
}

fn refused(status: StatusCode, code: &str, message: &str) -> Response {
    let body = serde_json::json!({"errors": [{"code": code, "message": message}]}).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
