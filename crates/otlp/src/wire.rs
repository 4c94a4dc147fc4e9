//! Spans as messages of OTLP (opentelemetry-proto 1.x, `opentelemetry/proto/trace/v1/trace.proto`): grouped by the program that they are about.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as WireSpan, Status, span, status};

use crate::context::Context;
use crate::spans::{Service, Span, Value};

/// The group of programs that ours belong to.
const GROUP: &str = "godwit";
/// Flags of a span: the trace is recorded, and whether the parent is in another process is known (`SpanFlags` in trace.proto).
const RECORDED: u32 = 0x101;

/// The request that exports these spans.
#[must_use]
pub fn request(context: &Context, spans: &[Span]) -> ExportTraceServiceRequest {
    let mut services: BTreeMap<&Service, Vec<WireSpan>> = BTreeMap::new();
    for span in spans {
        services.entry(&span.service).or_default().push(wire(context, span));
    }
    let resource_spans = services.into_iter().map(|(service, spans)| ResourceSpans {
        resource: Some(resource(service)),
        scope_spans: vec![ScopeSpans {
            scope: Some(InstrumentationScope { name: GROUP.into(), version: env!("CARGO_PKG_VERSION").into(), ..InstrumentationScope::default() }),
            spans,
            schema_url: String::new(),
        }],
        schema_url: String::new(),
    });
    ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
}

fn resource(service: &Service) -> Resource {
    let mut attributes = vec![
        pair("service.name", service.name.to_owned().into()),
        pair("service.namespace", GROUP.to_owned().into()),
        pair("service.version", env!("CARGO_PKG_VERSION").to_owned().into()),
    ];
    attributes.extend(service.node.iter().map(|node| pair("k8s.node.name", node.clone().into())));
    Resource { attributes, ..Resource::default() }
}

fn wire(context: &Context, span: &Span) -> WireSpan {
    WireSpan {
        trace_id: context.trace.to_vec(),
        span_id: span.id.to_vec(),
        parent_span_id: span.parent.map(|id| id.to_vec()).unwrap_or_default(),
        flags: RECORDED,
        name: span.name.clone(),
        kind: span::SpanKind::Internal.into(),
        start_time_unix_nano: nanos(span.start_us),
        end_time_unix_nano: nanos(span.end_us),
        attributes: span.attributes.iter().map(|(name, value)| pair(name, value.clone())).collect(),
        events: span
            .moments
            .iter()
            .map(|moment| span::Event { time_unix_nano: nanos(moment.at_us), name: moment.name.into(), ..span::Event::default() })
            .collect(),
        status: Some(match &span.error {
            Some(message) => Status { message: message.clone(), code: status::StatusCode::Error.into() },
            None => Status::default(),
        }),
        ..WireSpan::default()
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

fn pair(name: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(text),
        Value::Number(number) => any_value::Value::IntValue(number),
    };
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn nanos(us: i64) -> u64 {
    u64::try_from(us).unwrap_or_default().saturating_mul(1000)
}
