//! How the freeze grows with memory and with the rate at which it changes: the largest gap that the program finds by its own clock; and what the move costs: what is sent, how
//! much slower the program is meanwhile, what the agents take of both nodes, how long the new pod is filled.

use std::fmt;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::numbers::Row;
use godwit_demo::pace::{now, slowdown};
use godwit_demo::pages::{self, Spent};

use crate::agent::{self, Count};
use crate::filling::Watch;
use crate::report::FREEZE;
use crate::walker::Walker;
use crate::way::Way;
use crate::{copying, stage};

const NAMESPACE: &str = "godwit-bench-memory";
/// MiB of the heaps.
const SIZES: [u32; 5] = [10, 256, 1024, 4096, 8192];
/// From so many MiB on one trip must do in any case.
const LARGE: u32 = 4096;
/// MB that change every second.
const RATES: [u32; 3] = [0, 50, 200];
/// Until the program has filled and checked its memory.
const PATIENCE: Duration = Duration::from_secs(180);
/// After a move and before what the program says is read; and before the next move.
const RESTS: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(3)];

/// A program, and how its memory travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// MiB of its heap.
    pub mib: u32,
    /// MB of it that change every second.
    pub rate: u32,
    /// Whether it asks for huge pages.
    pub huge: bool,
    /// How its memory travels.
    pub way: Way,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "move {} MiB, {} MB/s change{}", self.mib, self.rate, if self.huge { ", huge pages" } else { "" })
    }
}

impl Case {
    /// Whether it is one of the few that tell the most.
    pub fn is_usual(&self) -> bool {
        matches!(self.mib, 10 | 1024) && self.is_compared()
    }

    /// Whether it is measured on each container runtime: the way that is taken if nothing is said, at the rate that the goals speak of and that others are measured at.
    pub fn is_compared(&self) -> bool {
        self.tells_most() && self.way == Way::PreCopy
    }

    /// Whether it is measured before the others: at that rate, with pages of the usual size.
    pub fn tells_most(&self) -> bool {
        self.rate == 50 && !self.huge
    }
}

/// All of them, small ones first.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for mib in SIZES {
        for rate in RATES {
            all.extend([false, true].map(|huge| Case { mib, rate, huge, way: Way::PreCopy }));
        }
        let others: &[Way] = match mib {
            1024 => &[Way::StopAndCopy, Way::PostCopy, Way::Digests],
            ..1024 => &[Way::StopAndCopy],
            _ => &[],
        };
        all.extend(others.iter().map(|way| Case { mib, rate: 50, huge: false, way: *way }));
    }
    all
}

/// What was seen of one move.
struct Trip {
    /// Milliseconds.
    gap: f64,
    /// Seconds.
    whole: f64,
    /// MB.
    sent: f64,
    /// MB/s.
    rate: Option<f64>,
    /// Per cent.
    slower: Option<f64>,
    /// Per cent, of the processor's time alone.
    dearer: Option<f64>,
    /// Seconds.
    filled: Option<f64>,
    /// Seconds of both agents.
    processor: f64,
    /// MiB of the larger agent.
    most: f64,
}

/// Moves such a pod there and back so many times, if it is one that is compared and not a large one; else once.
pub fn measure(lab: &Lab, pair: &Pair, case: &Case, trips: usize) -> Result<Vec<Row>> {
    stage::empty(lab, NAMESPACE)?;
    let mut walker = Walker::start(lab, pair, NAMESPACE, pages::paced("heap", case.mib, case.rate, case.huge))?;
    walker.wait_good(PATIENCE)?;
    sleep(RESTS[0]);
    let trips = if case.mib < LARGE && case.is_compared() { trips } else { 1 };
    let seen: Vec<Trip> = (0..trips * 2).map(|_| once(lab, pair, &mut walker, case.way)).collect::<Result<_>>()?;
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=50s"])?;
    let (case, system) = (case.to_string(), format!("godwit on {}, {}", pair.runtime, case.way));
    let row = |metric: &str, unit: &str, figure: fn(&Trip) -> Option<f64>| {
        let samples: Vec<f64> = seen.iter().filter_map(figure).collect();
        Row::of(&case, &system, metric, unit, &samples)
    };
    let rows = [
        row(FREEZE, "ms", |trip| Some(trip.gap)),
        row("start to end", "s", |trip| Some(trip.whole)),
        row("sent", "MB", |trip| Some(trip.sent)),
        row("copy rate", "MB/s", |trip| trip.rate),
        row("slowdown while memory travels", "%", |trip| trip.slower),
        row("slowdown in processor time", "%", |trip| trip.dearer),
        row("time to fill", "s", |trip| trip.filled),
        row("agents' CPU", "s", |trip| Some(trip.processor)),
        row("largest resident memory of an agent", "MiB", |trip| Some(trip.most)),
    ];
    Ok(rows.into_iter().flatten().collect())
}

fn once(lab: &Lab, pair: &Pair, walker: &mut Walker, way: Way) -> Result<Trip> {
    let alone = now();
    sleep(RESTS[1]);
    // By now it is known how fast the program is when nobody does anything.
    let begin = now();
    let nodes = [&pair.a, &pair.b];
    nodes.into_iter().try_for_each(|node| agent::forget(lab, node))?;
    let counts = || nodes.into_iter().map(|node| Count::of(lab, node)).collect::<Result<Vec<_>>>();
    let before = counts()?;
    let watch = Watch::start(lab, walker.target())?;
    let (moved, whole) = walker.go(way.words())?;
    let filled = watch.seconds(&moved)?;
    let after = counts()?;
    sleep(RESTS[0]);
    let said = walker.said()?;
    let meanwhile = copying::span(&moved);
    let slower = |spent| slowdown(&pages::beats(&said, spent), (alone, begin), meanwhile?);
    let seconds = |counts: &[Count]| counts.iter().map(|count| count.seconds).sum::<f64>();
    Ok(Trip {
        gap: pages::gap(&said).map_or(0.0, f64::from),
        whole,
        sent: moved.status("/progress/bytes").as_f64().context("the record has no progress.bytes")? / 1e6,
        rate: copying::rate(&moved),
        slower: slower(Spent::Time),
        dearer: slower(Spent::Processor),
        filled,
        processor: seconds(&after) - seconds(&before),
        most: after.iter().map(|count| count.most).fold(0.0, f64::max),
    })
}
