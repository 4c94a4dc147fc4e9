//! The way to the collector: a bounded queue, one task, one request for each migration.
//!
//! ```text
//!   export ──▶ queue of 64 migrations ──▶ task ── OTLP over gRPC ──▶ collector
//!                │ full: the newest is lost      │ away or overloaded: again after 1 s, 2 s, 4 s … 30 s, for 5 minutes; refused: lost
//! ```
//!
//! Who exports never waits. A collector that is away is complained about once, and once more when it is back.

use std::time::Duration;

use godwit_api::PodMigration;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use crate::{spans, wire};

/// Migrations that wait for the collector; at most some hundred KiB each.
const WAITING: usize = 64;
/// How long the collector may take for one request.
const LIMIT: Duration = Duration::from_secs(10);
/// The first pause before a request is sent again; each is twice the last.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(30);
/// After so long a migration is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where traces go.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `http://HOST:PORT` or `https://HOST:PORT` of an OTLP receiver for gRPC, usually port 4317.
    pub endpoint: String,
    /// Sent with every request, e.g. a token.
    pub headers: Vec<(String, String)>,
    /// PEM of the authorities whose certificates are trusted; without it those that the system trusts.
    pub authorities: Option<String>,
}

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint is no address.
    #[error("the OTLP endpoint {endpoint:?} is none: http://HOST:PORT or https://HOST:PORT is wanted")]
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// The scheme is neither.
    #[error("the OTLP endpoint {0:?} is none: http://HOST:PORT or https://HOST:PORT is wanted")]
    Scheme(String),
    /// A header cannot be sent.
    #[error("the OTLP header {0:?} cannot be sent: names are lower-case words with dashes, values are printable")]
    Header(String),
}

enum Work {
    Export(ExportTraceServiceRequest),
    Flush(oneshot::Sender<()>),
}

/// See the module. Without a collector it does nothing.
#[derive(Clone, Debug, Default)]
pub struct Exporter {
    queue: Option<mpsc::Sender<Work>>,
}

impl Exporter {
    /// Starts the task; it connects when there is something to say.
    ///
    /// # Errors
    /// When the settings make no sense.
    pub fn start(settings: &Settings) -> Result<Self, Error> {
        let (queue, work) = mpsc::channel(WAITING);
        tokio::spawn(run(Collector::new(settings)?, work));
        Ok(Self { queue: Some(queue) })
    }

    /// Whether there is a collector.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Exports the spans of a migration that has ended. Never waits.
    pub fn export(&self, object: &PodMigration) {
        let Some(queue) = &self.queue else { return };
        let Some((context, spans)) = spans::of(object) else { return };
        if queue.try_send(Work::Export(wire::request(&context, &spans))).is_err() {
            tracing::warn!(trace = context.trace_id(), "too many traces wait for the collector: this one is lost");
        }
    }

    /// Waits until everything so far has gone its way, but no longer than this.
    pub async fn flush(&self, limit: Duration) {
        let Some(queue) = &self.queue else { return };
        let (done, gone) = oneshot::channel();
        let flushed = async {
            if queue.send(Work::Flush(done)).await.is_ok() {
                let _ = gone.await;
            }
        };
        if tokio::time::timeout(limit, flushed).await.is_err() {
            tracing::warn!("traces are lost: the collector does not take them in time");
        }
    }
}

async fn run(mut collector: Collector, mut queue: mpsc::Receiver<Work>) {
    while let Some(work) = queue.recv().await {
        match work {
            Work::Export(request) => collector.export(request).await,
            Work::Flush(done) => drop(done.send(())),
        }
    }
}

struct Collector {
    endpoint: String,
    client: TraceServiceClient<Channel>,
    headers: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
    /// It has been complained about.
    away: bool,
}

