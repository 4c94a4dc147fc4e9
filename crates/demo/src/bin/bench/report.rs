//! Rows to a file and to the terminal.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use godwit_demo::notice::line;
use godwit_demo::numbers::Row;

/// Writes `benches/results/latest.json`: an array of rows.
pub fn write(rows: &[Row]) -> Result<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/results"));
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let path = folder.canonicalize()?.join("latest.json");
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
