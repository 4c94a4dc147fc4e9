//! Memory on its way while the pod runs: rounds until what is left fits the freeze, and the late pages inside it.
//!
//! ```text
//!   thread: Tracker ─▶ Reader ──PageChunk──▶ bounded queue ─▶ [`Lanes`]: connections to the target's page store
//! ```

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use godwit_memory::{
    Error,
    rounds::{self, Forecast, Next, Round},
};
use godwit_migration::timeline::steps;
use godwit_node::cgroup::Cgroup;
use godwit_rpc::v1::{Compression, Copied, Failure, Late, Migration, PageChunk};
use tokio::sync::watch;

use super::lanes::{Carried, Lanes};
use super::memory::{Found, Memory, veil_of};
use crate::clock::Timer;
use crate::failure::{failure, internal};

/// Pieces in the queue.
const QUEUE: usize = 2;
/// The freeze that is aimed at when nobody says.
const BUDGET: Duration = Duration::from_millis(200);
/// Of which the memory that is left may take this part.
const SHARE: u32 = 4;

/// Rounds right before the freeze, at most.
const LAST_ROUNDS: usize = 3;
/// What the memory that is left may take in the freeze if it is not worth another of these.
const ENOUGH: Duration = Duration::from_millis(10);
/// How long a migration that was given up may take to let go of the pod, and how often one that comes after it looks.
const GIVEN_UP: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// What the user wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// Memory travels while the pod runs.
    pub pre_copy: bool,
    /// Wished for; zero: the default.
    pub budget: Duration,
    /// Bytes a second; 0: no limit.
    pub bandwidth: u64,
    /// Memory that does not get less ends the switch.
    pub give_up: bool,
    /// Whether pieces are compressed.
    pub compression: Compression,
    /// When memory travels that changes too late.
    pub late: Late,
    /// Which pages change is told by digests, even if it could be by write protection.
    pub digests: bool,
    /// Connections on which memory travels; 0: as many as are of use.
    pub connections: u32,
    /// The target's container runtime itself restores.
    pub import: bool,
    /// When everything before the commit must be over.
    pub deadline: Option<SystemTime>,
}

impl Wishes {
    /// From the request.
    #[must_use]
    pub fn of(request: &godwit_rpc::v1::SwitchRequest) -> Self {
        let budget = Duration::from_millis(request.freeze_budget_ms.into());
        Self {
            pre_copy: request.pre_copy,
            budget,
            bandwidth: request.bandwidth,
            give_up: request.give_up,
            compression: request.compression(),
            late: request.late(),
            digests: request.digests,
            connections: request.connections,
            import: request.import,
            deadline: u64::try_from(request.deadline_unix_ms).ok().filter(|ms| *ms > 0).map(|ms| UNIX_EPOCH + Duration::from_millis(ms)),
        }
    }

    fn budget(&self) -> Duration {
        if self.budget.is_zero() { BUDGET } else { self.budget }
    }

    /// What is left until the deadline; zero when it has passed.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.deadline.map_or(Duration::MAX, |deadline| deadline.duration_since(SystemTime::now()).unwrap_or_default())
    }
}

/// The late pages: on their way, arrived, or not.
pub type Lateness = watch::Receiver<Option<Result<(), Failure>>>;

/// The memory of one pod, if it travels.
pub struct Travel {
    /// Name and cgroup.
    containers: Vec<(String, Cgroup)>,
    memory: Arc<Mutex<Option<Memory>>>,
    rounds: Mutex<Vec<Round>>,
    sent: Arc<AtomicU64>,
    lanes: OnceLock<Lanes>,
    /// The late pages travel after the switch.
    postponed: AtomicBool,
    /// The deadline leaves no time for more than the freeze.
    hurried: AtomicBool,
}

enum What {
    Round,
    Late,
}

impl Travel {
    /// The containers by name and cgroup; what is sent is counted into `sent`.
    #[must_use]
    pub fn new(containers: Vec<(String, Cgroup)>, sent: Arc<AtomicU64>) -> Self {
        Self {
            containers,
            memory: Arc::default(),
            rounds: Mutex::default(),
            sent,
            lanes: OnceLock::new(),
            postponed: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
        }
    }

