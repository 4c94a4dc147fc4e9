//! Streams on which memory travels beside each other, each on a connection of its own.
//!
//! ```text
//!   pieces ─▶ queue ─┬▶ thread: digest, zstd ─▶ Handoff.Pages ─▶ target's page store ─▶ Receipt: pieces, bytes, digest ─▶ compared
//!                    ├▶ …                                                        (each stream has a level of the store to itself)
//!                    └▶ as many as [`Width`] says, also while they run
//! ```

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::Receiver,
    },
    time::{Duration, Instant},
};

use blake3::Hasher;
use futures::stream::{FuturesUnordered, StreamExt};
use godwit_memory::rounds;
use godwit_rpc::v1::{Compression, Failure, Migration, PageChunk, Receipt, handoff_client::HandoffClient};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{
    packer::{Packer, Zstd},
    width::{MOST, USUAL, Width},
    window::Window,
};
use crate::failure::{failure, internal};

/// Pieces between a lane's thread and its stream.
const AHEAD: usize = 1;
/// Bytes after which it is looked whether compressed or not is faster.
const PACKING: u64 = 16 << 20;
/// And whether more connections are.
const WIDENING: u64 = 32 << 20;

/// See the module.
pub struct Lanes {
    clients: Vec<HandoffClient<Channel>>,
    /// Which of them have been used.
    tried: Vec<AtomicBool>,
    pace: Arc<Pace>,
}

/// What got across, in all or by one lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Pieces.
    pub pieces: u64,
    /// Bytes of memory.
    pub bytes: u64,
    /// Bytes of the network.
    pub wire: u64,
}

/// How memory is carried; all lanes learn together.
struct Pace {
    learner: Mutex<Learner>,
    width: watch::Sender<usize>,
}

struct Learner {
    packer: Packer,
    packing: Window,
    width: Width,
    widening: Window,
}

/// What one call carries.
struct Load {
    queue: Mutex<Receiver<PageChunk>>,
    /// The queue has come to its end.
    over: AtomicBool,
    begin: Instant,
    wire: AtomicU64,
    /// Bytes a second; 0: no limit.
    bandwidth: u64,
    /// Bytes of the network of the whole migration.
    count: Arc<AtomicU64>,
}

impl Lanes {
    /// On the connection of `first` and as many more as are of use, made by `dial`; `connections` says how many (0: what turns out to be best).
    ///
    /// # Errors
    /// Those of `dial`.
    pub fn new(
        first: HandoffClient<Channel>,
        dial: impl Fn() -> Result<HandoffClient<Channel>, Failure>,
        connections: u32,
        compression: Compression,
    ) -> Result<Self, Failure> {
        let wished = usize::try_from(connections).unwrap_or(MOST).min(MOST);
        let most = if wished == 0 { USUAL } else { wished };
        let clients = std::iter::once(Ok(first)).chain((1..most).map(|_| dial())).collect::<Result<Vec<_>, _>>()?;
        let learner =
            Learner { packer: Packer::new(compression), packing: Window::of(PACKING), width: Width::new(most, wished > 0), widening: Window::of(WIDENING) };
        let width = watch::Sender::new(learner.width.now());
        let tried = clients.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Self { clients, tried, pace: Arc::new(Pace { learner: Mutex::new(learner), width }) })
    }

    /// Tells the target that memory comes, whatever came before. One of a version that can only take one stream at a time gets one.
    ///
    /// # Errors
    /// When it cannot take any.
    pub async fn begin(&self, migration: &Migration) -> Result<(), Failure> {
        let receipt = self.knock(0, PageChunk { fresh: true, ..head(migration) }).await?;
        if !receipt.beside {
            self.pace.narrow();
        }
        receipt.failure.map_or(Ok(()), Err)
    }

    /// How many are in use.
    #[must_use]
    pub fn width(&self) -> usize {
        *self.pace.width.borrow()
    }

    /// Carries pieces until there are no more, at no more than `bandwidth` bytes a second (0: no limit); what goes over the network is counted into `count` as well.
    ///
    /// # Errors
    /// When the target does not take them, or not as they were.
    pub async fn carry(&self, migration: &Migration, pieces: Receiver<PageChunk>, count: Arc<AtomicU64>, bandwidth: u64) -> Result<Carried, Failure> {
        let queue = Mutex::new(pieces);
        let load = Arc::new(Load { queue, over: AtomicBool::new(false), begin: Instant::now(), wire: AtomicU64::new(0), bandwidth, count });
        self.pace.begin();
        let mut width = self.pace.width.subscribe();
        let mut runs = vec![false; self.clients.len()];
        let (mut lanes, mut all) = (FuturesUnordered::new(), Carried::default());
        loop {
            let wanted = *width.borrow_and_update();
            for (number, runs) in runs.iter_mut().enumerate().take(wanted).filter(|(_, runs)| !**runs) {
                if !load.over.load(Ordering::Relaxed) {
                    *runs = true;
                    lanes.push(self.lane(number, migration, load.clone()));
                }
            }
            tokio::select! {
                ended = lanes.next() => match ended {
                    None => return Ok(all),
                    Some(ended) => {
                        let (number, carried) = ended?;
                        runs[number] = false;
                        all.pieces += carried.pieces;
                        all.bytes += carried.bytes;
                        all.wire += carried.wire;
                    }
                },
                Ok(()) = width.changed() => {}
            }
        }
    }

    /// One stream, to its receipt.
    async fn lane(&self, number: usize, migration: &Migration, load: Arc<Load>) -> Result<(usize, Carried), Failure> {
        if !self.reaches(number, migration).await {
            self.pace.narrow();
            return Ok((number, Carried::default()));
        }
        let (out, chunks) = mpsc::channel(AHEAD);
        let (pace, first, mut client) = (self.pace.clone(), head(migration), self.client(number)?);
        let feeding = crate::task::spawn_blocking(move || feed(number, first, &load, &pace, &out));
        let (reply, fed) = tokio::join!(client.pages(ReceiverStream::new(chunks)), feeding);
        let receipt = reply.map_err(|status| not_taken(&status))?.into_inner();
        // The receiver's own words say more than a broken pipe.
        if let Some(refusal) = receipt.failure {
            return Err(refusal);
        }
        let fed = fed.map_err(|error| internal("carrying memory ended early", error))?;
        let (carried, digest) = fed.map_err(|error| internal("memory does not travel", error))?;
        if (receipt.files, receipt.bytes, receipt.digest.as_slice()) != (carried.pieces, carried.bytes, digest.as_bytes().as_slice()) {
            return Err(failure(
                "TransferDamaged",
                format!("{} bytes of memory were sent in {} pieces, {} in {} arrived", carried.bytes, carried.pieces, receipt.bytes, receipt.files),
                "try again; look for a fault in the network between the nodes",
            ));
        }
        Ok((number, carried))
    }

    /// Whether a further connection can be made: found out before anything is entrusted to it, since one is enough.
    async fn reaches(&self, number: usize, migration: &Migration) -> bool {
        let Some(tried) = self.tried.get(number).filter(|tried| number > 0 && !tried.load(Ordering::Relaxed)) else { return true };
        match self.knock(number, head(migration)).await {
            Ok(_) => {
                tried.store(true, Ordering::Relaxed);
                true
            }
            Err(why) => {
                tracing::warn!(number, message = why.message, "a further connection cannot be had: memory travels on one");
                false
            }
        }
    }

    /// A stream of one message that carries nothing, to its receipt.
    async fn knock(&self, number: usize, message: PageChunk) -> Result<Receipt, Failure> {
        let reply = self.client(number)?.pages(tokio_stream::once(message)).await;
        Ok(reply.map_err(|status| not_taken(&status))?.into_inner())
    }

    fn client(&self, number: usize) -> Result<HandoffClient<Channel>, Failure> {
        self.clients.get(number).cloned().ok_or_else(|| internal("memory does not travel", format!("there is no lane {number}")))
    }
}

