//! The waterfall: one row for each step, one bar for its time, the freeze shaded.

use std::fmt::Write;

use super::escape;
use crate::text::precise;
use crate::timeline::{Row, Timeline};

/// Widths in the picture's own units: names, bars, and room for the last label.
const NAMES: f64 = 210.0;
const BARS: f64 = 690.0;
const WIDTH: f64 = 1000.0;
const ROW: f64 = 22.0;
const HEAD: f64 = 26.0;

/// The picture of all steps that touch the time between two instants.
#[must_use]
pub fn svg(timeline: &Timeline, from: i64, to: i64, title: &str) -> String {
    let rows: Vec<&Row> = timeline.rows.iter().filter(|row| row.end_us() >= from && row.start_us <= to && row.step != "status").collect();
    let span = float(to - from).max(1.0);
    let x = |at: i64| NAMES + (float(at - from) / span * BARS).clamp(0.0, BARS);
    let height = HEAD + ROW * float(i64::try_from(rows.len()).unwrap_or_default()) + 6.0;
    let mut out = format!(
        "<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\" xmlns=\"http://www.w3.org/2000/svg\">\n",
        escape(title)
    );
    if let Some((begin, end)) = timeline.freeze {
        let _ = writeln!(
            out,
            "<rect class=\"frozen\" x=\"{:.1}\" y=\"{HEAD}\" width=\"{:.1}\" height=\"{:.0}\"/>",
            x(begin),
            (x(end) - x(begin)).max(1.0),
            height - HEAD
        );
    }
    let zero = timeline.freeze.map_or(from, |freeze| if freeze.0 > from && to - from < 4 * (freeze.1 - freeze.0) { freeze.0 } else { from });
    for tick in ticks(from - zero, to - zero) {
        let at = x(tick + zero);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{HEAD}\" x2=\"{at:.1}\" y2=\"{height:.0}\"/><text class=\"tick\" x=\"{at:.1}\" y=\"16\">{}</text>",
            label(tick)
        );
    }
    for (index, row) in rows.iter().enumerate() {
        out.push_str(&bar(row, HEAD + ROW * float(i64::try_from(index).unwrap_or_default()), x(row.start_us), x(row.end_us())));
    }
    out.push_str("</svg></div>\n");
    out
}

fn bar(row: &Row, y: f64, start: f64, end: f64) -> String {
    let width = (end - start).max(2.0);
    let indent = 4.0 + 12.0 * float(i64::try_from(row.level).unwrap_or_default());
    let mut name = row.step.clone();
    if !row.detail.is_empty() {
        name.push(' ');
        name.push_str(&row.about());
    }
    let (does, waits) = row.meaning();
    let time = precise(row.duration_us);
    // Behind the bar, or before it where there is no room.
    let (anchor, at) = if end + 70.0 < WIDTH { ("start", start + width + 5.0) } else { ("end", start - 5.0) };
    let critical = if row.critical_us > 0 { " critical" } else { "" };
    format!(
        "<g><title>{} by the {}: {} ({}), waits for: {}</title><text class=\"name{critical}\" x=\"{indent:.0}\" y=\"{:.1}\">{}</text>\
         <rect class=\"{}{critical}\" x=\"{start:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"14\" rx=\"2\"/><text class=\"time\" text-anchor=\"{anchor}\" x=\"{at:.1}\" y=\"{:.1}\">{time}</text></g>\n",
        escape(&name),
        escape(&row.who),
        escape(does),
        time,
        escape(waits),
        y + 15.0,
        escape(&cut(&name, indent)),
        escape(&row.who),
        y + 4.0,
        y + 15.0,
    )
}

/// A name as far as there is room for it before the bars.
fn cut(name: &str, indent: f64) -> String {
    // A letter of this size is at most this wide on average.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let room = ((NAMES - indent) / 7.0) as usize;
    if name.chars().count() <= room { name.to_owned() } else { name.chars().take(room.saturating_sub(1)).chain(['…']).collect() }
}

/// What the colours mean.
#[must_use]
pub fn legend() -> String {
    "<p class=\"legend\"><i class=\"controller\"></i>controller <i class=\"source\"></i>source <i class=\"target\"></i>target and its wrapper <i class=\"frozen\"></i>the pod stands still</p>\n".to_owned()
}

/// Some round instants between two.
pub fn ticks(from: i64, to: i64) -> Vec<i64> {
    let span = (to - from).max(1);
    let mut step = 1;
    while span / step > 7 {
        step = match step.to_string().chars().next() {
            Some('2') => step / 2 * 5,
            _ => step * 2,
        };
    }
    let first = from.div_euclid(step) * step;
    (0..).map(|index| first + index * step).skip_while(|tick| *tick < from).take_while(|tick| *tick <= to).collect()
}

/// An instant in words.
pub fn label(us: i64) -> String {
    if us.abs() >= 1_000_000 { format!("{} s", float(us) / 1_000_000.0) } else { format!("{} ms", float(us) / 1000.0) }
}

#[allow(clippy::cast_precision_loss)]
fn float(value: i64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_end_before_the_bars() {
        assert_eq!(cut("criu-dump main", 16.0), "criu-dump main");
        assert_eq!(cut("criu-dump a-container-with-a-very-long-name", 16.0), "criu-dump a-container-with…");
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(0, 100_000), [0, 20_000, 40_000, 60_000, 80_000, 100_000]);
        assert_eq!(ticks(-5_000, 60_000), [0, 10_000, 20_000, 30_000, 40_000, 50_000, 60_000]);
        assert_eq!([label(0), label(20_000), label(2_500_000), label(1_500)], ["0 ms", "20 ms", "2.5 s", "1.5 ms"]);
        assert!(ticks(0, 0).len() <= 2);
    }
}
