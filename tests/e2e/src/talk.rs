//! Connections that a test holds on to while their server moves: whatever was sent arrives once and in order, and none ever breaks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use godwit_demo::talker::{Asker, PATIENCE, connect};
use sha2::{Digest, Sha256};

/// Between two questions or pieces.
const PACE: Duration = Duration::from_millis(4);
/// Bytes of a piece of the bulk connection.
const PIECE: usize = 8192;
/// Bytes that the server sends and nobody reads until the end.
const UNREAD_THERE: usize = 300_000;
/// Bytes that are sent and that the server does not read until the end.
const UNREAD_HERE: usize = 60_000;

/// Longest pause that somebody saw, and how often they got on.
#[derive(Debug, Default)]
struct Pace {
    stall: Mutex<Duration>,
    turns: AtomicU64,
}

impl Pace {
    fn turn(&self, since: &mut Instant) {
        let now = Instant::now();
        let mut stall = self.stall.lock().unwrap_or_else(PoisonError::into_inner);
        *stall = stall.max(now - *since);
        *since = now;
        self.turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// Something that goes on in a thread until it is told to stop.
#[derive(Debug)]
struct Going {
    what: &'static str,
    pace: Arc<Pace>,
    thread: JoinHandle<Result<()>>,
}

/// All kinds of connections at once, to one server.
#[derive(Debug)]
pub struct Talk {
    idle: Asker,
    going: Vec<Going>,
    stop: Arc<AtomicBool>,
    full: TcpStream,
    server: SocketAddr,
}

impl Talk {
    /// Opens them. `own` is an address of this machine that the server can reach.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn start(server: SocketAddr, own: &str) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let idle = Asker::new(server)?;
        let mut full = connect(server, &format!("full {UNREAD_THERE} {UNREAD_HERE}"))?;
        full.write_all(&bytes(UNREAD_HERE))?;
        let asking = Asker::new(server)?;
        let bulk = connect(server, "echo")?;
        let listener = TcpListener::bind((own, 0))?;
        let dialling = connect(server, &format!("dial {own} {}", listener.local_addr()?.port()))?;
        let (dialled, _) = listener.accept()?;
        dialled.set_read_timeout(Some(PATIENCE))?;
        let going = vec![
            go("request and response", &stop, move |stop, pace| ask_on(asking, stop, pace)),
            go("bulk both ways", &stop, move |stop, pace| bulk_on(bulk, stop, pace)),
            go("outgoing", &stop, move |stop, pace| {
                let _held = dialling;
                count_on(dialled, stop, pace)
            }),
        ];
        Ok(Self { idle, going, stop, full, server })
    }

    /// Waits until everything that goes on has gone on so often more.
    ///
    /// # Errors
    /// When something broke, or does not go on.
    pub fn goes_on(&mut self, turns: u64) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let wanted: Vec<u64> = self.going.iter().map(|going| going.pace.turns.load(Ordering::Relaxed) + turns).collect();
        while self.going.iter().zip(&wanted).any(|(going, wanted)| going.pace.turns.load(Ordering::Relaxed) < *wanted) {
            if let Some(index) = self.going.iter().position(|going| going.thread.is_finished()) {
                let going = self.going.swap_remove(index);
                let why = going.thread.join().map_err(|_| anyhow!("it panicked"))?;
                return Err(why.err().unwrap_or_else(|| anyhow!("it ended"))).with_context(|| format!("the connection “{}” broke", going.what));
            }
            ensure!(Instant::now() < end, "not every connection goes on: {:?}", self.going);
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Longest pause of each kind since the last call.
    #[must_use]
    pub fn stalls(&self) -> Vec<(&'static str, Duration)> {
        let take = |going: &Going| std::mem::take(&mut *going.pace.stall.lock().unwrap_or_else(PoisonError::into_inner));
        self.going.iter().map(|going| (going.what, take(going))).collect()
    }

    /// Who answers.
    #[must_use]
    pub fn identity(&self) -> &str {
        self.idle.identity()
    }

    /// Ends all of them and proves that nothing was lost.
    ///
    /// # Errors
    /// What was.
    pub fn finish(mut self) -> Result<()> {
        self.idle.ask().context("the connection that was idle")?;
        self.stop.store(true, Ordering::Relaxed);
        for going in self.going {
            going.thread.join().map_err(|_| anyhow!("it panicked"))?.with_context(|| format!("the connection “{}”", going.what))?;
        }
        let mut said = String::new();
        // By an address that is the server's now, or still.
        BufReader::new(connect(self.server, "go")?).read_line(&mut said)?;
        let mut there = vec![0; UNREAD_THERE];
        self.full.read_exact(&mut there).context("what the server had sent and nobody read")?;
        let block = Sha256::digest(b"full");
        ensure!(there.iter().enumerate().all(|(index, byte)| *byte == block[index % block.len()]), "what the server had sent arrived damaged");
        let mut digest = String::new();
        BufReader::new(&self.full).read_line(&mut digest).context("what the server had not read")?;
        ensure!(digest.trim() == hex(&Sha256::digest(bytes(UNREAD_HERE))), "what the server had not read arrived damaged");
        Ok(())
    }
}

fn go(what: &'static str, stop: &Arc<AtomicBool>, work: impl FnOnce(&AtomicBool, &Pace) -> Result<()> + Send + 'static) -> Going {
    let (stop, pace) = (Arc::clone(stop), Arc::new(Pace::default()));
    let in_thread = Arc::clone(&pace);
    Going { what, pace, thread: thread::spawn(move || work(&stop, &in_thread)) }
}

fn ask_on(mut asker: Asker, stop: &AtomicBool, pace: &Pace) -> Result<()> {
    let mut since = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        asker.ask()?;
        pace.turn(&mut since);
        thread::sleep(PACE);
    }
    Ok(())
}

/// Every byte that is sent must come back: two digests are compared at the end.
fn bulk_on(stream: TcpStream, stop: &AtomicBool, pace: &Pace) -> Result<()> {
    let (mut writer, mut reader) = (stream.try_clone()?, stream);
    let stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        let sending = scope.spawn(|| -> Result<(u64, Vec<u8>)> {
            let (mut digest, mut n) = (Sha256::new(), 0_u64);
            while !stop.load(Ordering::Relaxed) {
                let piece: Vec<u8> =
                    (0..PIECE).map(|index| n.wrapping_mul(31).wrapping_add(index as u64 * 7).to_le_bytes()[(index + n as usize) % 2]).collect();
                writer.write_all(&piece)?;
                digest.update(&piece);
                n += 1;
                thread::sleep(PACE);
            }
            writer.shutdown(std::net::Shutdown::Write)?;
            stopped.store(true, Ordering::Relaxed);
            Ok((n * PIECE as u64, digest.finalize().to_vec()))
        });
        let (mut digest, mut got, mut buffer, mut since) = (Sha256::new(), 0_u64, vec![0; 1 << 16], Instant::now());
        let received = loop {
            match reader.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(length) => {
                    digest.update(&buffer[..length]);
                    got += length as u64;
                    if !stopped.load(Ordering::Relaxed) {
                        pace.turn(&mut since);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        let (sent, wanted) = sending.join().map_err(|_| anyhow!("the sender panicked"))??;
        received.with_context(|| format!("after {got} of {sent} bytes"))?;
        ensure!(got == sent && digest.finalize().to_vec() == wanted, "{sent} bytes were sent, {got} came back, or others");
        Ok(())
    })
}

fn count_on(stream: TcpStream, stop: &AtomicBool, pace: &Pace) -> Result<()> {
    let (mut lines, mut since, mut n) = (BufReader::new(stream), Instant::now(), 0_u64);
    while !stop.load(Ordering::Relaxed) {
        let mut line = String::new();
        ensure!(lines.read_line(&mut line)? > 0, "the server closed the connection that it had dialled, after line {n}");
        n += 1;
        ensure!(line.trim_end().ends_with(&format!(" {n}")), "line {n} is {line:?}");
        pace.turn(&mut since);
    }
    Ok(())
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 13 % 251).to_le_bytes()[0]).collect()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