impl Collector {
    fn new(settings: &Settings) -> Result<Self, Error> {
        let endpoint = settings.endpoint.trim().to_owned();
        let invalid = |source| Error::Endpoint { endpoint: endpoint.clone(), source };
        let mut way = Endpoint::from_shared(endpoint.clone()).map_err(invalid)?.connect_timeout(LIMIT).timeout(LIMIT);
        match way.uri().scheme_str() {
            Some("http") => {}
            Some("https") => {
                let tls = ClientTlsConfig::new();
                let tls = match &settings.authorities {
                    Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
                    None => tls.with_native_roots(),
                };
                way = way.tls_config(tls).map_err(invalid)?;
            }
            _ => return Err(Error::Scheme(endpoint)),
        }
        let headers = settings.headers.iter().map(|(name, value)| {
            let key = name.parse::<MetadataKey<Ascii>>().map_err(|_| Error::Header(name.clone()))?;
            let mut value = value.parse::<MetadataValue<Ascii>>().map_err(|_| Error::Header(name.clone()))?;
            value.set_sensitive(true);
            Ok((key, value))
        });
        let headers = headers.collect::<Result<_, Error>>()?;
        Ok(Self { client: TraceServiceClient::new(way.connect_lazy()), headers, away: false, endpoint })
    }

