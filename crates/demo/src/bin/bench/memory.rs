//! How the freeze grows with memory and with the rate at which it changes: the largest gap that the program finds by its own clock, and what was left for the freeze.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::migrate::migrate_with;
use godwit_demo::numbers::Row;
use godwit_demo::{pages, pods};

use crate::stage;

const NAMESPACE: &str = "godwit-bench-memory";
const MINUTE: Duration = Duration::from_secs(60);
/// MiB of the heap, MB of it that change every second, and when memory travels.
const CASES: [(u32, u32, &str); 8] = [
    (256, 0, "pre-copy"),
    (256, 0, "stop-and-copy"),
    (256, 50, "pre-copy"),
    (256, 50, "stop-and-copy"),
    (1024, 0, "pre-copy"),
    (1024, 0, "stop-and-copy"),
    (1024, 50, "pre-copy"),
    (1024, 50, "stop-and-copy"),
];

/// Moves a pod of each kind there and back so many times.
pub fn measure(lab: &Lab, pair: &Pair, trips: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (mib, rate, when) in CASES {
        stage::empty(lab, NAMESPACE)?;
        stage::start(lab, NAMESPACE, pages::pod("heap", mib, rate).on(&pair.a))?;
        let (mut name, mut node) = ("heap".to_owned(), pair.a.clone());
        let (mut gaps, mut whole, mut sent) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..trips * 2 {
            let begin = Instant::now();
            let target = pair.other(&node).to_owned();
            let moved = migrate_with(lab, NAMESPACE, &[&name, "--to", &target, "--memory", when])?.moved()?;
            whole.push(begin.elapsed().as_secs_f64());
            sent.push(moved.status("/progress/bytes").as_f64().context("no bytes in the record")? / 1e6);
            (name, node) = (moved.target_pod()?, target);
            pods::wait_ready(lab, NAMESPACE, &name, MINUTE)?;
            std::thread::sleep(Duration::from_secs(3));
            let logs = lab.kubectl(&["logs", "-n", NAMESPACE, &name, "-c", pages::CONTAINER])?;
            anyhow::ensure!(!logs.lines().any(|line| line.starts_with("bad")), "the program complains: {logs}");
            gaps.push(pages::gap(&logs).map_or(0.0, |gap| f64::from(u32::try_from(gap).unwrap_or(u32::MAX))));
        }
        let case = format!("move {mib} MiB, {rate} MB/s change");
        let system = format!("godwit on {}, {when}", pair.runtime);
        rows.extend(Row::of(&case, &system, "freeze, application's clock", "ms", &gaps));
        rows.extend(Row::of(&case, &system, "kubectl migrate, start to end", "s", &whole));
        rows.extend(Row::of(&case, &system, "sent", "MB", &sent));
        lab.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=50s"])?;
    }
    Ok(rows)
}
