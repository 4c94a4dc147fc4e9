//! The same program carried from node to node by others, in the same run: how long it stands still by its own clock, and how long the whole takes.
//!
//! ```text
//!   start on A ─▶ the program has checked all its memory once ─▶ checkpoint ─▶ to B over the nodes' network ─▶ restore ─▶ the gap that it reports
//! ```
//! Each peer is given its best case: nothing is compressed, and as soon as one step has ended the next begins.

mod kubelet;
mod podman;
mod road;
mod runc;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use godwit_demo::lab::Lab;
use godwit_demo::notice::line;
use godwit_demo::numbers::Row;
use godwit_demo::pages;

use crate::memory::Case;
use crate::report::FREEZE;
use crate::way::Way;

/// MiB of the program's heap, MB of it that change every second: some of those of Godwit's own pods.
const CASES: [(u32, u32); 3] = [(10, 50), (1024, 50), (4096, 50)];
/// Until the program has filled and checked its memory.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at its output.
const GLANCE: Duration = Duration::from_millis(200);

/// One way to carry a container.
trait Peer {
    /// What it is called in the results.
    fn name(&self) -> String;
    /// Starts the program on the first node.
    fn start(&mut self, mib: u32, rate: u32) -> Result<()>;
    /// Carries it to the second one; returns when the restore has been asked for.
    fn carry(&mut self) -> Result<()>;
    /// What the program has said there where it is now, since it is there.
    fn said(&self) -> Result<String>;
    /// Takes everything away again.
    fn clear(&mut self) -> Result<()>;
}

/// Whether others carry this program, too.
pub fn carry(case: &Case) -> bool {
    !case.huge && case.way == Way::PreCopy && CASES.contains(&(case.mib, case.rate))
}

/// Carries a program so many times by each peer.
pub fn measure(lab: &Lab, case: &Case, carries: usize) -> Result<Vec<Row>> {
    let pairs = lab.pairs();
    let mut peers: Vec<Box<dyn Peer + '_>> = Vec::new();
    let of = |runtime: &str| pairs.iter().find(|pair| pair.runtime == runtime);
    if let Some(pair) = of("containerd") {
        peers.push(Box::new(podman::Podman::new(lab, pair)?));
        peers.push(Box::new(runc::Runc::new(lab, pair)?));
    }
    match of("crio") {
        Some(pair) => peers.push(Box::new(kubelet::Kubelet::new(lab, pair))),
        None => line("– the kubelet's checkpoint is not measured: it needs CRI-O (set GODWIT_CRIO)"),
    }
    let mut rows = Vec::new();
    for peer in &mut peers {
        let samples: Vec<(f64, f64)> = (0..carries).map(|_| once(peer.as_mut(), case)).collect::<Result<_>>().with_context(|| peer.name())?;
        let (case, system) = (case.to_string(), peer.name());
        let column = |pick: fn(&(f64, f64)) -> f64| samples.iter().map(pick).collect::<Vec<_>>();
        rows.extend(Row::of(&case, &system, FREEZE, "ms", &column(|sample| sample.0)));
        rows.extend(Row::of(&case, &system, "start to end", "s", &column(|sample| sample.1)));
    }
    Ok(rows)
}

/// Milliseconds that the program stood still, seconds until it ran on the second node.
fn once(peer: &mut dyn Peer, case: &Case) -> Result<(f64, f64)> {
    peer.clear()?;
    peer.start(case.mib, case.rate)?;
    let identity = heard(peer, good)?;
    let begin = Instant::now();
    peer.carry()?;
    let gap = heard(peer, pages::gap)?;
    let whole = begin.elapsed().as_secs_f64();
    ensure!(heard(peer, good)? == identity, "another program runs on the second node");
    peer.clear()?;
    Ok((f64::from(gap), whole))
}

/// Waits until the program has said something in particular.
fn heard<T>(peer: &dyn Peer, what: impl Fn(&str) -> Option<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        let said = peer.said()?;
        ensure!(!said.lines().any(|line| line.starts_with("bad")), "the program complains: {said}");
        if let Some(found) = what(&said) {
            return Ok(found);
        }
        ensure!(begin.elapsed() < PATIENCE, "the program does not say what it should: {said}");
        sleep(GLANCE);
    }
}

/// Who the program is, when it has found all its memory as it should be.
fn good(said: &str) -> Option<String> {
    said.lines().find(|line| line.starts_with("good"))?.split_whitespace().last().map(str::to_owned)
}
