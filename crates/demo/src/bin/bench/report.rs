//! Rows to files and to the terminal, and how many times as long as Godwit's the freezes of the others are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use godwit_demo::migrate::Move;
use godwit_demo::notice::line;
use godwit_demo::numbers::Row;

use crate::way::Way;

/// The metric that matters most.
pub const FREEZE: &str = "freeze, application's clock";

/// What Godwit itself says of it.
pub const REPORTED: &str = "freeze as reported, total";

/// The freeze in milliseconds, as the record of a move says it.
pub fn reported(moved: &Move) -> Result<f64> {
    moved.status("/freeze/totalMs").as_f64().context("the record has no freeze.totalMs")
}

/// The folder of results, `benches/results`.
pub fn folder() -> Result<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/results"));
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    Ok(folder.canonicalize()?)
}

/// Rows of how many times as long as Godwit's the freezes of the others are, case by case: the ratio of medians, by Godwit's slower runtime.
pub fn ratios(rows: &[Row]) -> Vec<Row> {
    let freezes =
        |rows: &[Row], own: bool| rows.iter().filter(move |row| row.metric == FREEZE && row.system.starts_with("godwit") == own).cloned().collect::<Vec<_>>();
    let own = freezes(rows, true);
    let default = format!(", {}", Way::PreCopy);
    let slowest = |case: &str| own.iter().filter(|row| row.case == case && row.system.ends_with(&default)).map(|row| row.median).max_by(f64::total_cmp);
    let ratio = |row: &Row| Row::of(&row.case, &row.system, "freeze against godwit's", "times", &[row.median / slowest(&row.case).filter(|own| *own > 0.0)?]);
    freezes(rows, false).iter().filter_map(ratio).collect()
}

/// Writes `benches/results/latest.json`: an array of rows.
pub fn write(rows: &[Row]) -> Result<PathBuf> {
    let path = folder()?.join("latest.json");
    let mut text = serde_json::to_string_pretty(rows)?;
    text.push('\n');
    std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path)
}

/// Prints the rows.
pub fn table(rows: &[Row]) {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["case", "system", "metric", "unit", "n", "min", "median", "p90", "p99"]);
    for row in rows {
        let figure = |value: f64| if value.abs() < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") };
        table.add_row([
            row.case.clone(),
            row.system.clone(),
            row.metric.clone(),
            row.unit.clone(),
            row.n.to_string(),
            figure(row.min),
            figure(row.median),
            figure(row.p90),
            figure(row.p99),
        ]);
    }
    for column in table.column_iter_mut().skip(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    line(&table.to_string());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn others_are_compared_with_the_slower_runtime_and_with_what_is_the_default() {
        let row = |case, system, samples: &[f64]| Row::of(case, system, FREEZE, "ms", samples).unwrap();
        let rows = [
            row("one", "godwit on containerd, pre-copy", &[50.0, 60.0, 70.0]),
            row("one", "godwit on crio, pre-copy", &[100.0]),
            row("one", "godwit on crio, stop-and-copy", &[3000.0]),
            row("one", "godwit on crio, post-copy", &[500.0]),
            row("one", "godwit on crio, digests", &[400.0]),
            row("one", "podman", &[1000.0, 2000.0, 9000.0]),
            row("two", "podman", &[1000.0]),
        ];
        let found = ratios(&rows);
        assert_eq!(found.len(), 1, "the second case has nothing to be compared with");
        assert_eq!((found[0].system.as_str(), found[0].median), ("podman", 20.0));
    }
}