    /// Sends memory on the lanes, round by round, until what is left fits, or does not get less. A pod that cannot be tracked is left to CRIU: that is no failure.
    ///
    /// # Errors
    /// When the target does not take the pages, the switch is `wanted` no more, or the pod is rather to stay where it is than to stand still for its memory.
    pub async fn run(
        &self,
        lanes: Lanes,
        migration: &Migration,
        wishes: Wishes,
        wanted: impl Fn() -> bool + Clone + Send + 'static,
        report: impl Fn(Copied),
        step: impl Fn(Timer),
    ) -> Result<(), Failure> {
        if !wishes.pre_copy {
            return Ok(());
        }
        match self.attach(wishes.digests, wanted.clone()).await? {
            Ok(memory) => {
                *self.lock() = Some(memory);
                if let Err(why) = lanes.begin(migration).await {
                    self.release();
                    return Err(why);
                }
                let _ = self.lanes.set(lanes);
            }
            // That passes in a moment, and a long freeze would not be worth it.
            Err(error @ Error::Busy(_)) => return Err(internal("memory does not travel yet", error)),
            Err(error) if wishes.give_up => return Err(untracked(error)),
            Err(error) => {
                tracing::warn!(%error, "memory does not travel while the pod runs");
                return Ok(());
            }
        }
        loop {
            if !wanted() {
                return Err(stopped());
            }
            let (next, forecast) = self.round(migration, wishes, wanted.clone(), &step).await?;
            godwit_fault::point("agent.source.round").await.map_err(|error| internal("stopped", error))?;
            report(self.copied(forecast));
            let postponed = match wishes.late {
                Late::InFreeze => false,
                Late::IfStuck => matches!(next, Next::Stuck | Next::TooLate),
                Late::AfterSwitch => true,
            };
            if postponed {
                tracing::info!(?forecast, "what is left travels after the switch");
                self.postponed.store(true, Ordering::Relaxed);
                return Ok(());
            }
            match next {
                Next::Again => {}
                // Where all memory has to be read in the freeze, no further round makes that shorter.
                Next::Converged if wishes.give_up && forecast.freeze() > wishes.budget() => return Err(not_converging(&forecast)),
                Next::Converged => return Ok(()),
                Next::Stuck | Next::TooLate if wishes.give_up => return Err(not_converging(&forecast)),
                Next::Stuck | Next::TooLate => {
                    self.hurried.store(next == Next::TooLate, Ordering::Relaxed);
                    tracing::warn!(?forecast, "the pod's memory does not get less, or not before the deadline: the freeze will be longer");
                    return Ok(());
                }
            }
        }
    }

    /// Begins to track the pod. A migration before this one that has just been given up may still hold it for a moment: that is waited for.
    async fn attach(&self, digests: bool, wanted: impl Fn() -> bool + Send) -> Result<Result<Memory, Error>, Failure> {
        let end = Instant::now() + GIVEN_UP;
        loop {
            let containers = self.containers.clone();
            let attached = crate::task::spawn_blocking(move || Memory::attach(containers, digests)).await;
            match attached.map_err(|error| internal("tracking ended early", error))? {
                Err(Error::Busy(_)) if wanted() && Instant::now() < end => tokio::time::sleep(PAUSE).await,
                attached => return Ok(attached),
            }
        }
    }

    /// Once more, right before the freeze, if there is time: what has changed while the freeze was prepared, and so on as long as that makes the freeze noticeably shorter.
    ///
    /// # Errors
    /// As [`Travel::run`].
    pub async fn once_more(
        &self,
        migration: &Migration,
        wishes: Wishes,
        wanted: impl Fn() -> bool + Clone + Send + 'static,
        report: impl Fn(Copied),
        step: impl Fn(Timer),
    ) -> Result<(), Failure> {
        let mut before = Duration::MAX;
        for _ in 0..LAST_ROUNDS {
            if self.lock().is_none() || self.hurried.load(Ordering::Relaxed) || !wanted() {
                break;
            }
            let (next, forecast) = self.round(migration, wishes, wanted.clone(), &step).await?;
            report(self.copied(forecast));
            let shorter = forecast.transfer > ENOUGH && forecast.transfer <= before / 4 * 3;
            // What travels after the switch does not count, and where the look takes longer than what it finds no round makes that shorter.
            if !shorter || forecast.look > forecast.transfer || matches!(next, Next::Stuck | Next::TooLate) || self.postponed.load(Ordering::Relaxed) {
                break;
            }
            before = forecast.transfer;
        }
        Ok(())
    }

