//! A Redis of some hundred MB moves while clients write and read all the time over connections that live on: how long a client waits, how much slower it is answered while memory
//! travels. If one acknowledged write is missing, or one answer wrong, the job fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::load::{Load, PER_ROUND};
use godwit_demo::numbers::Row;
use godwit_demo::objects::{Pod, container};
use godwit_demo::pace::{Beat, now, slowdown, speed};
use godwit_demo::pods;
use godwit_demo::redis::Connection;
use godwit_demo::resp::Reply;

use crate::noise::Noise;
use crate::report::{REPORTED, reported};
use crate::walker::Walker;
use crate::{copying, stage};

const NAMESPACE: &str = "godwit-bench-redis";
const CASE: &str = "move a Redis under load";
const PORT: u16 = 6379;
/// Clients, each with a database and so many keys of its own.
const CLIENTS: u16 = 4;
const KEYS: u32 = 20_000;
/// What is in its memory beside: so many values of so many bytes, which nobody asks for.
const VALUES: usize = 20_000;
const LENGTH: usize = 16 << 10;
/// Values that are set at once.
const BATCH: usize = 100;
const MINUTE: Duration = Duration::from_secs(60);
/// Between two looks at how many rounds were answered.
const BEAT: Duration = Duration::from_millis(100);
/// Before a move, while it is seen how fast clients are answered; and after it.
const REST: Duration = Duration::from_secs(5);

/// Moves it so many times.
pub fn measure(lab: &Lab, pair: &Pair, moves: usize) -> Result<Vec<Row>> {
    stage::empty(lab, NAMESPACE)?;
    let command = ["redis-server", "--protected-mode", "no", "--save", ""];
    let mut walker = Walker::start(lab, pair, NAMESPACE, Pod::new("redis", [container("redis", &command)]))?;
    lab.kubectl(&["expose", "pod", "redis", "-n", NAMESPACE, &format!("--port={PORT}")])?;
    let server = pods::service_address(lab, NAMESPACE, "redis")?;
    fill(&mut Connection::insist(server, MINUTE, MINUTE)?)?;
    let loads: Vec<Load> = (0..CLIENTS).map(|database| Load::start_in(server, KEYS, database)).collect::<Result<_>>()?;
    let seen: Vec<Trip> = (0..moves).map(|_| once(&loads, &mut walker)).collect::<Result<_>>()?;
    for load in loads {
        let (proof, seen) = load.finish()?;
        ensure!(seen.reconnects == 0, "a client's connection was lost {} times", seen.reconnects);
        ensure!(proof.missing == 0 && proof.damaged == 0, "Redis has lost or changed what it had acknowledged: {proof:?}");
    }
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=50s"])?;
    let system = format!("godwit on {}", pair.runtime);
    let row = |metric: &str, unit: &str, figure: fn(&Trip) -> Option<f64>| {
        let samples: Vec<f64> = seen.iter().filter_map(figure).collect();
        Row::of(CASE, &system, metric, unit, &samples)
    };
    let rows = [
        row("longest wait of a client", "ms", |trip| Some(trip.wait)),
        row(REPORTED, "ms", |trip| Some(trip.freeze)),
        row("start to end", "s", |trip| Some(trip.whole)),
        row("requests a second, before", "1/s", |trip| trip.before),
        row("requests a second, while memory travels", "1/s", |trip| trip.meanwhile),
        row("slowdown while memory travels", "%", |trip| trip.slower),
    ];
    Ok(rows.into_iter().flatten().collect())
}

/// What was seen of one move.
struct Trip {
    /// Milliseconds.
    wait: f64,
    freeze: f64,
    /// Seconds.
    whole: f64,
    /// Requests a second.
    before: Option<f64>,
    meanwhile: Option<f64>,
    /// Per cent.
    slower: Option<f64>,
}

fn once(loads: &[Load], walker: &mut Walker) -> Result<Trip> {
    let over = AtomicBool::new(false);
    let (beats, begin, moved, whole) = thread::scope(|scope| {
        let counting = scope.spawn(|| beats(loads, &over));
        sleep(REST);
        loads.iter().for_each(Load::reset);
        let begin = now();
        let moved = walker.go(&[]);
        sleep(REST);
        over.store(true, Ordering::Relaxed);
        let beats = counting.join().map_err(|_| anyhow!("who counts requests panicked"))?;
        let (moved, whole) = moved?;
        anyhow::Ok((beats, begin, moved, whole))
    })?;
    let (before, meanwhile) = ((begin - REST.as_secs_f64(), begin), copying::span(&moved));
    let freeze = reported(&moved)?;
    let wait = loads.iter().map(|load| load.seen().stall.as_secs_f64() * 1000.0).fold(0.0, f64::max);
    Ok(Trip {
        wait,
        freeze,
        whole,
        before: speed(&beats, before),
        meanwhile: meanwhile.and_then(|meanwhile| speed(&beats, meanwhile)),
        slower: meanwhile.and_then(|meanwhile| slowdown(&beats, before, meanwhile)),
    })
}

/// Requests that were answered, beat by beat until it is over.
fn beats(loads: &[Load], over: &AtomicBool) -> Vec<Beat> {
    #[allow(clippy::cast_precision_loss)]
    let answered = || loads.iter().map(|load| load.seen().rounds * PER_ROUND).sum::<u64>() as f64;
    let mut all = Vec::new();
    let (mut from, mut done) = (now(), answered());
    while !over.load(Ordering::Relaxed) {
        sleep(BEAT);
        let (to, by_then) = (now(), answered());
        all.push(Beat { from, to, done: by_then - done, busy: to - from });
        (from, done) = (to, by_then);
    }
    all
}

/// Gives Redis its values, in a database of their own.
fn fill(connection: &mut Connection) -> Result<()> {
    connection.select(CLIENTS)?;
    let mut noise = Noise::new();
    for first in (0..VALUES).step_by(BATCH) {
        let pairs: Vec<(String, Vec<u8>)> = (first..first + BATCH).map(|number| (format!("value:{number}"), noise.bytes(LENGTH))).collect();
        let mut words: Vec<&[u8]> = vec![b"MSET"];
        words.extend(pairs.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_slice()]));
        let reply = connection.command(&words).context("MSET")?;
        ensure!(reply == Reply::Simple("OK".into()), "MSET was answered by {reply:?}");
    }
    Ok(())
}
