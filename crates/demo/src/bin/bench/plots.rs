//! Pictures of the results: freezes against memory, connections and other numbers, one curve a system, both axes logarithmic.
//!
//! `benches/results/memory.svg` has the programs that change 50 MB a second, Godwit and the others; `rates.svg` Godwit alone at each rate; `connections.svg` each way of
//! handing over connections; `growth.svg` what a pod has many of, and pods that move at once.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use godwit_demo::crowd::Many;
use godwit_demo::numbers::Row;
use plotters::prelude::*;

use crate::report::FREEZE;

const SIZE: (u32, u32) = (900, 520);
const FONT: (&str, u32) = ("sans-serif", 15);
const TITLE: (&str, u32) = ("sans-serif", 19);

/// Median freezes in milliseconds by what is on the horizontal axis, by system.
type Curves = BTreeMap<String, Vec<(f64, f64)>>;

/// Draws all pictures that there are rows for.
///
/// # Errors
/// A file cannot be written.
pub fn draw(rows: &[Row], folder: &Path) -> Result<()> {
    let fifty = |case: &str| case.strip_suffix(" MiB, 50 MB/s change").and_then(|rest| rest.strip_prefix("move ")?.parse().ok());
    picture(
        &folder.join("memory.svg"),
        "Freeze of a program that changes 50 MB each second",
        "MiB of memory",
        &curves(rows, |row| Some((row.system.clone(), fifty(&row.case)?))),
    )?;
    picture(&folder.join("rates.svg"), "Freeze by the rate at which memory changes, pre-copy", "MiB of memory", &curves(rows, by_rate))?;
    let connections =
        |row: &Row| Some((row.system.clone(), row.case.strip_prefix("move a pod with ")?.strip_suffix(" connections")?.parse::<f64>().ok()?.max(0.5)));
    picture(&folder.join("connections.svg"), "Freeze of a pod with connections (none is drawn at 0.5)", "connections", &curves(rows, connections))?;
    picture(&folder.join("growth.svg"), "Freeze by what there is many of", "number", &curves(rows, by_number))
}

/// Files, processes, threads, and pods that move at once.
fn by_number(row: &Row) -> Option<(String, f64)> {
    let runtime = row.system.strip_prefix("godwit on ")?;
    let many = [Many::Files, Many::Processes, Many::Threads].map(|many| many.to_string());
    let counted = row.case.strip_prefix("move a pod with ").and_then(|rest| rest.split_once(' ')).filter(|(_, what)| many.iter().any(|many| many == what));
    let (number, what) = counted.or_else(|| row.case.strip_prefix("move ")?.split_once(' ').filter(|(_, what)| *what == "pods at once"))?;
    Some((format!("{what}, {runtime}"), number.parse().ok()?))
}

fn by_rate(row: &Row) -> Option<(String, f64)> {
    let runtime = row.system.strip_prefix("godwit on ")?.strip_suffix(", pre-copy")?;
    let (mib, rate) = row.case.strip_prefix("move ")?.split_once(" MiB, ")?;
    Some((format!("{rate}, {runtime}"), mib.parse().ok()?))
}

fn curves(rows: &[Row], place: impl Fn(&Row) -> Option<(String, f64)>) -> Curves {
    let mut curves = Curves::new();
    for row in rows.iter().filter(|row| row.metric == FREEZE) {
        if let Some((curve, x)) = place(row) {
            curves.entry(curve).or_default().push((x, row.median.max(1.0)));
        }
    }
    curves.values_mut().for_each(|points| points.sort_by(|one, other| one.0.total_cmp(&other.0)));
    curves
}

fn picture(path: &Path, title: &str, axis: &str, curves: &Curves) -> Result<()> {
    let points = || curves.values().flatten();
    let Some((left, right)) = ends(points().map(|point| point.0)) else { return Ok(()) };
    let Some((bottom, top)) = ends(points().map(|point| point.1)) else { return Ok(()) };
    let complain = |error: &dyn std::fmt::Display| anyhow!("{} cannot be drawn: {error}", path.display());
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|error| complain(&error))?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, TITLE)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((left / 1.5..right * 1.5).log_scale(), (bottom / 2.0..top * 2.0).log_scale())
        .map_err(|error| complain(&error))?;
    chart
        .configure_mesh()
        .x_desc(axis)
        .y_desc("ms, median, application's clock")
        .label_style(FONT)
        .axis_desc_style(FONT)
        .draw()
        .map_err(|error| complain(&error))?;
    for (index, (name, points)) in curves.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(4);
        let key = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3));
        chart.draw_series(line).map_err(|error| complain(&error))?.label(name).legend(key);
    }
    let labels = &mut chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).label_font(FONT).background_style(WHITE.mix(0.85)).border_style(BLACK.mix(0.3));
    labels.draw().map_err(|error| complain(&error))?;
    area.present().map_err(|error| complain(&error))
}

/// The smallest and the largest.
fn ends(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |ends: Option<(f64, f64)>, value| Some(ends.map_or((value, value), |(low, high)| (low.min(value), high.max(value)))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_picture_has_its_curves_and_none_is_drawn_of_nothing() {
        let folder = std::env::temp_dir().join(format!("godwit-plots-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let row = |case: &str, system: &str, freeze: f64| Row::of(case, system, FREEZE, "ms", &[freeze]).unwrap();
        let rows = [
            row("move 10 MiB, 50 MB/s change", "godwit on crio, pre-copy", 60.0),
            row("move 1024 MiB, 50 MB/s change", "godwit on crio, pre-copy", 90.0),
            row("move 1024 MiB, 200 MB/s change", "godwit on crio, pre-copy", 190.0),
            row("move 1024 MiB, 50 MB/s change", "podman", 4000.0),
            row("move a pod with 1000 open files", "godwit on crio", 80.0),
            row("move 4 pods at once", "godwit on crio", 90.0),
            row("move a pod with 100 connections", "godwit on crio, close", 70.0),
        ];
        draw(&rows, &folder).unwrap();
        let text = |name| std::fs::read_to_string(folder.join(name)).unwrap();
        assert!(text("memory.svg").contains("podman") && text("memory.svg").contains("godwit on crio, pre-copy"));
        assert!(text("rates.svg").contains("200 MB/s change, crio") && !text("rates.svg").contains("podman"));
        assert!(text("connections.svg").contains("godwit on crio, close"));
        assert!(text("growth.svg").contains("open files, crio") && text("growth.svg").contains("pods at once, crio") && !text("growth.svg").contains("close"));
        let empty = folder.join("empty");
        std::fs::create_dir(&empty).unwrap();
        draw(&[], &empty).unwrap();
        assert!(std::fs::read_dir(&empty).unwrap().next().is_none());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
