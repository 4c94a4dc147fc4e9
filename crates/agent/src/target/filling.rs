//! Post-copy: what had not travelled when the pod was frozen is fetched from its frozen source, what a process stands still for first.
//!
//! ```text
//!   pager ── wanted ──▶ <images>/<container>.store/awaited ◀── pages, here ── this ◀── Handoff.Fetch ── the source's agent ◀── frozen processes
//! ```
//! It begins with the restore, since CRIU itself touches some of it (`rseq` of threads), and goes on while the pod runs. Everything that is known is in the store, on tmpfs: after a restart
//! of the agent it goes on where it was. The source stays sealed until all has come, since the controller retires it only then. If the source is lost before, so is the pod: its pager
//! kills it, because what it wrote cannot be had any more.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use godwit_memory::{Range, awaited, awaited::Awaited, rounds};
use godwit_rpc::v1::{Failure, FetchRequest, FillReply, Migration, handoff_client::HandoffClient};
use tokio::sync::watch;
use tonic::{Code, transport::Channel};

use crate::{
    convert,
    failure::failure,
    node::Node,
    source::{fetch::MOST, filled},
};

/// Between two attempts while the source's agent is away, or the store is full.
const PAUSE: Duration = Duration::from_millis(200);
/// How often it is looked whether the pod still needs what is fetched.
const LOOK: Duration = Duration::from_secs(1);
/// For how long the source's agent may be away before the source is given up. While it stands still nothing is lost by waiting but the pod's time.
const PATIENCE: Duration = Duration::from_secs(600);
/// For how long an answer is waited for: its agent may be busy with its disk.
const ANSWER: Duration = Duration::from_secs(15);
/// Where the bandwidth is limited, what is fetched at once takes so much of a second: what a process stands still for waits for it.
const SHARE: u64 = 50;
/// How soon it is looked again whether a process stands still for something, while the limit says to wait.
const GLANCE: Duration = Duration::from_millis(2);

/// The awaited memory of one pod.
#[derive(Clone)]
pub struct Filling {
    told: watch::Sender<FillReply>,
    /// Wanted no more.
    stopped: watch::Sender<bool>,
}

/// One container.
pub struct Store {
    /// Its name.
    pub name: String,
    /// The runtime's name for it.
    pub id: String,
    /// The page store.
    pub path: PathBuf,
}

struct Container {
    name: String,
    awaited: Arc<Mutex<Awaited>>,
}

impl Default for Filling {
    fn default() -> Self {
        Self { told: watch::Sender::new(FillReply::default()), stopped: watch::Sender::new(false) }
    }
}

impl Filling {
    /// Begins to fetch what the stores await, `bandwidth` bytes a second at most (0: no limit), if there is anything; when all is there, or lost, `then` is called. Begun before: nothing.
    pub fn begin(&self, node: Arc<Node>, migration: Arc<Migration>, stores: Vec<Store>, bandwidth: u64, then: impl FnOnce() + Send + 'static) {
        if self.is_done() || self.is_under_way() {
            return;
        }
        let awaited = stores.iter().any(|store| awaited::is_any(&store.path));
        self.told.send_replace(FillReply { done: !awaited, total: u64::from(awaited), left: u64::from(awaited), failure: None });
        if !awaited {
            return;
        }
        let (told, mut stopped) = (self.told.clone(), self.stopped.subscribe());
        crate::task::spawn(async move {
            let ids: Vec<String> = stores.iter().map(|store| store.id.clone()).collect();
            let containers = open(stores).await;
            let mut fetch = Fetch { node: &node, migration: &migration, client: None, bandwidth, ids: &ids };
            let fetched = tokio::select! {
                fetched = fetch.all(&containers, &told) => fetched,
                // Taken back: the store goes, and what waits for it is ended by others.
                _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
            };
            let before = containers.iter().any(|container| container.lock().is_lost());
            let outcome = match fetched {
                // What the pod has given back is missed by nobody.
                Err(_) if !before && !fetch.is_needed().await => Ok(()),
                fetched => fetched,
            };
            if let Err(why) = &outcome {
                tracing::error!(reason = why.reason, message = why.message, "the pod is lost");
                containers.iter().for_each(|container| container.lock().lose());
            }
            told.send_modify(|reply| {
                reply.left = if outcome.is_ok() { 0 } else { reply.left };
                reply.failure = outcome.err();
                reply.done = true;
            });
            then();
        });
    }

    /// Ends it: the pod will not run here.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Whether nothing is fetched any more, and nothing was lost: the stores are not needed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let reply = self.told.borrow();
        reply.done && reply.failure.is_none()
    }

    fn is_done(&self) -> bool {
        self.told.borrow().done
    }

    /// Whether something is fetched.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        let reply = self.told.borrow();
        reply.total > 0 && !reply.done
    }

    /// How it stands: returns when all is there or lost, or after `patience`.
    pub async fn wait(&self, patience: Duration) -> FillReply {
        let mut seen = self.told.subscribe();
        let _ = tokio::time::timeout(patience, seen.wait_for(|reply| reply.done)).await;
        self.told.borrow().clone()
    }
}

