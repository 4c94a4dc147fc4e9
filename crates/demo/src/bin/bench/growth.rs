//! How the freeze grows with what a small pod has many of, and with how many pods move at once.

use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Result, anyhow};
use godwit_demo::crowd::{self, Many};
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::numbers::Row;
use godwit_demo::pages;

use crate::report::{FREEZE, REPORTED, reported};
use crate::stage;
use crate::walker::Walker;

const NAMESPACE: &str = "godwit-bench-growth";
/// What there is many of, and how many.
pub const CROWDS: [(Many, [u32; 3]); 3] = [(Many::Files, [10, 1000, 10_000]), (Many::Processes, [1, 10, 100]), (Many::Threads, [1, 100, 1000])];
/// Pods that move at once.
pub const AT_ONCE: [usize; 3] = [1, 2, 4];
/// Until a program has all it is to have.
const PATIENCE: Duration = Duration::from_secs(60);
/// Before each move.
const REST: Duration = Duration::from_secs(3);

/// The numbers that are measured: all, or the one in the middle.
pub fn numbers<T: Copy>(all: &[T; 3], every: bool) -> &[T] {
    if every { all } else { &all[1..2] }
}

/// Moves a pod with so many of them so many times, each number by a pod of its own.
pub fn measure(lab: &Lab, pair: &Pair, many: Many, counts: &[u32], moves: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for count in counts {
        stage::empty(lab, NAMESPACE)?;
        let mut walker = Walker::start(lab, pair, NAMESPACE, crowd::pod("crowd", many, *count))?;
        let trips: Vec<Trip> = (0..moves).map(|_| once(&mut walker)).collect::<Result<_>>()?;
        rows.extend(told(&format!("move a pod with {count} {many}"), pair, &trips));
    }
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=50s"])?;
    Ok(rows)
}

/// Moves so many small pods at once so many times, from the same node to the same other one.
pub fn at_once(lab: &Lab, pair: &Pair, counts: &[usize], moves: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for count in counts {
        stage::empty(lab, NAMESPACE)?;
        let start = |number| Walker::start(lab, pair, NAMESPACE, crowd::pod(&format!("one-{number}"), Many::Files, 1));
        let mut walkers: Vec<Walker> = (0..*count).map(start).collect::<Result<_>>()?;
        let mut trips = Vec::new();
        for _ in 0..moves {
            trips.extend(thread::scope(|scope| {
                let going: Vec<_> = walkers.iter_mut().map(|walker| scope.spawn(move || once(walker))).collect();
                going.into_iter().map(|one| one.join().map_err(|_| anyhow!("a move panicked"))?).collect::<Result<Vec<_>>>()
            })?);
        }
        rows.extend(told(&format!("move {count} pods at once"), pair, &trips));
    }
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=50s"])?;
    Ok(rows)
}

/// What was seen of one move.
struct Trip {
    /// Milliseconds.
    gap: f64,
    reported: f64,
    /// Seconds.
    whole: f64,
}

fn once(walker: &mut Walker) -> Result<Trip> {
    walker.wait_good(PATIENCE)?;
    sleep(REST);
    let (moved, whole) = walker.go(&[])?;
    walker.wait_good(PATIENCE)?;
    Ok(Trip { gap: pages::gap(&walker.said()?).map_or(0.0, f64::from), reported: reported(&moved)?, whole })
}

fn told(case: &str, pair: &Pair, trips: &[Trip]) -> Vec<Row> {
    let row = |metric: &str, unit: &str, figure: fn(&Trip) -> f64| {
        let samples: Vec<f64> = trips.iter().map(figure).collect();
        Row::of(case, &format!("godwit on {}", pair.runtime), metric, unit, &samples)
    };
    let rows = [row(FREEZE, "ms", |trip| trip.gap), row(REPORTED, "ms", |trip| trip.reported), row("start to end", "s", |trip| trip.whole)];
    rows.into_iter().flatten().collect()
}
