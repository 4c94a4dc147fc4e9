//! Samples and what is said about them.

use serde::{Deserialize, Serialize};

/// One row of results: a metric of one case on one system.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq)]
pub struct Row {
    /// What was done, e.g. `move a small pod`.
    pub case: String,
    /// What did it, e.g. `godwit on containerd`.
    pub system: String,
    /// What was measured, e.g. `freeze, application's clock`.
    pub metric: String,
    /// Unit of the figures.
    pub unit: String,
    /// Number of samples.
    pub n: usize,
    /// Smallest.
    pub min: f64,
    /// Half are smaller.
    pub median: f64,
    /// Nine of ten are smaller.
    pub p90: f64,
    /// Ninety-nine of a hundred are smaller; of fewer than 100 samples, the largest.
    pub p99: f64,
}

impl Row {
    /// A row from samples; `None` without samples.
    #[must_use]
    pub fn of(case: &str, system: &str, metric: &str, unit: &str, samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (case, system, metric, unit) = (case.to_owned(), system.to_owned(), metric.to_owned(), unit.to_owned());
        let [min, median, p90, p99] = [0.0, 0.5, 0.9, 0.99].map(|share| quantile(&sorted, share));
        Some(Self { case, system, metric, unit, n: sorted.len(), min: min?, median: median?, p90: p90?, p99: p99? })
    }
}

/// The smallest sample that at least `share` of all samples do not exceed (nearest rank).
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(last)).copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let samples: Vec<f64> = (1..=15).rev().map(f64::from).collect();
        let row = Row::of("c", "s", "m", "ms", &samples).unwrap();
        assert_eq!((row.n, row.min, row.median, row.p90, row.p99), (15, 1.0, 8.0, 14.0, 15.0));
        assert_eq!(Row::of("c", "s", "m", "ms", &[]), None);
    }
}
