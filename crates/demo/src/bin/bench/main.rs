//! `make bench`: how long a pod stands still, what the OCI wrapper costs, what an idle agent takes. Everything is measured in one run on the lab, from
//! outside: by the application's own clock, by the clock of who calls the runtime, by the kernel's count of the agent's memory.
//!
//! `bench [--quick] [--anew] [--write] [WORD…]`; results go to `benches/results` and to the terminal. With words only jobs whose titles have one of them, to the terminal alone;
//! with `--write` all that this build has measured by then is written. A run that was ended goes on where it was.

mod agent;
mod connections;
mod copying;
mod filling;
mod freeze;
mod growth;
mod ledger;
mod memory;
mod noise;
mod parts;
mod peers;
mod plots;
mod processor;
mod redis;
mod report;
mod stage;
mod tls;
mod walker;
mod way;
mod wrapper;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Result, bail};
use godwit_demo::install;
use godwit_demo::lab::Lab;
use godwit_demo::notice::{line, step};
use godwit_demo::numbers::Row;

use crate::ledger::Ledger;

/// How many samples are taken.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Moves of a small pod on the container runtime that is measured in full.
    pub moves: usize,
    /// The same on each other one.
    pub moves_elsewhere: usize,
    /// The same without a runtime handler, on each.
    pub imports: usize,
    /// Moves of a pod with each number of connections.
    pub crossings: usize,
    /// Trips there and back of a pod with memory, if it is one that others carry too or that a goal speaks of; the others make one.
    pub trips: usize,
    /// Times that each peer carries each program.
    pub carries: usize,
    /// Containers made by each runtime.
    pub containers: usize,
    /// Looks at each agent.
    pub looks: usize,
    /// TLS streams, each followed by the move of a pod.
    pub streams: usize,
    /// Moves of a Redis under load.
    pub loaded: usize,
    /// Moves of each pod with many files, processes or threads, and of each number of pods at once.
    pub grown: usize,
    /// Whether everything is measured, with every size of memory, rate of change and number of what there is many of, and some of it on each runtime; not only what tells the most.
    pub matrix: bool,
}

const FULL: Extent = Extent {
    moves: 300,
    moves_elsewhere: 60,
    imports: 10,
    crossings: 3,
    trips: 3,
    carries: 5,
    containers: 100,
    looks: 10,
    streams: 6,
    loaded: 4,
    grown: 2,
    matrix: true,
};
const QUICK: Extent = Extent {
    moves: 4,
    moves_elsewhere: 4,
    imports: 2,
    crossings: 1,
    trips: 1,
    carries: 1,
    containers: 15,
    looks: 3,
    streams: 1,
    loaded: 1,
    grown: 1,
    matrix: false,
};

const OPTIONS: [&str; 3] = ["--quick", "--anew", "--write"];

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
    if let Some(unknown) = words.iter().find(|word| word.starts_with('-') && !OPTIONS.contains(&word.as_str())) {
        bail!("there is no option {unknown}; bench takes {} and words of jobs' titles", OPTIONS.join(", "));
    }
    let said = |option: &str| words.iter().any(|word| word == option);
    let (quick, anew, write) = (said("--quick"), said("--anew"), said("--write"));
    let extent = if quick { QUICK } else { FULL };
    let lab = Lab::enter()?;
    step("Godwit installed by its Helm chart", || install::install(&lab, false))?;
    let named: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
    let all = jobs(&lab, extent);
    let wanted = |job: &&Job| named.is_empty() || named.iter().any(|word| job.title.contains(word.as_str()));
    let mut ledger = Ledger::open(&lab, if quick { "quick" } else { "full" }, anew)?;
    let mut rows: Vec<Row> = Vec::new();
    for job in &all {
        if wanted(&job) {
            rows.extend(ledger.job(&job.title, || (job.measure)(&lab))?);
        } else if write {
            rows.extend(ledger.known(&job.title).into_iter().flatten().cloned());
        }
    }
    let ratios = report::ratios(&rows);
    rows.extend(ratios);
    report::table(&rows);
    if !named.is_empty() && !write {
        line("bench: only a part was measured, so benches/results stays as it is; --write writes what this build has measured so far");
        return Ok(());
    }
    let path = report::write(&rows)?;
    plots::draw(&rows, &report::folder()?)?;
    let measured = all.iter().filter(|job| ledger.known(&job.title).is_some()).count();
    line(&format!("bench: {} rows in {}: {measured} of {} jobs", rows.len(), path.display(), all.len()));
    if measured == all.len() {
        ledger.close();
    }
    Ok(())
}

