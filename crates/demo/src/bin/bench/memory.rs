//! How the freeze grows with memory and with the rate at which it changes: the largest gap that the program finds by its own clock, and what was sent.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::migrate::migrate_with;
use godwit_demo::numbers::Row;
use godwit_demo::{pages, pods};

use crate::report::FREEZE;
use crate::stage;

const NAMESPACE: &str = "godwit-bench-memory";
const MINUTE: Duration = Duration::from_secs(60);
/// MiB of the heaps.
const SIZES: [u32; 5] = [10, 256, 1024, 4096, 8192];
/// MB that change every second.
const RATES: [u32; 3] = [0, 50, 200];

/// A program, and when its memory travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// MiB of its heap.
    pub mib: u32,
    /// MB of it that change every second.
    pub rate: u32,
    /// Whether it asks for huge pages.
    pub huge: bool,
    /// `pre-copy` or `stop-and-copy`.
    pub when: &'static str,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "move {} MiB, {} MB/s change{}", self.mib, self.rate, if self.huge { ", huge pages" } else { "" })
    }
}

impl Case {
    /// Whether it is one of the few that tell the most.
    pub fn is_usual(&self) -> bool {
        self.mib <= 1024 && self.rate == 50 && !self.huge && self.when == "pre-copy"
    }
}

/// All of them, small ones first.
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for mib in SIZES {
        for rate in RATES {
            all.extend([false, true].map(|huge| Case { mib, rate, huge, when: "pre-copy" }));
        }
        if mib <= 1024 {
            all.push(Case { mib, rate: 50, huge: false, when: "stop-and-copy" });
        }
    }
    all
}

/// Moves such a pod there and back so many times.
pub fn measure(lab: &Lab, pair: &Pair, case: &Case, trips: usize) -> Result<Vec<Row>> {
    stage::empty(lab, NAMESPACE)?;
    let pod = if case.huge { pages::huge } else { pages::pod };
    stage::start(lab, NAMESPACE, pod("heap", case.mib, case.rate).on(&pair.a))?;
    let (mut name, mut node) = ("heap".to_owned(), pair.a.clone());
    let (mut gaps, mut whole, mut sent) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..trips * 2 {
        let begin = Instant::now();
        let target = pair.other(&node).to_owned();
        let moved = migrate_with(lab, NAMESPACE, &[&name, "--to", &target, "--memory", case.when])?.moved()?;
        whole.push(begin.elapsed().as_secs_f64());
        sent.push(moved.status("/progress/bytes").as_f64().context("no bytes in the record")? / 1e6);
        (name, node) = (moved.target_pod()?, target);
        pods::wait_ready(lab, NAMESPACE, &name, MINUTE)?;
        std::thread::sleep(Duration::from_secs(3));
        let logs = lab.kubectl(&["logs", "-n", NAMESPACE, &name, "-c", pages::CONTAINER])?;
        anyhow::ensure!(!logs.lines().any(|line| line.starts_with("bad")), "the program complains: {logs}");
        gaps.push(pages::gap(&logs).map_or(0.0, |gap| f64::from(u32::try_from(gap).unwrap_or(u32::MAX))));
    }
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=50s"])?;
    let (case, system) = (case.to_string(), format!("godwit on {}, {}", pair.runtime, case.when));
    let rows =
        [Row::of(&case, &system, FREEZE, "ms", &gaps), Row::of(&case, &system, "start to end", "s", &whole), Row::of(&case, &system, "sent", "MB", &sent)];
    Ok(rows.into_iter().flatten().collect())
}