    /// Until it is taken, refused or given up.
    async fn export(&mut self, request: ExportTraceServiceRequest) {
        let (began, mut pause) = (Instant::now(), PAUSE);
        loop {
            match self.send(request.clone()).await {
                Ok(refused) => {
                    if std::mem::take(&mut self.away) {
                        tracing::info!(endpoint = self.endpoint, "the collector takes traces again");
                    }
                    if !refused.is_empty() {
                        tracing::warn!(endpoint = self.endpoint, refused, "the collector took only a part of a trace");
                    }
                    return;
                }
                Err(status) => {
                    let passes = passes(status.code());
                    if !std::mem::replace(&mut self.away, true) {
                        let why = reason(&status);
                        tracing::warn!(endpoint = self.endpoint, code = ?status.code(), why, "the collector takes no traces; nothing else depends on it");
                    }
                    if !passes || began.elapsed() > PATIENCE {
                        tracing::debug!(endpoint = self.endpoint, "a trace is lost");
                        return;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// Sends once; gives why a part of it was refused.
    async fn send(&mut self, message: ExportTraceServiceRequest) -> Result<String, Status> {
        let mut request = Request::new(message);
        for (key, value) in &self.headers {
            request.metadata_mut().insert(key.clone(), value.clone());
        }
        let answer = self.client.export(request).await?.into_inner();
        let part = answer.partial_success.filter(|part| part.rejected_spans > 0);
        Ok(part.map(|part| format!("{} spans: {}", part.rejected_spans, part.error_message)).unwrap_or_default())
    }
}

/// Whether sending it again makes sense (OTLP specification, "Failures").
fn passes(code: Code) -> bool {
    use Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable};
    matches!(code, Cancelled | DeadlineExceeded | ResourceExhausted | Aborted | OutOfRange | Unavailable | DataLoss)
}

/// What the status says, and the innermost of what led to it.
fn reason(status: &Status) -> String {
    let mut innermost = std::error::Error::source(status);
    while let Some(source) = innermost.and_then(std::error::Error::source) {
        innermost = Some(source);
    }
    innermost.map_or_else(|| status.message().to_owned(), |source| format!("{}: {source}", status.message()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::Response;

    use super::*;

    /// Is overloaded at first, then takes what comes with the right token.
    struct Receiver {
        tries: AtomicUsize,
        taken: mpsc::UnboundedSender<ExportTraceServiceRequest>,
    }

    #[tonic::async_trait]
    impl TraceService for Receiver {
        async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
            if request.metadata().get("x-token").is_none_or(|token| token != "secret") {
                return Err(Status::unauthenticated("no token"));
            }
            if self.tries.fetch_add(1, Ordering::SeqCst) == 0 {
                return Err(Status::unavailable("overloaded"));
            }
            let _ = self.taken.send(request.into_inner());
            Ok(Response::new(ExportTraceServiceResponse::default()))
        }
    }

    async fn receiver() -> (String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (taken, told) = mpsc::unbounded_channel();
        let service = TraceServiceServer::new(Receiver { tries: AtomicUsize::new(0), taken });
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        (endpoint, told)
    }

    fn migration() -> PodMigration {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "godwit.dev/v1alpha1", "kind": "PodMigration", "spec": {"podName": "web-0"},
            "metadata": {"name": "x", "namespace": "shop", "uid": "0f8fad5b-d9cb-469f-a165-70867728950e"},
            "status": {
                "phase": "RolledBack", "sourceNode": "node-a", "targetNode": "node-b",
                "failure": {"reason": "Inotify", "message": "m", "remedy": "r"},
                "timeline": [
                    {"phase": "Switching", "step": "dump", "who": "source", "startUs": 1000, "durationUs": 500},
                    {"phase": "Switching", "step": "create", "who": "wrapper", "startUs": 900, "durationUs": 5, "detail": "main"},
                ],
            },
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn a_migration_arrives_as_one_request_also_when_the_collector_was_busy() {
        let (endpoint, mut told) = receiver().await;
        let settings = Settings { endpoint, headers: vec![("x-token".into(), "secret".into())], authorities: None };
        let exporter = Exporter::start(&settings).unwrap();
        exporter.export(&migration());
        exporter.flush(Duration::from_secs(20)).await;
        let request = told.try_recv().unwrap();
        let mut services = Vec::new();
        for group in &request.resource_spans {
            let attributes = &group.resource.as_ref().unwrap().attributes;
            let text =
                |name: &str| attributes.iter().find(|pair| pair.key == name).map(|pair| format!("{:?}", pair.value.as_ref().unwrap().value.as_ref().unwrap()));
            services.push((text("service.name").unwrap(), text("k8s.node.name").unwrap_or_default()));
            for span in &group.scope_spans[0].spans {
                assert_eq!(span.trace_id, [0x0f, 0x8f, 0xad, 0x5b, 0xd9, 0xcb, 0x46, 0x9f, 0xa1, 0x65, 0x70, 0x86, 0x77, 0x28, 0x95, 0x0e]);
                assert!(span.span_id.len() == 8 && span.end_time_unix_nano >= span.start_time_unix_nano);
            }
        }
        assert_eq!(services.len(), 3);
        assert!(services[0].0.contains("godwit-agent") && services[0].1.contains("node-a"), "{services:?}");
        assert!(services[2].0.contains("godwit-runtime") && services[2].1.contains("node-b"), "{services:?}");
        let controllers = &request.resource_spans[1].scope_spans[0].spans;
        assert_eq!(controllers.iter().filter(|span| span.status.as_ref().unwrap().code == 2).count(), controllers.len());
    }

    #[tokio::test]
    async fn a_collector_that_refuses_loses_the_trace_and_nothing_else() {
        let (endpoint, mut told) = receiver().await;
        let exporter = Exporter::start(&Settings { endpoint, ..Settings::default() }).unwrap();
        exporter.export(&migration());
        exporter.flush(Duration::from_secs(20)).await;
        assert!(told.try_recv().is_err());
    }

    #[tokio::test]
    async fn nobody_waits_for_a_collector_that_is_away() {
        // Bound and closed again: nobody listens there.
        let endpoint = format!("http://{}", TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap());
        let exporter = Exporter::start(&Settings { endpoint, ..Settings::default() }).unwrap();
        let began = Instant::now();
        (0..3 * WAITING).for_each(|_| exporter.export(&migration()));
        assert!(began.elapsed() < Duration::from_secs(2));
        exporter.flush(Duration::from_millis(50)).await;
    }

    #[tokio::test]
    async fn without_a_collector_nothing_is_done() {
        let exporter = Exporter::default();
        exporter.export(&migration());
        exporter.flush(Duration::from_secs(5)).await;
        assert!(!exporter.is_on());
    }

    #[tokio::test]
    async fn settings_that_make_no_sense_are_refused() {
        for endpoint in ["", "collector", "collector:4317", "ftp://collector:4317"] {
            assert!(Exporter::start(&Settings { endpoint: endpoint.into(), ..Settings::default() }).is_err(), "{endpoint}");
        }
        let headers = vec![("not a name".to_owned(), "x".to_owned())];
        assert!(Exporter::start(&Settings { endpoint: "http://collector:4317".into(), headers, authorities: None }).is_err());
        assert!(Exporter::start(&Settings { endpoint: "https://collector:4317".into(), ..Settings::default() }).is_ok());
    }
}
