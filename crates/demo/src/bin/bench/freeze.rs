//! How long a small pod stands still, commit included: the largest gap that its process finds by CLOCK_REALTIME between two turns of a loop of one
//! millisecond. The same loop without a move shows what the machine itself adds.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::numbers::Row;
use godwit_demo::objects::Pod;
use godwit_demo::pulse;
use godwit_demo::witness::Witness;

use crate::report::FREEZE;
use crate::stage;
use crate::walker::Walker;

const NAMESPACE: &str = "godwit-bench";
const CASE: &str = "move a small pod";
/// The engine of most who use Godwit.
pub const LIVE: &str = "live";
/// The engine that needs no handler.
pub const IMPORT: &str = "checkpoint";
const PERIOD: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
/// So often the pod is left alone for a while before a move, in which it is seen what the machine itself adds.
const ALONE: usize = 20;
const WHILE: Duration = Duration::from_secs(2);
/// Rest before the other moves, in which the nodes tidy up.
const REST: Duration = Duration::from_millis(500);
/// Parts of the freeze, as Godwit reports them.
const PARTS: [&str; 6] = ["total", "dump", "delta", "restore", "verify", "commit"];

/// Moves a pod so many times between two nodes by one engine, a value of `--engine`.
pub fn measure(lab: &Lab, pair: &Pair, engine: &str, moves: usize) -> Result<Vec<Row>> {
    stage::empty(lab, NAMESPACE)?;
    let witness = Witness::start(lab, NAMESPACE)?;
    let mut walker = Walker::start(lab, pair, NAMESPACE, Pod::new("small", [pulse::container(witness.address(), PERIOD, false)]))?;
    let identity = witness.wait_for_ticks(1000, MINUTE)?.identity;

    let (mut seen, mut idle, mut whole, mut parts) = (Vec::new(), Vec::new(), Vec::new(), vec![Vec::new(); PARTS.len()]);
    for number in 0..moves {
        if number < ALONE {
            let rest = || {
                sleep(WHILE);
                Ok(())
            };
            idle.push(longest(&witness, rest)?.0);
        } else {
            sleep(REST);
        }
        let (gap, (moved, seconds)) = longest(&witness, || walker.go(&["--engine", engine]))?;
        seen.push(gap);
        whole.push(seconds);
        for (part, samples) in PARTS.iter().zip(&mut parts) {
            let figure = moved.status(&format!("/freeze/{part}Ms")).as_f64();
            samples.push(figure.with_context(|| format!("the record has no freeze.{part}Ms"))?);
        }
        // Records are read as lists: some hundred of them would cost more than a move.
        lab.kubectl(&["delete", "podmigrations", "-n", NAMESPACE, "--all", "--wait=false"])?;
    }
    ensure!(witness.latest()?.identity == identity, "the pod lost its memory on the way");
    lab.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=50s"])?;

    let system = format!("godwit on {}{}", pair.runtime, if engine == LIVE { "" } else { ", without a handler" });
    let mut rows = vec![
        Row::of(CASE, &system, FREEZE, "ms", &seen),
        Row::of("the same pod, left alone", &system, "largest gap in 2 s", "ms", &idle),
        Row::of(CASE, &system, "kubectl migrate, start to end", "s", &whole),
    ];
    rows.extend(PARTS.iter().zip(&parts).map(|(part, samples)| Row::of(CASE, &system, &format!("freeze as reported, {part}"), "ms", samples)));
    Ok(rows.into_iter().flatten().collect())
}

/// The longest gap in milliseconds that the process found while something was done.
fn longest<T>(witness: &Witness, what: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let before = witness.latest()?.n;
    let result = what()?;
    witness.wait_for_ticks(100, MINUTE)?;
    Ok((witness.longest_gap_after(before).as_secs_f64() * 1000.0, result))
}