/// The work of a lane's thread: takes pieces until there are no more, or the lane is not wanted any more.
fn feed(number: usize, first: PageChunk, load: &Load, pace: &Pace, out: &mpsc::Sender<PageChunk>) -> io::Result<(Carried, blake3::Hash)> {
    let give = |chunk: PageChunk| out.blocking_send(chunk).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
    let (mut hash, mut carried, mut zstd) = (Hasher::new(), Carried::default(), Zstd::default());
    give(first)?;
    while number < *pace.width.borrow() {
        let Some(piece) = load.next() else { break };
        let bytes = piece.data.len() as u64;
        hash.update(&piece.data);
        let packs = pace.learner().packer.packs();
        let piece = if packs { zstd.pack(piece)? } else { piece };
        let wire = piece.data.len() as u64;
        carried = Carried { pieces: carried.pieces + 1, bytes: carried.bytes + bytes, wire: carried.wire + wire };
        load.count.fetch_add(wire, Ordering::Relaxed);
        let sent = load.wire.fetch_add(wire, Ordering::Relaxed) + wire;
        let ready = Instant::now();
        give(piece)?;
        let network = ready.elapsed();
        let pause = rounds::pause(sent, load.begin.elapsed(), load.bandwidth);
        std::thread::sleep(pause);
        pace.learn(bytes, network, pause);
    }
    Ok((carried, hash.finalize()))
}

impl Load {
    fn next(&self) -> Option<PageChunk> {
        let piece = self.queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
        if piece.is_none() {
            self.over.store(true, Ordering::Relaxed);
        }
        piece
    }
}

impl Pace {
    /// A piece got across: so long its lane waited for the network, and so long because of a limit.
    fn learn(&self, bytes: u64, network: Duration, limit: Duration) {
        let mut learner = self.learner();
        let Learner { packer, packing, width, widening } = &mut *learner;
        let threads = width.now();
        if let Some(seen) = packing.add(bytes, network + limit)
            && width.is_settled()
        {
            packer.learn(&seen, threads);
        }
        if let Some(seen) = widening.add(bytes, network) {
            width.learn(&seen);
            if width.now() != threads {
                packing.clear();
                packer.forget();
                self.width.send_replace(width.now());
            }
        }
    }

    /// Another round begins.
    fn begin(&self) {
        let mut learner = self.learner();
        learner.packing.clear();
        learner.widening.clear();
        learner.width.pause();
        self.width.send_replace(learner.width.now());
    }

    fn narrow(&self) {
        let mut learner = self.learner();
        learner.width.narrow();
        self.width.send_replace(learner.width.now());
    }

    fn learner(&self) -> MutexGuard<'_, Learner> {
        self.learner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first message of a stream: it names the migration and carries nothing.
fn head(migration: &Migration) -> PageChunk {
    PageChunk { migration: Some(migration.clone()), ..PageChunk::default() }
}

fn not_taken(status: &tonic::Status) -> Failure {
    failure(
        "TransferFailed",
        format!("the target did not take the pages: {}", status.message()),
        "try again; look at the log of the target's agent if it stays",
    )
}
