//! What this node's logs say about a migration, for `kubectl migrate trace`.
//!
//! ```text
//!   sessions, socket, tracing ──▶ memory (the last of it) ─┐
//!   CRIU's and runc's logs ─────▶ (criu)                   │   Interest      ┌─▶ past, then past_ends
//!   files of kubelet, runtime ──▶ logs                     ├──▶ concerns? ──▶│
//!   journald ───────────────────▶ journal                  │                 └─▶ what is new, while the caller listens
//!   kernel's messages, signals, exec ▶ kernel, signals, exec ┘
//! ```
//!
//! Nothing of the pod is touched, and nothing in the freeze waits for any of it. What cannot be read is said, as a line of the source `trace`.

pub mod asked;
pub mod criu;
mod exec;
mod journal;
pub mod kernel;
mod levels;
mod logs;
pub mod memory;
pub mod signals;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use godwit_migration::timeline::steps;
use godwit_node::host::Host;
use godwit_rpc::v1::{Migration, Step, TraceLine, TraceRequest};
use godwit_trace::{Interest, Level, Line, Source};
use tokio::sync::mpsc;
use tonic::Status;

pub use memory::note;

use crate::node::Node;

/// Takes away what agents that were killed have left: more logging, tracepoints that are on.
pub fn undo_leftovers(host: &Host) {
    levels::undo_leftovers(host);
    signals::undo_leftovers(host);
}

/// Lines on their way to a caller that is slow.
const WAITING: usize = 512;

/// One caller: what it wants, and the way to it.
#[derive(Clone)]
pub struct Listener {
    interest: Arc<Mutex<Interest>>,
    since_us: i64,
    until_us: i64,
    verbose: bool,
    out: mpsc::Sender<Result<TraceLine, Status>>,
}

impl Listener {
    /// Whether a text concerns the migration.
    fn concerns(&self, text: &str) -> bool {
        self.interest().concerns(text)
    }

    fn interest(&self) -> std::sync::MutexGuard<'_, Interest> {
        self.interest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wants(&self, line: &Line) -> bool {
        line.at_us >= self.since_us && (self.until_us == 0 || line.at_us <= self.until_us) && (self.verbose || line.level > Level::Debug)
    }

    /// Tells a line, if the caller wants such lines; waits while it is slow.
    async fn tell(&self, line: Line) {
        if self.wants(&line) {
            let _ = self.out.send(Ok(wire(line))).await;
        }
    }

    /// The same, on a thread that may block.
    fn tell_blocking(&self, line: Line) {
        if self.wants(&line) {
            let _ = self.out.blocking_send(Ok(wire(line)));
        }
    }

    /// Says what cannot be told, and why.
    async fn explain(&self, text: &str) {
        let now = crate::clock::now_us();
        let _ = self.out.send(Ok(wire(Line::new(now, Source::Trace, Level::Info, text)))).await;
    }

    /// The same, on a thread that may block.
    fn explain_blocking(&self, text: &str) {
        let now = crate::clock::now_us();
        let _ = self.out.blocking_send(Ok(wire(Line::new(now, Source::Trace, Level::Info, text))));
    }

    /// Whether nobody listens any more.
    fn gone(&self) -> bool {
        self.out.is_closed()
    }
}

fn wire(line: Line) -> TraceLine {
    TraceLine { at_us: line.at_us, source: line.source.tag().into(), level: line.level.name().into(), text: line.text, past_ends: false }
}

/// Tells what there is, and with `follow` what comes.
#[must_use]
pub fn listen(node: &Arc<Node>, migration: &Migration, request: &TraceRequest) -> mpsc::Receiver<Result<TraceLine, Status>> {
    let (out, lines) = mpsc::channel(WAITING);
    let mut interest = Interest::in_uids([migration.uid.as_str(), &migration.source_pod_uid, &migration.target_pod_uid]);
    for pod in [&migration.source_pod, &migration.target_pod] {
        interest.add_pod(&migration.namespace, pod);
    }
    let listener = Listener { interest: Arc::new(Mutex::new(interest)), since_us: request.since_us, until_us: request.until_us, verbose: request.verbose, out };
    tokio::spawn(run(node.clone(), migration.clone(), listener, request.follow, request.raise));
    lines
}

async fn run(node: Arc<Node>, migration: Migration, listener: Listener, follow: bool, raise: bool) {
    for uid in [&migration.source_pod_uid, &migration.target_pod_uid].into_iter().filter(|uid| !uid.is_empty()) {
        learn(&node, uid, &listener).await;
    }
    let raised = if raise { Some(levels::raise(&node, &listener).await) } else { None };
    // From here on what is new is kept, so that nothing falls between past and present.
    let news = memory::MEMORY.subscribe();
    let logs = logs::Logs::open(&node.host);
    let journal = journal::there(&node.host);
    let (past, host) = (listener.clone(), node.host.clone());
    let read = tokio::task::spawn_blocking(move || {
        let mut logs = logs;
        logs.past(&past);
        logs
    })
    .await;
    let cursor = if journal { journal::past(&host, &listener).await } else { None };
    kernel::past(&host, &listener).await;
    let last = memory::past(&listener).await;
    let _ = listener.out.send(Ok(TraceLine { past_ends: true, ..TraceLine::default() })).await;
    if !follow {
        return;
    }
    if let Ok(mut logs) = read {
        logs.explain(journal, &listener).await;
        let listener = listener.clone();
        tokio::task::spawn_blocking(move || logs.follow(&listener));
    }
    if journal {
        tokio::spawn(journal::follow(host.clone(), listener.clone(), cursor));
    }
    for work in [kernel::follow, signals::follow, exec::follow] {
        let (host, listener) = (host.clone(), listener.clone());
        tokio::task::spawn_blocking(move || work(&host, &listener));
    }
    memory::follow(news, last, &listener).await;
    listener.out.closed().await;
    drop(raised);
}

/// The ids and tasks of a pod, as far as the runtime knows them (still).
async fn learn(node: &Node, uid: &str, listener: &Listener) {
    if let Ok(Some(sandbox)) = node.cri.sandbox_of(uid).await {
        listener.interest().add(&sandbox.id);
    }
    for container in node.cri.containers_of(uid).await.unwrap_or_default() {
        let mut interest = listener.interest();
        interest.add(&container.id);
        interest.add_pid(container.pid);
    }
}

/// A step of a session that has ended.
pub fn step(migration: &Migration, step: &Step) {
    let does = steps::of(&step.step).map_or("", |known| known.does);
    let line = godwit_trace::step::line(&step.step, &step.who, does, &step.detail, step.start_us, step.duration_us);
    memory::MEMORY.put(line, &migration.uid);
}
