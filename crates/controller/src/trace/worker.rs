//! One trace: listens to both agents as soon as it is known who they are, keeps the window filled, and ends when there is nothing more to tell.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use godwit_api::MigrationTrace;
use godwit_api::migration::Clock;
use godwit_api::trace::TraceNode;
use godwit_rpc::v1::TraceRequest;

use super::side::{self, Told};
use super::window::Window;
use crate::context::Context;
use crate::error::Error;
use crate::record::Record;

/// Between two looks, and two writes.
const TICK: Duration = Duration::from_millis(300);
/// What is told of an ended migration: so much after its end, for what its pods leave behind.
const AFTER: Duration = Duration::from_secs(30);
/// For how long agents are listened to when a migration has just ended.
const LINGER: Duration = Duration::from_secs(3);
/// A reader that reads nothing for so long has gone.
const NOBODY: Duration = Duration::from_secs(60);
/// Longest trace.
const LONGEST: Duration = Duration::from_secs(3600);
/// How often it is looked whether somebody still wants it.
const WANTED: Duration = Duration::from_secs(5);
/// Lines on their way to the window.
const WAITING: usize = 256;
/// What was logged just before a migration was ordered is told too.
const BEFORE_US: i64 = 1_000_000;

/// See the module.
pub struct Worker {
    context: Arc<Context>,
    api: Api<MigrationTrace>,
    object: MigrationTrace,
    read: watch::Receiver<u64>,
    window: Window,
    nodes: Vec<TraceNode>,
    sides: Vec<(&'static str, JoinHandle<()>)>,
    /// Sides that have nothing more to say.
    ended: usize,
    /// Whether the migration was under way when a side began to tell.
    live: bool,
    nodes_changed: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.sides.iter().for_each(|(_, side)| side.abort());
    }
}

impl Worker {
    /// For this order.
    #[must_use]
    pub fn new(context: Arc<Context>, object: &MigrationTrace, read: watch::Receiver<u64>) -> Self {
        let api = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
        let (window, nodes, sides) = (Window::default(), Vec::new(), Vec::new());
        Self { context, api, object: object.clone(), read, window, nodes, sides, ended: 0, live: false, nodes_changed: false }
    }

    /// Works until all is told and read, or nobody wants it any more.
    ///
    /// # Errors
    /// When the API server does not take the status.
    pub async fn run(mut self) -> Result<(), Error> {
        let (out, mut told) = mpsc::channel(WAITING);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (begin, mut last_read, mut last_look) = (Instant::now(), Instant::now(), Instant::now());
        let mut over: Option<Instant> = None;
        let mut out = Some(out);
        loop {
            tokio::select! {
                Some(told) = told.recv(), if self.window.has_room() => self.take(told),
                changed = self.read.changed() => {
                    let number = *self.read.borrow_and_update();
                    if changed.is_err() || self.window.read(number) {
                        last_read = Instant::now();
                    }
                }
                _ = tick.tick() => {
                    if let Some(out) = &out {
                        // Agents that tell the past end by themselves, those that follow are left after a while.
                        if self.look(out).await? {
                            over.get_or_insert(Instant::now() + if self.live { LINGER } else { NOBODY });
                        }
                    }
                    let quiet = self.ended == self.sides.len() && told.is_empty();
                    if out.is_some() && over.is_some_and(|over| Instant::now() >= over || quiet) {
                        self.sides.iter().for_each(|(_, side)| side.abort());
                        out = None;
                    }
                    if out.is_none() && told.is_empty() {
                        return self.end("").await;
                    }
                    self.write().await?;
                    if self.window.is_empty() {
                        last_read = Instant::now();
                    }
                    if last_read.elapsed() > NOBODY || begin.elapsed() > LONGEST {
                        return self.end("nobody has read for too long: trace again").await;
                    }
                    if last_look.elapsed() > WANTED {
                        last_look = Instant::now();
                        if self.api.get_opt(&self.object.name_any()).await?.is_none_or(|now| now.uid() != self.object.uid()) {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Line(line) => self.window.put(line),
            Told::Past(role) => {
                for node in self.nodes.iter_mut().filter(|node| node.role == role) {
                    node.past_told = true;
                    self.nodes_changed = true;
                }
            }
            Told::Ended => self.ended += 1,
        }
    }

    /// Looks at the migration and begins to listen to whoever is known. Says whether it has ended.
    async fn look(&mut self, out: &mpsc::Sender<Told>) -> Result<bool, Error> {
        let namespace = self.object.namespace().unwrap_or_default();
        let Some(record) = Record::read(&self.context.client, &namespace, &self.object.spec.migration).await? else {
            return Ok(true);
        };
        let status = record.status();
        let ended = status.phase.is_final();
        let known = [("source", status.source_node.clone()), ("target", status.target_node.clone())];
        for (role, node) in known {
            let started = self.sides.iter().any(|(known, _)| *known == role);
            let (Some(node), Some(_), false) = (node, &status.source_pod_uid, started) else { continue };
            let clock = self.context.agents.clock(&node).await.unwrap_or(Clock { node: node.clone(), ..Clock::default() });
            let request = self.request(&record, ended, clock.offset_us).await?;
            self.live |= request.follow;
            self.nodes.push(TraceNode { role: role.into(), clock, past_told: false });
            self.nodes_changed = true;
            self.sides.push((role, tokio::spawn(side::listen(Arc::clone(&self.context), role, node, request, out.clone()))));
        }
        Ok(ended)
    }

    /// What an agent is asked, in the time of its own clock.
    async fn request(&self, record: &Record, ended: bool, offset_us: i64) -> Result<TraceRequest, Error> {
        let spec = &self.object.spec;
        let ordered = record.object().metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_microsecond() - BEFORE_US);
        let since = spec.since.as_ref().map_or(ordered, |since| since.0.as_microsecond());
        let until = record.status().completion_time.filter(|_| ended).map_or(0, |time| (time.0 + AFTER).as_microsecond() + offset_us);
        let mut migration = self.context.migration(record).await?;
        // Not for this.
        migration.ticket = Vec::new();
        Ok(TraceRequest {
            migration: Some(migration),
            since_us: since + offset_us,
            until_us: until,
            follow: !ended,
            verbose: spec.verbose,
            raise: spec.raise && !ended,
        })
    }

    /// Writes what is new.
    async fn write(&mut self) -> Result<(), Error> {
        let news = self.window.news();
        if news.is_none() && !std::mem::take(&mut self.nodes_changed) {
            return Ok(());
        }
        self.nodes_changed = false;
        let (first, lines) = news.unwrap_or_else(|| self.window.all());
        self.patch(json!({"status": {"first": first, "lines": lines, "nodes": self.nodes}})).await
    }

    async fn end(&mut self, message: &str) -> Result<(), Error> {
        let (first, lines) = self.window.all();
        self.patch(json!({"status": {"first": first, "lines": lines, "nodes": self.nodes, "completionTime": Time(Timestamp::now()), "message": message}})).await
    }

    async fn patch(&self, patch: serde_json::Value) -> Result<(), Error> {
        match self.api.patch_status(&self.object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            // Its reader has gone, and taken it along.
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }
}
