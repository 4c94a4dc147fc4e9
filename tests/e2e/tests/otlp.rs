//! Every migration as one trace in a real OpenTelemetry collector: while it is away nothing else changes, what has happened meanwhile arrives when it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use godwit_demo::install;
use godwit_demo::lab::CLIENT_ADDRESS;
use godwit_demo::pods;
use godwit_demo::shell::{self, wait_until};
use godwit_e2e::case::MINUTE;
use godwit_e2e::road::Road;
use godwit_e2e::{Case, Scenario};
use serde_json::{Value, json};

pub const SCENARIO: Scenario =
    Scenario::new("otlp", "A migration is one trace in a real OpenTelemetry collector: controller, both agents, wrapper and hook.", run).alone();

/// Port of the collector.
const PORT: u16 = 14317;
/// What the controller says once when the collector is away.
const AWAY: &str = "the collector takes no traces";
/// By how much parts may seem to lie outside of what they are a part of, in nanoseconds: what the measurement of clocks leaves open on a machine that is busy.
const OPEN: u64 = 20_000_000;
/// The trace that one of the orders is a part of.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// The span in it.
const ORDERED_BY: &str = "00f067aa0ba902b7";
/// Which step or phase is a part of which.
const PARTS: [(&str, &str); 14] = [
    ("assess", "Planning"),
    ("keepers", "Copying"),
    ("create", "keepers"),
    ("prime", "Switching"),
    ("runc-restore", "prime"),
    ("freeze", "Switching"),
    ("dump", "Switching"),
    ("criu-dump", "dump"),
    ("restore", "offer"),
    ("criu-restore", "restore"),
    ("held", "offer"),
    ("commit", "offer"),
    ("resume", "open"),
    ("retire", "Settling"),
];

/// A span as the collector has it.
#[derive(Debug, Clone)]
struct Span {
    /// Program and node.
    by: String,
    trace: String,
    id: String,
    parent: String,
    name: String,
    start: u64,
    end: u64,
    error: Option<String>,
}

