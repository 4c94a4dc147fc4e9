//! The way to the API server, for whoever waits for its answers while a pod stands still.
//!
//! `kube`'s own client leaves Nagle's algorithm on. A write of two small segments (the head of a request, its body) then waits with the second until the first is acknowledged, which the other
//! side delays by 40 ms, now and then: as much as the whole rest of a short freeze. This one is made like it, without that, and without a log line for each request.

use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt, retry::RetryPolicy},
};
use tower::{BoxError, ServiceBuilder, retry::RetryLayer};

/// A client for the cluster that this process runs in, or that the environment names; as [`Client::try_default`], with TCP_NODELAY. Where a proxy is named, it is `kube`'s own.
///
/// # Errors
/// When nothing says how to reach the cluster, or what says so is wrong.
pub async fn client() -> Result<Client, kube::Error> {
    let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut https = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    https.set_connect_timeout(config.connect_timeout);
    https.set_read_timeout(config.read_timeout);
    https.set_write_timeout(config.write_timeout);
    https.set_reset_reader_on_write(config.reset_reader_on_write);
    let http: Http<_, Body> = Http::builder(TokioExecutor::new()).build(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}
