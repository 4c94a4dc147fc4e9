//! The page: OpenMetrics text over plain HTTP. There is nothing to hide in it and nothing to change by it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Router, routing};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// The format (OpenMetrics 1.0).
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a program.
#[derive(Clone)]
pub struct Page(Arc<Registry>);

impl Page {
    /// The page of these metrics.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self(Arc::new(registry))
    }

    /// What Prometheus reads; nothing if a number cannot be written, which does not happen.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let mut text = String::new();
        encode(&mut text, &self.0).ok().map(|()| text)
    }

    /// Serves it, for ever.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn serve(self, address: SocketAddr) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let answer = move || {
            let text = self.text();
            async move {
                match text {
                    Some(text) => ([(header::CONTENT_TYPE, FORMAT)], text).into_response(),
                    None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                }
            }
        };
        axum::serve(listener, Router::new().route("/metrics", routing::get(answer))).await
    }
}
