//! The witness: was there always exactly one that ran, and did it never forget anything?
//!
//! ```text
//!   source   1 2 3 … 418 ┐ frozen                    ← its log file, read while it is written, held open when it is deleted
//!   target               └ 419 420 …                 ← its log file
//!   datagrams 1 2 … 417, 419 …                       ← may be lost on the way, may not contradict
//! ```
//! A tick's chain depends on random words that were drawn one after the other, so the log files of all pods of a namespace, put together, are one line of
//! history if, and only if, every tick is there exactly once, in order, each chain following from the one before. A second runner, even one whose network is
//! cut, writes a number that is there already. A runner that was put back to an older state does too. One that lost what it did leaves a hole.

mod history;
mod logs;

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::lab::{CLIENT_ADDRESS, Lab};
use crate::pulse::{Tick, parse_gaps};
pub use history::{Heard, History, join};
use logs::Logs;

/// See the module.
#[derive(Debug)]
pub struct Witness {
    address: SocketAddr,
    /// When it began, nanoseconds since the epoch.
    since_ns: u64,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    seen: Mutex<Seen>,
    logs: Mutex<Logs>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Ticks by datagram, in the order of their arrival.
    heard: Vec<Heard>,
    /// Long gaps: tick number and nanoseconds, as the process itself reported them.
    gaps: std::collections::BTreeMap<u64, u64>,
    latest: Option<(Tick, Instant)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Witness {
    /// Starts to listen, and to read the log files of pods in `namespace` on all nodes.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn start(lab: &Lab, namespace: &str) -> Result<Self> {
        let socket = UdpSocket::bind((CLIENT_ADDRESS, 0)).context("the witness cannot listen; is this the clients' network of the lab?")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let address = socket.local_addr()?;
        let since_ns = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
        let folders: Vec<(String, PathBuf)> = lab.nodes().iter().map(|node| (node.name.clone(), lab.logs_of(&node.name))).collect();
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), seen: Mutex::default(), logs: Mutex::new(Logs::new(namespace, folders)) });
        let (ears, eyes) = (Arc::clone(&shared), Arc::clone(&shared));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !ears.stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    lock(&ears.seen).hear(&String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()), from);
                }
            }
        });
        thread::spawn(move || {
            while !eyes.stop.load(Ordering::Relaxed) {
                lock(&eyes.logs).read();
                thread::sleep(Duration::from_millis(50));
            }
        });
        Ok(Self { address, since_ns, shared })
    }

    /// Where ticks go.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The newest tick.
    ///
    /// # Errors
    /// When none has come yet.
    pub fn latest(&self) -> Result<Tick> {
        lock(&self.shared.seen).latest.as_ref().map(|(tick, _)| tick.clone()).context("the witness has heard nothing yet")
    }

    /// Waits for so many ticks that come from now on.
    ///
    /// # Errors
    /// When they do not come within `limit`.
    pub fn wait_for_ticks(&self, ticks: usize, limit: Duration) -> Result<Tick> {
        let (before, end) = (lock(&self.shared.seen).heard.len(), Instant::now() + limit);
        loop {
            let heard = lock(&self.shared.seen).heard.len() - before;
            if heard >= ticks {
                return self.latest();
            }
            ensure!(Instant::now() < end, "only {heard} of {ticks} ticks within {} s: nobody runs", limit.as_secs());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Fails if a tick comes within `time`.
    ///
    /// # Errors
    /// When one does.
    pub fn expect_silence(&self, time: Duration) -> Result<()> {
        let before = lock(&self.shared.seen).heard.len();
        thread::sleep(time);
        let heard = lock(&self.shared.seen).heard.len() - before;
        ensure!(heard == 0, "{heard} ticks came although nothing should run");
        Ok(())
    }

    /// The longest time that the process found between two ticks after tick `n`.
    #[must_use]
    pub fn longest_gap_after(&self, n: u64) -> Duration {
        Duration::from_nanos(lock(&self.shared.seen).gaps.range(n + 1..).map(|(_, gap)| *gap).max().unwrap_or(0))
    }

    /// Puts everything together. Processes that ended before the witness began do not count.
    ///
    /// # Errors
    /// When it is not one line of history: who told what twice, or what is missing.
    pub fn history(&self) -> Result<History> {
        let told = {
            // What is in any log at the first look is in every log that comes before it at the second.
            let mut logs = lock(&self.shared.logs);
            logs.read();
            let newest = logs.newest();
            thread::sleep(Duration::from_millis(200));
            logs.read();
            logs.told(newest)?
        };
        let seen = lock(&self.shared.seen);
        join(&told, &seen.heard, self.since_ns)
    }

    /// The assertion of every scenario: one process, one line of history, from the first tick to now.
    ///
    /// # Errors
    /// As [`Witness::history`], and when the process was started more than once.
    pub fn exactly_one_runner(&self) -> Result<History> {
        let history = self.history()?;
        ensure!(history.lives.len() == 1, "started {} times, its memory was lost: {history}", history.lives.len());
        Ok(history)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Seen {
    fn hear(&mut self, datagram: &str, from: SocketAddr) {
        let Ok(tick) = Tick::parse(datagram) else { return };
        self.gaps.extend(parse_gaps(datagram));
        self.heard.push(Heard { tick: tick.clone(), from: from.ip() });
        self.latest = Some((tick, Instant::now()));
    }
}