type Measure = Box<dyn Fn(&Lab) -> Result<Vec<Row>>>;

/// Something to measure.
struct Job {
    title: String,
    measure: Measure,
}

impl Job {
    fn new(title: String, measure: impl Fn(&Lab) -> Result<Vec<Row>> + 'static) -> Self {
        Self { title, measure: Box::new(measure) }
    }
}

/// All there is: what is compared side by side, and first what tells the most. One container runtime is measured in full: CRI-O if it is there.
fn jobs(lab: &Lab, extent: Extent) -> Vec<Job> {
    // One of each runtime: a lab may have more.
    let mut runtimes = BTreeSet::new();
    let pairs: Vec<_> = lab.pairs().into_iter().filter(|pair| runtimes.insert(pair.runtime.clone())).collect();
    let Some(main) = pairs.iter().find(|pair| pair.runtime == "crio").or(pairs.first()).cloned() else { return Vec::new() };
    let some = || pairs.iter().filter(|pair| extent.matrix || pair.runtime == main.runtime).cloned();
    let mut jobs = vec![
        Job::new("agent: an idle one's memory".into(), move |lab| agent::measure(lab, extent.looks)),
        Job::new("wrapper: it and runc, call by call".into(), move |lab| wrapper::measure(lab, extent.containers)),
    ];
    for pair in some() {
        let title = format!("tls: one stream beside the first round on {}", pair.runtime);
        jobs.push(Job::new(title, move |lab| tls::measure(lab, &pair, extent.streams)));
    }
    jobs.push(Job::new("tls: what else is done with memory, each part alone".into(), move |_| parts::measure(extent.streams)));
    let (told, rest): (Vec<_>, Vec<_>) = memory::cases().into_iter().filter(|case| extent.matrix || case.is_usual()).partition(memory::Case::tells_most);
    let memory = |case: memory::Case| {
        let pairs = if case.is_compared() { pairs.clone() } else { vec![main.clone()] };
        let moves = pairs.into_iter().map(move |pair| {
            let title = format!("memory: {case}, {} on {}", case.way, pair.runtime);
            Job::new(title, move |lab| memory::measure(lab, &pair, &case, extent.trips))
        });
        let peers = peers::carry(&case).then(|| Job::new(format!("peers: {case}"), move |lab| peers::measure(lab, &case, extent.carries)));
        moves.chain(peers)
    };
    jobs.extend(told.into_iter().flat_map(memory));
    for pair in pairs.clone() {
        let moves = if pair.runtime == main.runtime { extent.moves } else { extent.moves_elsewhere };
        jobs.push(Job::new(format!("freeze: {moves} moves of a small pod on {}", pair.runtime), move |lab| freeze::measure(lab, &pair, freeze::LIVE, moves)));
    }
    for pair in some() {
        let title = format!("engine: {} moves without a handler on {}", extent.imports, pair.runtime);
        jobs.push(Job::new(title, move |lab| freeze::measure(lab, &pair, freeze::IMPORT, extent.imports)));
    }
    for pair in some() {
        jobs.push(Job::new(format!("redis: moved under load on {}", pair.runtime), move |lab| redis::measure(lab, &pair, extent.loaded)));
    }
    for (many, counts) in growth::CROWDS {
        let (title, pair) = (format!("growth: {many} on {}", main.runtime), main.clone());
        jobs.push(Job::new(title, move |lab| growth::measure(lab, &pair, many, growth::numbers(&counts, extent.matrix), extent.grown)));
    }
    let (title, pair) = (format!("growth: pods at once on {}", main.runtime), main.clone());
    jobs.push(Job::new(title, move |lab| growth::at_once(lab, &pair, growth::numbers(&growth::AT_ONCE, extent.matrix), extent.grown)));
    for driver in connections::drivers(lab) {
        let (title, pair) = (format!("connections: {driver} on {}", main.runtime), main.clone());
        jobs.push(Job::new(title, move |lab| connections::measure(lab, &pair, driver, extent.matrix, extent.crossings)));
    }
    jobs.extend(rest.into_iter().flat_map(memory));
    jobs
}
