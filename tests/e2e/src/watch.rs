//! What users see meanwhile: a watch on pods or endpoints that remembers extremes, and clients that ask a Service all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::case::Case;
use crate::http;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a watch has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extremes {
    /// Now, by object: endpoints that are ready, or 1 for a pod that stands.
    now: BTreeMap<String, usize>,
    /// Whether anything was seen.
    pub begun: bool,
    /// Fewest at any time.
    pub fewest: usize,
    /// Most at any time.
    pub most: usize,
    /// Every object that was ever there.
    pub names: BTreeSet<String>,
}

impl Extremes {
    fn see(&mut self, kind: &str, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let count = if kind == "DELETED" { 0 } else { count(object) };
        self.names.insert(name.clone());
        self.now.insert(name, count);
        let sum = self.now.values().sum();
        self.fewest = if self.begun { self.fewest.min(sum) } else { sum };
        self.most = self.most.max(sum);
        self.begun = true;
    }
}

fn count(object: &Value) -> usize {
    match object["endpoints"].as_array() {
        Some(endpoints) => endpoints.iter().filter(|one| one["conditions"]["ready"] == true).count(),
        None if object["kind"] == "EndpointSlice" => 0,
        None => usize::from(object["metadata"]["deletionTimestamp"].is_null()),
    }
}

/// A running watch.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    seen: Arc<Mutex<Extremes>>,
}

impl Watch {
    /// Watches the objects that `kubectl get KIND -l LABEL` names. Begun when all that exist are in place, so call [`Watch::settle`] first.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub fn start(case: &Case, kind: &str, label: &str) -> Result<Self> {
        let mut command = Command::new("kubectl");
        command.args(["get", kind, "-n", &case.namespace, "-l", label, "-w", "-o", "json", "--output-watch-events"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let pipe = child.stdout.take().context("no pipe")?;
        let seen = Arc::new(Mutex::new(Extremes::default()));
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            let events = serde_json::Deserializer::from_reader(pipe).into_iter::<Value>();
            for event in events.map_while(Result::ok) {
                lock(&shared).see(event["type"].as_str().unwrap_or_default(), &event["object"]);
            }
        });
        Ok(Self { child, seen })
    }

    /// Waits until so many are there and counts the extremes from now on.
    ///
    /// # Errors
    /// When they are not within `limit`.
    pub fn settle(&self, wanted: usize, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let mut seen = lock(&self.seen);
            let now: usize = seen.now.values().sum();
            if now == wanted {
                (seen.fewest, seen.most) = (now, now);
                return Ok(());
            }
            drop(seen);
            if Instant::now() > end {
                bail!("{now} are there, not {wanted}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What was seen so far.
    #[must_use]
    pub fn seen(&self) -> Extremes {
        lock(&self.seen).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that asks a Service over HTTP all the time, each time over a new connection.
#[derive(Debug)]
pub struct Asker {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Asked>>,
}

/// What the client got.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Answers.
    pub answers: usize,
    /// Questions without an answer.
    pub failures: usize,
    /// Longest time without any answer.
    pub silence: Duration,
    /// Last answer.
    pub last: String,
}

impl Asker {
    /// Starts to ask.
    #[must_use]
    pub fn start(server: SocketAddr) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Asked::default())));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&seen));
        thread::spawn(move || {
            let mut last = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let answer = http::get(server, "/");
                let mut seen = lock(&shared);
                seen.silence = seen.silence.max(last.elapsed());
                match answer {
                    Ok(body) => {
                        seen.answers += 1;
                        seen.last = body;
                        last = Instant::now();
                    }
                    Err(_) => seen.failures += 1,
                }
                drop(seen);
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, seen }
    }

    /// What it got so far.
    #[must_use]
    pub fn seen(&self) -> Asked {
        lock(&self.seen).clone()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
