//! Connections on which something is said all the time: whatever was sent arrives once and in order.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use godwit_demo::talker::{Asker, PATIENCE, connect};
use sha2::{Digest, Sha256};

use super::{Stage, Thing, refused};

/// Between two questions or pieces.
const PACE: Duration = Duration::from_millis(4);
/// Bytes of a piece of the bulk connection.
const PIECE: usize = 8192;
/// Questions, pieces or lines that are waited for.
const TURNS: u64 = 50;

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
struct Going {
    pace: Arc<Pace>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

fn go(work: impl FnOnce(&AtomicBool, &Pace) -> Result<()> + Send + 'static) -> Box<dyn Thing> {
    let (stop, pace) = (Arc::new(AtomicBool::new(false)), Arc::new(Pace::default()));
    let (stop_there, pace_there) = (Arc::clone(&stop), Arc::clone(&pace));
    Box::new(Going { pace, stop, thread: Some(thread::spawn(move || work(&stop_there, &pace_there))) })
}

impl Going {
    fn join(&mut self) -> Result<()> {
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(|_| anyhow!("it panicked"))?)
    }
}

impl Thing for Going {
    fn turn(&mut self, _: &Stage<'_>) -> Result<()> {
        let (end, wanted) = (Instant::now() + PATIENCE, self.pace.turns.load(Ordering::Relaxed) + TURNS);
        while self.pace.turns.load(Ordering::Relaxed) < wanted {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                return self.join().and(Err(anyhow!("it ended")));
            }
            ensure!(Instant::now() < end, "it does not go on");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn whole(mut self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        self.turn(stage)?;
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }

    fn ends(mut self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        refused(|| self.turn(stage))
    }

    fn stall(&self) -> Option<Duration> {
        Some(std::mem::take(&mut *self.pace.stall.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

pub fn asking(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    let asker = Asker::new(stage.server)?;
    Ok(go(move |stop, pace| ask_on(asker, stop, pace)))
}

pub fn bulk(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    let stream = connect(stage.server, "echo")?;
    Ok(go(move |stop, pace| bulk_on(stream, stop, pace)))
}

/// A new connection for each question, to the address that the pod has now: none of them is refused or reset, in whichever moment it begins.
struct Newcomers {
    server: Arc<Mutex<SocketAddr>>,
    going: Box<dyn Thing>,
}

pub fn newcomers(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    let server = Arc::new(Mutex::new(stage.server));
    let current = Arc::clone(&server);
    let going = go(move |stop, pace| {
        let mut since = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let server = *current.lock().unwrap_or_else(PoisonError::into_inner);
            Asker::new(server)?;
            pace.turn(&mut since);
            thread::sleep(PACE);
        }
        Ok(())
    });
    Ok(Box::new(Newcomers { server, going }))
}

impl Thing for Newcomers {
    fn turn(&mut self, stage: &Stage<'_>) -> Result<()> {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = stage.server;
        self.going.turn(stage)
    }

    fn whole(mut self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        self.turn(stage)?;
        self.going.whole(stage)
    }

    fn ends(self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        self.going.ends(stage)
    }

    fn stall(&self) -> Option<Duration> {
        self.going.stall()
    }
}

/// The server's own connection to here.
pub fn outgoing(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    let listener = TcpListener::bind((stage.own, 0))?;
    let dialling = connect(stage.server, &format!("dial {} {}", stage.own, listener.local_addr()?.port()))?;
    let (dialled, _) = listener.accept()?;
    dialled.set_read_timeout(Some(PATIENCE))?;
    Ok(go(move |stop, pace| {
        let _held = dialling;
        count_on(dialled, stop, pace)
    }))
}

/// Nothing more is sent from here; lines come.
pub fn half(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    let stream = connect(stage.server, "half")?;
    stream.shutdown(Shutdown::Write)?;
    Ok(go(move |stop, pace| count_on(stream, stop, pace)))
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
        ensure!(lines.read_line(&mut line)? > 0, "the server closed the connection after line {n}");
        n += 1;
        ensure!(line.trim_end().ends_with(&format!(" {n}")), "line {n} is {line:?}");
        pace.turn(&mut since);
    }
    Ok(())
}
