//! `make bench`: how long a pod stands still, what the OCI wrapper costs, what an idle agent takes. Everything is measured in one run on the lab, from
//! outside: by the application's own clock, by the clock of who calls the runtime, by the kernel's count of the agent's memory.
//!
//! `bench [--quick] [freeze|connections|memory|wrapper|agent]…`; results go to `benches/results/latest.json` and to the terminal.

mod agent;
mod connections;
mod freeze;
mod memory;
mod report;
mod stage;
mod wrapper;

use std::process::ExitCode;

use anyhow::Result;
use godwit_demo::install;
use godwit_demo::lab::Lab;
use godwit_demo::notice::{line, step};
use godwit_demo::numbers::Row;

/// How many samples are taken.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Moves of a pod on each pair of nodes.
    pub moves: usize,
    /// Moves of a pod with each number of connections.
    pub crossings: usize,
    /// Trips there and back of each pod with much memory.
    pub trips: usize,
    /// Containers made by each runtime.
    pub containers: usize,
    /// Looks at each agent.
    pub looks: usize,
}

const FULL: Extent = Extent { moves: 20, crossings: 6, trips: 3, containers: 100, looks: 10 };
const QUICK: Extent = Extent { moves: 4, crossings: 2, trips: 1, containers: 15, looks: 3 };

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            line(&format!("✘ {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let extent = if words.iter().any(|word| word == "--quick") { QUICK } else { FULL };
    let named: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|word| *word == part);
    let lab = Lab::enter()?;
    step("Godwit installed by its Helm chart", || install::install(&lab, false))?;
    let mut rows: Vec<Row> = Vec::new();
    if wanted("agent") {
        rows.extend(step("an idle agent's memory", || agent::measure(&lab, extent.looks))?);
    }
    if wanted("wrapper") {
        rows.extend(step("the wrapper and runc, call by call", || wrapper::measure(&lab, extent.containers))?);
    }
    if wanted("freeze") {
        for pair in lab.pairs() {
            let title = format!("{} moves of a small pod on {}", extent.moves, pair.runtime);
            rows.extend(step(&title, || freeze::measure(&lab, &pair, extent.moves))?);
        }
    }
    if wanted("connections") {
        for pair in lab.pairs() {
            rows.extend(step(&format!("pods with connections on {}", pair.runtime), || connections::measure(&lab, &pair, extent.crossings))?);
        }
    }
    if wanted("memory") {
        for pair in lab.pairs() {
            rows.extend(step(&format!("pods with much memory on {}", pair.runtime), || memory::measure(&lab, &pair, extent.trips))?);
        }
    }
    report::table(&rows);
    let path = report::write(&rows)?;
    line(&format!("bench: {} rows in {}", rows.len(), path.display()));
    Ok(())
}