impl Container {
    fn lock(&self) -> std::sync::MutexGuard<'_, Awaited> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the stores. One that cannot be opened now is tried again: without it the pod cannot go on.
async fn open(stores: Vec<Store>) -> Vec<Container> {
    let mut containers = Vec::new();
    for store in stores {
        let awaited = loop {
            match Awaited::open(&store.path) {
                Ok(awaited) => break awaited,
                Err(error) => tracing::error!(%error, container = store.name, "memory that is still to come cannot be fetched yet"),
            }
            tokio::time::sleep(PAUSE).await;
        };
        containers.push(Container { name: store.name, awaited: Arc::new(Mutex::new(awaited)) });
    }
    containers
}

/// The way to the source.
struct Fetch<'a> {
    node: &'a Arc<Node>,
    migration: &'a Migration,
    client: Option<HandoffClient<Channel>>,
    bandwidth: u64,
    /// Of all containers.
    ids: &'a [String],
}

enum Gone {
    ForGood(String),
    Away(String),
}

impl Fetch<'_> {
    /// Whether a pager still waits for pages. Not to know is no reason to let it wait for ever.
    async fn is_needed(&self) -> bool {
        let (node, ids) = (self.node.clone(), self.ids.to_vec());
        let found = crate::task::spawn_blocking(move || filled::pager(&node.host, &ids)).await;
        !matches!(found, Ok(Ok(None)))
    }

    async fn all(&mut self, containers: &[Container], told: &watch::Sender<FillReply>) -> Result<(), Failure> {
        let extent = |of: fn(&Awaited) -> u64| containers.iter().map(|container| of(&container.lock())).sum::<u64>();
        told.send_modify(|reply| (reply.total, reply.left) = (extent(Awaited::total).max(1), extent(Awaited::left)));
        tracing::info!(bytes = told.borrow().left, "memory is fetched from the source");
        if containers.iter().any(|container| container.lock().is_lost()) {
            return Err(lost("so it was found before this agent was started anew"));
        }
        let most = if self.bandwidth == 0 { MOST } else { (self.bandwidth / SHARE).clamp(64 << 10, MOST) };
        let (began, mut fetched, mut looked) = (Instant::now(), 0u64, Instant::now());
        loop {
            if looked.elapsed() > LOOK {
                if !self.is_needed().await {
                    return Ok(());
                }
                looked = Instant::now();
            }
            // What a process stands still for comes first, in whichever container.
            let first = containers.iter().find(|container| container.lock().is_wanted());
            let next =
                first.into_iter().chain(containers).find_map(|container| container.lock().next(most).map(|(process, ranges)| (container, process, ranges)));
            let Some((container, process, ranges)) = next else { return Ok(()) };
            let bytes = self.some(container, process, &ranges).await?;
            fetched += bytes;
            told.send_modify(|reply| reply.left = reply.left.saturating_sub(bytes));
            while !rounds::pause(fetched, began.elapsed(), self.bandwidth).is_zero() && !containers.iter().any(|container| container.lock().is_wanted()) {
                tokio::time::sleep(GLANCE).await;
            }
        }
    }

    /// Fetches some pages and puts them into the store; waits while the source's agent is away.
    async fn some(&mut self, container: &Container, process: i32, ranges: &[Range]) -> Result<u64, Failure> {
        let _ = godwit_fault::point("agent.target.fetch").await;
        let away_since = Instant::now();
        loop {
            let why = match self.ask(container, process, ranges).await {
                Ok(data) => {
                    let (awaited, ranges, bytes) = (container.awaited.clone(), ranges.to_vec(), data.len() as u64);
                    let put = move || awaited.lock().unwrap_or_else(PoisonError::into_inner).put(process, &ranges, &data);
                    match crate::task::spawn_blocking(put).await {
                        Ok(Ok(())) => return Ok(bytes),
                        Ok(Err(error)) => format!("what came of it cannot be stored: {error}"),
                        Err(error) => error.to_string(),
                    }
                }
                Err(Gone::ForGood(why)) => return Err(lost(&why)),
                Err(Gone::Away(why)) => why,
            };
            if away_since.elapsed() > PATIENCE {
                return Err(lost(&format!("nothing came of it for {} s: {why}", PATIENCE.as_secs())));
            }
            tracing::warn!(why, "memory that is still to come does not come: the pod waits for it");
            self.client = None;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask(&mut self, container: &Container, process: i32, ranges: &[Range]) -> Result<Vec<u8>, Gone> {
        let client = match &mut self.client {
            Some(client) => client,
            None => {
                let made = self.node.handoff(&self.migration.source_address, &self.migration.source_node).map_err(|why| Gone::Away(why.message))?;
                self.client.insert(made)
            }
        };
        let request = FetchRequest { migration: Some(self.migration.clone()), container: container.name.clone(), process, ranges: convert::page_words(ranges) };
        let reply = match tokio::time::timeout(ANSWER, client.fetch(request)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) if status.code() == Code::NotFound => return Err(Gone::ForGood(status.message().to_owned())),
            Ok(Err(status)) => return Err(Gone::Away(status.message().to_owned())),
            Err(_) => return Err(Gone::Away(format!("no answer for {} s", ANSWER.as_secs()))),
        };
        if !reply.gone.is_empty() {
            return Err(Gone::ForGood(reply.gone));
        }
        let wanted: u64 = ranges.iter().map(Range::len).sum();
        if reply.data.len() as u64 != wanted || blake3::hash(&reply.data).as_bytes().as_slice() != reply.digest {
            return Err(Gone::Away("what came is damaged".into()));
        }
        Ok(reply.data)
    }
}

fn lost(why: &str) -> Failure {
    failure(
        "PodLost",
        format!("the old pod was lost before all of its memory had come: {why}"),
        "containers whose memory is lost were killed, and begin afresh if the pod's restart policy says so; memory: PreCopy does not depend on the source once the pod runs",
    )
}