    async fn round(
        &self,
        migration: &Migration,
        wishes: Wishes,
        wanted: impl Fn() -> bool + Clone + Send + 'static,
        step: &impl Fn(Timer),
    ) -> Result<(Next, Forecast), Failure> {
        let (start, timer) = (Instant::now(), Timer::start("source", "round"));
        let Some((found, sent)) = self.send(migration, What::Round, wishes.bandwidth, wanted).await? else {
            return if wishes.give_up { Err(untracked("it can be tracked no longer")) } else { Ok((Next::Converged, Forecast::default())) };
        };
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        rounds.push(Round { changed: found.changed, sent: sent.bytes, looked: found.looked, took: start.elapsed() });
        let decided = rounds::next(&rounds, wishes.budget() / SHARE, wishes.time());
        step(timer.about(&steps::Round { number: rounds.len() as u64, changed: found.changed, sent: sent.wire }.to_string()));
        tracing::info!(round = rounds.len(), changed = found.changed, looked = ?found.looked, sent = sent.bytes, wire = sent.wire, connections = self.width(), took = ?start.elapsed(), forecast = ?decided.1, "memory");
        Ok(decided)
    }

    fn copied(&self, forecast: Forecast) -> Copied {
        let sent = self.sent.load(Ordering::Relaxed);
        Copied {
            bytes: sent,
            total: sent.saturating_add(forecast.remaining),
            round: u32::try_from(self.rounds.lock().unwrap_or_else(PoisonError::into_inner).len()).unwrap_or(u32::MAX),
            rate: forecast.rate,
            dirty_rate: forecast.dirty_rate,
            remaining: forecast.remaining,
            forecast_ms: u32::try_from(forecast.freeze().as_millis()).unwrap_or(u32::MAX),
            connections: u32::try_from(self.width()).unwrap_or(u32::MAX),
        }
    }

    /// When everything stands still: what is left. Writes for each container (name and work directory) what CRIU is not to look at; whether there is such a thing.
    pub async fn freeze(&self, containers: Vec<(String, PathBuf)>) -> bool {
        let held = self.memory.clone();
        let outcome = crate::task::spawn_blocking(move || {
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(memory) = held.as_mut() else { return Ok(false) };
            let looked = memory.last().map_err(|error| error.to_string()).and_then(|_| {
                containers.iter().try_for_each(|(name, work)| memory.veil(name, &veil_of(work))).map_err(|error| format!("cannot write the veil: {error}"))
            });
            match looked {
                Ok(()) => Ok(true),
                Err(why) => {
                    // CRIU takes everything, as if nothing had travelled.
                    *held = None;
                    Err(why)
                }
            }
        });
        match outcome.await {
            Ok(Ok(veiled)) => veiled,
            Ok(Err(why)) => {
                tracing::warn!(why, "memory is left to CRIU after all");
                false
            }
            Err(error) => {
                tracing::error!(%error, "the last look ended early");
                self.release();
                false
            }
        }
    }

    /// Sends the late pages and says when they are there, if they are not postponed.
    pub async fn send_late(&self, migration: &Migration, told: &watch::Sender<Option<Result<(), Failure>>>) {
        if self.postponed.load(Ordering::Relaxed) {
            told.send_replace(Some(Ok(())));
            return;
        }
        // Who takes it back meanwhile ends this from outside.
        let sent = self.send(migration, What::Late, 0, || true).await;
        let outcome = match sent {
            Ok(Some((_, sent))) => {
                tracing::info!(sent = sent.bytes, wire = sent.wire, "late pages");
                Ok(())
            }
            Ok(None) => Err(internal("late pages", "the memory is not tracked any more")),
            Err(why) => Err(why),
        };
        told.send_replace(Some(outcome));
    }

