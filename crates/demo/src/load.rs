//! A client that writes and reads Redis all the time, keeps a ledger, and knows by its own clock for how long nobody answered.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::ledger::{self, Judgement, Ledger, Proof};
use crate::redis::{Connection, PATIENCE};
use crate::resp::Reply;

/// Requests of each round.
pub const PER_ROUND: u64 = 3;
/// Pause between two rounds of a write and a read.
const PACE: Duration = Duration::from_millis(1);
/// Keys written at once at the first loading.
const BATCH: u64 = 1000;
/// How long the server may be away before the client gives up for good.
const LOST: Duration = Duration::from_secs(120);
/// Patience for the long answers of loading and proof.
const LONG: Duration = Duration::from_secs(20);

/// What the client has seen so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// Longest time between two answers since the last call of [`Load::reset`].
    pub stall: Duration,
    /// Connections that were lost.
    pub reconnects: usize,
    /// Reads that contradicted an acknowledged write.
    pub stale_reads: usize,
    /// Rounds that were answered.
    pub rounds: u64,
}

/// A running client.
#[derive(Debug)]
pub struct Load {
    server: SocketAddr,
    database: u16,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Ledger>>,
}

impl Load {
    /// Loads `keys` keys, then starts to write and read.
    ///
    /// # Errors
    /// When the server does not take the keys.
    pub fn start(server: SocketAddr, keys: u32) -> Result<Self> {
        Self::start_in(server, keys, 0)
    }

    /// The same in a database: clients whose databases differ may work side by side.
    ///
    /// # Errors
    /// As [`Load::start`].
    pub fn start_in(server: SocketAddr, keys: u32, database: u16) -> Result<Self> {
        let mut connection = connect(server, database, LONG)?;
        fill(&mut connection, u64::from(keys))?;
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let client = Client { server, database, ledger: Ledger::new(keys), seen: Arc::clone(&seen), stop: Arc::clone(&stop) };
        Ok(Self { server, database, seen, stop, thread: thread::spawn(move || client.run()) })
    }

    /// What was seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        *lock(&self.seen)
    }

    /// Forgets the longest stall.
    pub fn reset(&self) {
        lock(&self.seen).stall = Duration::ZERO;
    }

    /// Waits until so many more rounds were answered.
    ///
    /// # Errors
    /// When they were not within `limit`.
    pub fn wait_for_rounds(&self, more: u64, limit: Duration) -> Result<()> {
        let (wanted, end) = (self.seen().rounds + more, Instant::now() + limit);
        while self.seen().rounds < wanted {
            ensure!(Instant::now() < end && !self.thread.is_finished(), "redis at {} answers nobody", self.server);
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Stops the client and proves that nothing acknowledged is missing.
    ///
    /// # Errors
    /// When the server is away; a missing write is not an error but stands in the proof.
    pub fn finish(self) -> Result<(Proof, Seen)> {
        self.stop.store(true, Ordering::Relaxed);
        let ledger = self.thread.join().map_err(|_| anyhow!("the client ended early"))??;
        let mut connection = connect(self.server, self.database, LONG)?;
        let mut proof = ledger.prove(&mut connection)?;
        let seen = *lock(&self.seen);
        proof.missing += seen.stale_reads;
        Ok((proof, seen))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(server: SocketAddr, database: u16, patience: Duration) -> Result<Connection> {
    let mut connection = Connection::insist(server, patience, LOST)?;
    connection.select(database)?;
    Ok(connection)
}

fn fill(connection: &mut Connection, keys: u64) -> Result<()> {
    let mut from = 0;
    while from < keys {
        let pairs: Vec<(String, String)> = (from..keys.min(from + BATCH)).map(|key| (ledger::name(key), ledger::value(key, 0))).collect();
        let mut words: Vec<&[u8]> = vec![b"MSET"];
        words.extend(pairs.iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]));
        let reply = connection.command(&words).context("MSET")?;
        ensure!(reply == Reply::Simple("OK".into()), "MSET was answered by {reply:?}");
        from += BATCH;
    }
    Ok(())
}

struct Client {
    server: SocketAddr,
    database: u16,
    ledger: Ledger,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
}

impl Client {
    fn run(mut self) -> Result<Ledger> {
        let mut connection = connect(self.server, self.database, PATIENCE)?;
        let (mut n, mut last) = (0, Instant::now());
        while !self.stop.load(Ordering::Relaxed) {
            n += 1;
            if self.round(&mut connection, n)? {
                let now = Instant::now();
                let mut seen = lock(&self.seen);
                seen.stall = seen.stall.max(now - last);
                seen.rounds += 1;
                drop(seen);
                last = now;
                thread::sleep(PACE);
            } else {
                lock(&self.seen).reconnects += 1;
                connection = connect(self.server, self.database, PATIENCE)?;
            }
        }
        Ok(self.ledger)
    }

    /// Write `n` and a read of another key. False: the connection is lost.
    fn round(&mut self, connection: &mut Connection, n: u64) -> Result<bool> {
        let (key, other) = (self.ledger.key_of(n), n.wrapping_mul(104_729) % self.ledger.keys().max(1));
        let (name, value, number, asked) = (ledger::name(key), ledger::value(key, n), n.to_string(), ledger::name(other));
        let set: [&[u8]; 3] = [b"SET", name.as_bytes(), value.as_bytes()];
        let push: [&[u8]; 3] = [b"RPUSH", ledger::LIST.as_bytes(), number.as_bytes()];
        let get: [&[u8]; 2] = [b"GET", asked.as_bytes()];
        let Ok(replies) = connection.pipeline(&[&set, &push, &get]) else {
            self.ledger.doubt(n);
            return Ok(false);
        };
        let [Reply::Simple(ok), Reply::Integer(_), Reply::Bulk(read)] = replies.as_slice() else {
            return Err(anyhow!("redis refused write {n}: {replies:?}"));
        };
        ensure!(ok == "OK", "redis refused write {n}: {ok}");
        self.ledger.acknowledge(n);
        if self.ledger.judge(other, read.as_deref()) != Judgement::Good {
            lock(&self.seen).stale_reads += 1;
        }
        Ok(true)
    }
}
