//! The rounds in which memory travelled, as a plot: how much had changed each time, over the time that it took to send it.

use std::fmt::Write;

use godwit_migration::timeline::steps::Round;

use super::escape;
use super::waterfall::{label, ticks};
use crate::text::{bytes, precise};
use crate::timeline::{Row, Timeline};

/// Sizes in the picture's own units.
const LEFT: f64 = 70.0;
const WIDTH: f64 = 1000.0;
const PLOT: f64 = 150.0;
const HEAD: f64 = 24.0;
const FOOT: f64 = 26.0;

/// The section; nothing when memory travelled in the freeze.
#[must_use]
pub fn plot(timeline: &Timeline) -> String {
    let rounds: Vec<(&Row, Round)> = timeline.rows.iter().filter(|row| row.step == "round").filter_map(|row| Some((row, Round::read(&row.detail)?))).collect();
    let (Some(first), Some(last)) = (rounds.first(), rounds.last()) else { return String::new() };
    let (from, to) = (first.0.start_us, last.0.end_us().max(first.0.start_us + 1));
    let most = rounds.iter().map(|(_, round)| round.changed).max().unwrap_or_default().max(1);
    let x = |at: i64| LEFT + signed(at - from) / signed(to - from) * (WIDTH - LEFT - 12.0);
    let y = |changed: u64| HEAD + PLOT - unsigned(changed) / unsigned(most) * PLOT;
    let sent: u64 = rounds.iter().map(|(_, round)| round.sent).sum();
    let words = if rounds.len() == 1 { "one round".to_owned() } else { format!("{} rounds", rounds.len()) };
    let mut html = format!(
        "<section>\n<h2>Memory on its way</h2>\n<p>{} in {words} while the pod ran. Each bar is a round: as high as what had changed, as wide as it took to send that.</p>\n",
        escape(&bytes(sent))
    );
    let height = HEAD + PLOT + FOOT;
    let _ = writeln!(
        html,
        "<div class=\"scroll\"><svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"Rounds of memory\" xmlns=\"http://www.w3.org/2000/svg\">"
    );
    for share in [0, most / 2, most] {
        let at = y(share);
        let _ = writeln!(
            html,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{WIDTH}\" y2=\"{at:.1}\"/><text class=\"time\" text-anchor=\"end\" x=\"{:.0}\" y=\"{:.1}\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            escape(&bytes(share))
        );
    }
    for tick in ticks(0, to - from) {
        let _ = writeln!(html, "<text class=\"tick\" x=\"{:.1}\" y=\"{:.0}\">{}</text>", x(from + tick).min(WIDTH - 24.0), height - 6.0, label(tick));
    }
    for (row, round) in &rounds {
        let (left, top) = (x(row.start_us), y(round.changed));
        let width = (x(row.end_us()) - left).max(2.0);
        let _ = writeln!(
            html,
            "<g><title>round {}: {} changed, {} sent in {}</title><rect class=\"source critical\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/></g>",
            round.number,
            escape(&bytes(round.changed)),
            escape(&bytes(round.sent)),
            precise(row.duration_us),
            (HEAD + PLOT - top).max(1.0)
        );
    }
    html.push_str("</svg></div>\n<div class=\"scroll\"><table class=\"numbers\">\n<tr><th>round</th><th>changed</th><th>sent</th><th>time</th></tr>\n");
    for (row, round) in &rounds {
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            round.number,
            escape(&bytes(round.changed)),
            escape(&bytes(round.sent)),
            precise(row.duration_us)
        );
    }
    html.push_str("</table></div>\n</section>\n");
    html
}

#[allow(clippy::cast_precision_loss)]
fn signed(value: i64) -> f64 {
    value as f64
}

#[allow(clippy::cast_precision_loss)]
fn unsigned(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use godwit_api::migration::{PodMigrationStatus, Step};

    #[test]
    fn each_round_is_a_bar_and_a_line() {
        assert_eq!(plot(&Timeline::default()), "");
        let round = |number: u64, start_us: i64| Step {
            step: "round".into(),
            who: "source".into(),
            detail: Round { number, changed: (64 << 20) / number, sent: 1 << 20 }.to_string(),
            start_us,
            duration_us: 40_000,
            ..Step::default()
        };
        let status = PodMigrationStatus { timeline: vec![round(1, 0), round(2, 40_000), round(3, 80_000)], ..PodMigrationStatus::default() };
        let html = plot(&Timeline::of(&status));
        assert_eq!((html.matches("<rect").count(), html.matches("<tr><td>").count()), (3, 3));
        for words in ["3 MiB in 3 rounds", "round 2: 32 MiB changed", "64 MiB"] {
            assert!(html.contains(words), "{words}: {html}");
        }
    }
}