    /// Waits for the late pages, then lists what of a container is in the store, beside its images.
    ///
    /// # Errors
    /// When they did not arrive, or a page would be lost.
    pub async fn settle(&self, mut late: Lateness, container: String, images: PathBuf) -> Result<(), Failure> {
        let arrived = late.wait_for(Option::is_some).await.map_err(|error| internal("late pages", error))?.clone();
        arrived.unwrap_or_else(|| Err(internal("late pages", "nothing is known of them")))?;
        let (held, postponed) = (self.memory.clone(), self.postponed.load(Ordering::Relaxed));
        crate::task::spawn_blocking(move || match held.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(memory) => memory.settle(&container, &images, postponed),
            None => Err(internal("late pages", "the memory is not tracked any more")),
        })
        .await
        .map_err(|error| internal("settling ended early", error))?
    }

    /// The late pages go in the freeze after all: the target is of a version that does not know how to fetch them.
    pub fn hurry(&self) {
        self.postponed.store(false, Ordering::Relaxed);
    }

    /// Whether memory travels while the pod runs.
    #[must_use]
    pub fn travels(&self) -> bool {
        self.lock().is_some()
    }

    /// Ends the tracking, on a thread of its own: the kernel walks all page tables. May be repeated.
    pub fn release(&self) {
        let held = self.memory.clone();
        let taken = move || held.lock().unwrap_or_else(PoisonError::into_inner).take();
        if std::thread::Builder::new().name("release".into()).spawn(taken).is_err() {
            // Where no thread can be had, this one does it.
            let taken = self.lock().take();
            drop(taken);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn width(&self) -> usize {
        self.lanes.get().map_or(0, Lanes::width)
    }

    /// Reads pages and sends them, as long as that is `wanted`: asked before each piece. `None`: the pod cannot be tracked any longer, and is not.
    async fn send(
        &self,
        migration: &Migration,
        what: What,
        bandwidth: u64,
        wanted: impl Fn() -> bool + Clone + Send + 'static,
    ) -> Result<Option<(Found, Carried)>, Failure> {
        let lanes = self.lanes.get().ok_or_else(|| internal("memory does not travel", "it was never begun"))?;
        let (queue, pieces) = mpsc::sync_channel::<PageChunk>(QUEUE);
        let (held, goes_on) = (self.memory.clone(), wanted.clone());
        let reading = crate::task::spawn_blocking(move || {
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            let memory = held.as_mut()?;
            let mut given = 0;
            let mut out = |piece: PageChunk| {
                if !goes_on() {
                    return Err(io::Error::other("the switch is not wanted any more"));
                }
                given += 1;
                queue.send(piece).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
            };
            let outcome = match what {
                What::Round => memory.round(&mut out),
                What::Late => memory.send_late(&mut out).map(|()| Found::default()),
            };
            if matches!(outcome, Err(Error::Unsupported(_))) {
                *held = None;
            }
            Some(outcome.map(|found| (found, given)))
        });
        let (carried, read) = tokio::join!(lanes.carry(migration, pieces, self.sent.clone(), bandwidth), reading);
        if !wanted() {
            return Err(stopped());
        }
        let Some(read) = read.map_err(|error| internal("reading memory ended early", error))? else { return Ok(None) };
        if let Err(Error::Unsupported(why)) = &read {
            tracing::warn!(why, "memory does not travel while the pod runs any longer");
            return Ok(None);
        }
        // What the target says tells more than that nobody takes the pieces.
        let carried = carried?;
        let (found, given): (Found, u64) =
            read.map_err(|error| failure("TransferFailed", format!("memory does not travel: {error}"), "try again; look at the agents' logs if it stays"))?;
        if carried.pieces != given {
            return Err(internal("memory does not travel", format!("{given} pieces were read, {} sent", carried.pieces)));
        }
        Ok(Some((found, carried)))
    }
}

fn stopped() -> Failure {
    internal("stopped", "the switch is not wanted any more")
}

/// For who does not want a pod to stand still for all of its memory.
fn untracked(why: impl std::fmt::Display) -> Failure {
    failure(
        "NotConverging",
        format!("the pod's memory cannot travel while it runs, and in the freeze it would be all of it: {why}"),
        "look at the log of the source's agent, or let it take what it takes (--if-not-converging longer-freeze)",
    )
}

fn not_converging(forecast: &Forecast) -> Failure {
    let mebibytes = |bytes: u64| bytes >> 20;
    failure(
        "NotConverging",
        format!(
            "the pod changes {} MiB of memory a second, {} MiB a second travel: to find the last {} MiB and to send them would keep it standing for {} ms",
            mebibytes(forecast.dirty_rate),
            mebibytes(forecast.rate),
            mebibytes(forecast.remaining),
            forecast.freeze().as_millis()
        ),
        "move it when it is less busy, allow a longer freeze (--freeze-budget), or let it take what it takes (--if-not-converging longer-freeze)",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use godwit_rpc::v1::handoff_client::HandoffClient;
    use tonic::transport::Endpoint;

    use super::*;

    #[tokio::test]
    async fn a_pod_whose_memory_cannot_travel_stays_if_that_is_wished() {
        // Nobody is called: there is nothing to track.
        let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        for give_up in [true, false] {
            let travel = Travel::new(Vec::new(), Arc::default());
            let lanes = Lanes::new(HandoffClient::new(channel.clone()), || Err(internal("no", "more")), 1, Compression::Never).unwrap();
            let wishes = Wishes { pre_copy: true, give_up, ..Wishes::default() };
            let outcome = travel.run(lanes, &Migration::default(), wishes, || true, |_| {}, |_| {}).await;
            assert_eq!(outcome.map_err(|why| why.reason), if give_up { Err("NotConverging".to_owned()) } else { Ok(()) });
            travel.release();
            travel.release();
            assert!(!travel.travels());
        }
    }
}
