//! What the record of a move tells of memory that travels while the pod runs.

use godwit_demo::migrate::Move;
use godwit_migration::timeline::steps::Round;

/// From when to when memory travelled, in seconds since the epoch; `None` if it did not.
pub fn span(moved: &Move) -> Option<(f64, f64)> {
    moved.steps("source", "memory").first().map(|step| (step.from, step.to))
}

/// MB of memory in each second of the first round, in which all of it is read, sent and stored.
pub fn rate(moved: &Move) -> Option<f64> {
    let rounds = moved.steps("source", "round").into_iter();
    let (step, round) = rounds.filter_map(|step| Round::read(&step.detail).map(|round| (step, round))).find(|(_, round)| round.number == 1)?;
    #[allow(clippy::cast_precision_loss)]
    Some(round.changed as f64 / 1e6 / (step.to - step.from))
}