/// A collector that goes when the test ends.
struct Collector {
    child: Option<Child>,
    folder: PathBuf,
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn run(case: &Case) -> Result<()> {
    let mut collector = Collector { child: None, folder: std::env::temp_dir().join(format!("{}-collector", case.namespace)) };
    install::configure(&case.lab, &[&format!("tracing.otlp.endpoint=http://{CLIENT_ADDRESS}:{PORT}")])?;
    let told = traced(case, &mut collector);
    let back = install::configure(&case.lab, &["tracing.otlp.endpoint="]);
    told.and(back)
}

fn traced(case: &Case, collector: &mut Collector) -> Result<()> {
    let mut road = Road::start(case)?;
    let since = now()?;
    // Nobody listens yet: the pod moves as ever.
    let moved = case.migrate(&road.pod, &road.target())?.moved()?;
    road.arrive(&moved)?;
    let until = now()?;
    wait_until("the controller complains", MINUTE, || Ok((complaints(case)? == 1).then_some(())))?;
    collector.start()?;
    let record = moved.record.clone().context("no record")?;
    let spans = collector.trace(&trace_of(&record)?)?;
    whole(case, &record, &spans)?;
    ensure!(spans.iter().all(|span| span.error.is_none()), "an error in a migration that succeeded: {spans:?}");
    let root = root(&spans)?;
    ensure!(root.parent.is_empty() && root.start >= since && root.end <= until, "the migration took place between {since} and {until}, not as {root:?}");
    let text = case.kubectl_migrate(&["timeline", pods::name(&record)])?.success()?;
    ensure!(text.contains(&format!("trace {}", root.trace)), "no trace in:\n{text}");

    let taken_back = case.taken_back("sleeper")?.record.context("no record")?;
    let spans = collector.trace(&trace_of(&taken_back)?)?;
    let failed: BTreeSet<&str> =
        spans.iter().filter(|span| span.error.as_ref().is_some_and(|why| why.contains("NodeError"))).map(|span| span.name.as_str()).collect();
    ensure!(failed.len() == 2 && failed.contains("Switching") && failed.contains("migrate sleeper"), "not the migration and its switch failed but {failed:?}");
    ensure!(spans.iter().any(|span| span.name == "thaw" && span.by.starts_with("godwit-agent")), "the way back is not told: {spans:?}");

    // Ordered by somebody who is traced.
    let order = format!("TRACEPARENT=00-{TRACE}-{ORDERED_BY}-01");
    let node = road.target();
    let said = shell::run("env", &[&order, "kubectl", "migrate", &road.pod, "--to", &node, "-n", &case.namespace], None, MINUTE * 2)?.success()?;
    let joined = collector.trace(TRACE)?;
    let root = joined.iter().find(|span| span.parent == ORDERED_BY).with_context(|| format!("nothing hangs below who ordered it: {joined:?}\n{said}"))?;
    ensure!(root.name == format!("migrate {}", road.pod), "not the migration: {root:?}");
    ensure!(complaints(case)? == 1, "the controller complained more than once");
    case.note(format!("{} spans", joined.len()));
    Ok(())
}

/// Nanoseconds since the epoch.
fn now() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// How often the controllers have said that the collector is away.
fn complaints(case: &Case) -> Result<usize> {
    Ok(case.godwit_logs("godwit-controller")?.matches(AWAY).count())
}

/// The record names its trace, which is its UID.
fn trace_of(record: &Value) -> Result<String> {
    let id = record["status"]["traceId"].as_str().context("no trace in the record")?;
    let uid = record["metadata"]["uid"].as_str().unwrap_or_default().replace('-', "");
    ensure!(id == uid, "the trace {id} is not that of the migration {uid}");
    Ok(id.to_owned())
}

/// The span that is no part of another one of the trace.
fn root(spans: &[Span]) -> Result<&Span> {
    let known: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    let roots: Vec<&Span> = spans.iter().filter(|span| !known.contains(span.parent.as_str())).collect();
    ensure!(roots.len() == 1, "not one root but {roots:?}");
    Ok(roots[0])
}

/// One trace: every step of the record, each by who took it, below what it is a part of and within its time.
fn whole(case: &Case, record: &Value, spans: &[Span]) -> Result<()> {
    let root = root(spans)?;
    let of_nodes = |role: &str| record["status"][role].as_str().unwrap_or_default().to_owned();
    let (source, target) = (of_nodes("sourceNode"), of_nodes("targetNode"));
    ensure!(source == case.pair.a && target == case.pair.b, "from {source} to {target}");
    let by: BTreeSet<&str> = spans.iter().map(|span| span.by.as_str()).collect();
    let expected = ["godwit-controller".to_owned(), format!("godwit-agent {source}"), format!("godwit-agent {target}"), format!("godwit-runtime {target}")];
    ensure!(by == expected.iter().map(String::as_str).collect(), "spans by {by:?}, not by {expected:?}");
    let steps = record["status"]["timeline"].as_array().context("no timeline")?;
    let phases: BTreeSet<&str> = steps.iter().filter_map(|step| step["phase"].as_str()).collect();
    ensure!(spans.len() == steps.len() + phases.len() + 1, "{} spans for {} steps in {} phases", spans.len(), steps.len(), phases.len());
    let ids: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    ensure!(ids.len() == spans.len(), "ids are not unique");
    for (name, parent) in PARTS {
        let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
        ensure!(!found.is_empty(), "no span {name}: {spans:?}");
        for span in found {
            let above = ids.get(span.parent.as_str()).with_context(|| format!("{name} hangs nowhere"))?;
            ensure!(above.name == parent, "{name} is a part of {}, not of {parent}", above.name);
            // Containers are made as soon as the pod has a node, also before the controller waits for them.
            ensure!(name == "create" || span.start + OPEN >= above.start && span.end <= above.end + OPEN, "{span:?} is not within {above:?}");
        }
    }
    let outside = spans.iter().find(|span| span.start < root.start || span.end > root.end || span.end < span.start || span.trace != root.trace);
    ensure!(outside.is_none(), "not within the migration: {outside:?}");
    Ok(())
}

impl Collector {
    fn start(&mut self) -> Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        // JSON is YAML.
        let config = json!({
            "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": format!("{CLIENT_ADDRESS}:{PORT}")}}}},
            "exporters": {"file": {"path": self.traces()}},
            "service": {"pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["file"]}}},
        });
        let file = self.folder.join("collector.yaml");
        std::fs::write(&file, config.to_string())?;
        let log = std::fs::File::create(self.folder.join("log"))?;
        let child = Command::new("otelcol")
            .arg(format!("--config=file:{}", file.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("the collector cannot be started; make services builds it")?;
        self.child = Some(child);
        Ok(())
    }

    fn traces(&self) -> PathBuf {
        self.folder.join("traces.json")
    }

    /// All spans of a trace, once they are here: they come all at once.
    fn trace(&self, id: &str) -> Result<Vec<Span>> {
        let found = wait_until(&format!("trace {id}"), MINUTE + Duration::from_secs(30), || {
            let spans: Vec<Span> = read(&self.traces())?.into_iter().filter(|span| span.trace == id).collect();
            Ok((!spans.is_empty()).then_some(spans))
        });
        found.with_context(|| format!("the collector says: {}", std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()))
    }
}

/// The file of the collector: a request of OTLP a line, as JSON.
fn read(file: &Path) -> Result<Vec<Span>> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut spans = Vec::new();
    // The last line may be on its way.
    for request in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        for group in list(&request, "resourceSpans") {
            let attribute = |name: &str| {
                let all = list(&group["resource"], "attributes");
                all.iter().find(|pair| pair["key"] == name).and_then(|pair| pair["value"]["stringValue"].as_str()).unwrap_or_default().to_owned()
            };
            let by = format!("{} {}", attribute("service.name"), attribute("k8s.node.name")).trim_end().to_owned();
            for span in list(group, "scopeSpans").iter().flat_map(|scope| list(scope, "spans")) {
                spans.push(one(&by, span)?);
            }
        }
    }
    Ok(spans)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn one(by: &str, span: &Value) -> Result<Span> {
    let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
    let time = |name: &str| text(name).parse::<u64>().with_context(|| format!("no {name} in {span}"));
    let error = (span["status"]["code"] == 2).then(|| span["status"]["message"].as_str().unwrap_or_default().to_owned());
    Ok(Span {
        by: by.to_owned(),
        trace: text("traceId"),
        id: text("spanId"),
        parent: text("parentSpanId"),
        name: text("name"),
        start: time("startTimeUnixNano")?,
        end: time("endTimeUnixNano")?,
        error,
    })
}
