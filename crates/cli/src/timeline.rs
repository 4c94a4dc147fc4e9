//! The timeline of a migration: every step on one clock, and what the freeze was really spent on. Pure: from a record to values, text and JSON.
//!
//! ```text
//!   status.timeline ── clocks corrected ──▶ steps on the controller's clock ─┬─▶ text, JSON, the waterfall of `report`
//!                                            freeze … open | thaw ───────────┴─▶ critical path of the freeze
//! ```

use godwit_api::PodMigration;
use godwit_api::migration::{Clock, Phase, PodMigrationStatus, Step};
use godwit_migration::timeline::path::{Span, Stretch, critical};
use godwit_migration::timeline::steps;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::text::{bytes, precise, since};

/// What may stay unexplained, in microseconds.
pub const UNEXPLAINED: i64 = 5000;

/// Stretches of the critical path that are shorter, in microseconds, are not told in words.
const SHORT: i64 = 300;
/// Width of the critical path in words.
const PATH_WIDTH: usize = 110;

/// A step on the controller's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// As it was reported, but for the start.
    pub step: String,
    /// What it was about.
    pub detail: String,
    /// `controller`, `source`, `target` or `wrapper`.
    pub who: String,
    /// The phase in which it was taken.
    pub phase: Phase,
    /// Start in microseconds since the epoch by the controller's clock.
    pub start_us: i64,
    /// Duration in microseconds.
    pub duration_us: i64,
    /// How deep it lies; see `godwit_migration::timeline::steps`.
    pub level: usize,
    /// Microseconds of the freeze that were spent on it and nothing more precise.
    pub critical_us: i64,
}

impl Row {
    /// When it ended.
    #[must_use]
    pub fn end_us(&self) -> i64 {
        self.start_us.saturating_add(self.duration_us)
    }

    /// What it was about, for people.
    #[must_use]
    pub fn about(&self) -> String {
        match steps::Round::read(&self.detail).filter(|_| self.step == "round") {
            Some(round) => format!("{} · {}", round.number, bytes(round.changed)),
            None => self.detail.clone(),
        }
    }

    /// What it does and whom it waits for.
    #[must_use]
    pub fn meaning(&self) -> (&'static str, &'static str) {
        steps::of(&self.step).map_or(("", ""), |known| (known.does, known.waits_for))
    }
}

/// The whole story.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// All steps in the order of their starts.
    pub rows: Vec<Row>,
    /// From the order to freeze to the first process that runs again.
    pub freeze: Option<(i64, i64)>,
    /// What that time was spent on; the numbers are indices of `rows`.
    pub path: Vec<Stretch>,
    /// Stretches outside of the freeze that no step explains and that are longer than [`UNEXPLAINED`].
    pub gaps: Vec<Stretch>,
}

impl Timeline {
    /// What the record holds.
    #[must_use]
    pub fn of(status: &PodMigrationStatus) -> Self {
        let mut rows: Vec<Row> = status.timeline.iter().map(|step| row(status, step)).collect();
        rows.sort_by_key(|row| (row.start_us, row.level, std::cmp::Reverse(row.duration_us)));
        let freeze = freeze(&rows);
        let spans: Vec<Span> =
            rows.iter().enumerate().map(|(step, row)| Span { step, level: row.level, start_us: row.start_us, end_us: row.end_us() }).collect();
        // While the pod stands still the controller only writes down what it hears: nobody waits for that.
        let waited_for: Vec<Span> = spans.iter().filter(|span| rows.get(span.step).is_some_and(|row| row.who != "controller")).copied().collect();
        let path = freeze.map(|(from, to)| critical(&waited_for, from, to)).unwrap_or_default();
        for stretch in &path {
            if let Some(row) = stretch.step.and_then(|step| rows.get_mut(step)) {
                row.critical_us += stretch.length_us();
            }
        }
        let whole = rows.first().map(|row| row.start_us).zip(rows.iter().map(Row::end_us).max());
        let frozen = |stretch: &Stretch| freeze.is_some_and(|(from, to)| stretch.start_us < to && stretch.end_us > from);
        let gaps = whole.map(|(from, to)| critical(&spans, from, to)).unwrap_or_default();
        let gaps = gaps.into_iter().filter(|stretch| stretch.step.is_none() && stretch.length_us() > UNEXPLAINED && !frozen(stretch)).collect();
        Self { rows, freeze, path, gaps }
    }

    /// Microseconds of the freeze that no step explains: the longest stretch, and all of them. While the source only waits for the target, the target has to
    /// explain what it does.
    #[must_use]
    pub fn unexplained(&self) -> (i64, i64) {
        let explains = |step: usize| self.rows.get(step).is_some_and(|row| row.step != "offer");
        let gaps = || self.path.iter().filter(|stretch| !stretch.step.is_some_and(explains)).map(Stretch::length_us);
        (gaps().max().unwrap_or_default(), gaps().sum())
    }

    /// When it began.
    #[must_use]
    pub fn begin_us(&self) -> i64 {
        self.rows.first().map_or(0, |row| row.start_us)
    }

    /// When the last step ended.
    #[must_use]
    pub fn end_us(&self) -> i64 {
        self.rows.iter().map(Row::end_us).max().unwrap_or_default()
    }
}

fn row(status: &PodMigrationStatus, step: &Step) -> Row {
    Row {
        step: step.step.clone(),
        detail: step.detail.clone(),
        who: step.who.clone(),
        phase: step.phase,
        start_us: step.start_us.saturating_sub(status.correction_us(&step.who)),
        duration_us: step.duration_us.max(0),
        level: steps::level(&step.step, &step.who),
        critical_us: 0,
    }
}

/// The last freeze, up to what ended it.
fn freeze(rows: &[Row]) -> Option<(i64, i64)> {
    let named = |name: &'static str| rows.iter().filter(move |row| row.step == name);
    let from = named("freeze").map(|row| row.start_us).max()?;
    let ran = named("open").filter(|row| row.who == "target" && row.end_us() > from).map(Row::end_us).min();
    let thawed = named("thaw").map(Row::end_us).find(|end| *end > from);
    Some((from, ran.or(thawed)?))
}

/// For people.
#[must_use]
pub fn text(object: &PodMigration) -> Vec<String> {
    let status = object.status.clone().unwrap_or_default();
    let timeline = Timeline::of(&status);
    let begin = timeline.begin_us();
    let mut lines = vec![headline(object, &timeline)];
    lines.extend(clocks(&status.clocks));
    lines.extend(status.trace_id.as_ref().map(|id| format!("  trace {id}")));
    if timeline.rows.is_empty() {
        lines.push("  no step was taken yet".to_owned());
        return lines;
    }
    lines.push(format!("\n  {:>9}  {:>8}  {:<10}  {:<18}  {}", "START", "TIME", "WHO", "STEP", "WHAT WAS DONE, AND WHO WAS WAITED FOR"));
    let mut phase = None;
    let (mut frozen, mut ran) = (timeline.freeze.map(|freeze| freeze.0), timeline.freeze.map(|freeze| freeze.1));
    let mut gaps = timeline.gaps.iter().peekable();
    for row in &timeline.rows {
        if ran.is_some_and(|at| row.start_us >= at) {
            lines.push(rule("the pod runs"));
            ran = None;
        }
        while let Some(gap) = gaps.next_if(|gap| gap.start_us <= row.start_us) {
            lines.push(format!("? {:>9}  {:>8}  {:<10}  unexplained", since(gap.start_us - begin), precise(gap.length_us()), ""));
        }
        if phase != Some(row.phase) {
            phase = Some(row.phase);
            lines.push(format!("  {:?}", row.phase));
        }
        if frozen.is_some_and(|at| row.start_us >= at) {
            lines.push(rule("the pod stands still"));
            frozen = None;
        }
        lines.push(line(row, begin));
    }
    if ran.is_some() {
        lines.push(rule("the pod runs"));
    }
    lines.extend(summary(&timeline));
    lines
}

fn headline(object: &PodMigration, timeline: &Timeline) -> String {
    let status = object.status.clone().unwrap_or_default();
    let node = |node: Option<String>| node.unwrap_or_else(|| "?".into());
    let mut text = format!(
        "{} · {} · {} → {} · {:?} · {}",
        object.name_any(),
        object.spec.pod_name,
        node(status.source_node),
        node(status.target_node.or_else(|| object.spec.target_node.clone())),
        status.phase,
        precise(timeline.end_us() - timeline.begin_us()),
    );
    if let Some((from, to)) = timeline.freeze {
        text.push_str(&format!(", of which the pod stood still for {}", precise(to - from)));
    }
    text
}

fn clocks(clocks: &[Clock]) -> Option<String> {
    let told = clocks.iter().map(|clock| {
        let sign = if clock.offset_us < 0 { "−" } else { "+" };
        format!("{} {sign}{} (± {})", clock.node, precise(clock.offset_us.saturating_abs()), precise(clock.uncertainty_us))
    });
    (!clocks.is_empty()).then(|| format!("  clocks against the controller's: {}; corrected below", told.collect::<Vec<_>>().join(", ")))
}

fn rule(text: &str) -> String {
    format!("  ────────── {text} {}", "─".repeat(60_usize.saturating_sub(text.chars().count())))
}

fn line(row: &Row, begin: i64) -> String {
    let mark = if row.critical_us > 0 { '●' } else { ' ' };
    let mut name = format!("{}{}", "  ".repeat(row.level), row.step);
    if !row.detail.is_empty() {
        name.push_str(&format!(" {}", row.about()));
    }
    let (does, waits) = row.meaning();
    let what = if waits.is_empty() { String::new() } else { format!("{does} ← {waits}") };
    format!("{mark} {:>9}  {:>8}  {:<10}  {name:<18}  {what}", since(row.start_us - begin), precise(row.duration_us), row.who).trim_end().to_owned()
}

fn summary(timeline: &Timeline) -> Vec<String> {
    let Some((from, to)) = timeline.freeze else { return Vec::new() };
    let long = timeline.path.iter().filter(|stretch| stretch.length_us() >= SHORT);
    let mut told = long.map(|stretch| {
        let name = stretch.step.and_then(|step| timeline.rows.get(step)).map_or("?", |row| if row.step == "offer" { "on the way" } else { &row.step });
        format!("{name} {}", precise(stretch.length_us()).trim_end_matches(" ms"))
    });
    let (longest, all) = timeline.unexplained();
    let mut lines = vec![String::new(), format!("  ● critical path of the freeze: {} (below in ms)", precise(to - from))];
    let mut line = format!("    {}", told.next().unwrap_or_default());
    for part in told {
        if line.chars().count() + part.chars().count() > PATH_WIDTH {
            lines.push(std::mem::replace(&mut line, "   ".to_owned()));
        }
        line.push_str(&format!(" → {part}"));
    }
    lines.push(line);
    lines.push(match longest {
        0 => "    all of it is explained".to_owned(),
        _ => format!("    on the way between the agents, or unexplained: {} in all, at most {} at a time", precise(all), precise(longest)),
    });
    lines
}

/// For programs.
#[must_use]
pub fn value(object: &PodMigration) -> Value {
    let status = object.status.clone().unwrap_or_default();
    let timeline = Timeline::of(&status);
    let steps: Vec<Value> = timeline
        .rows
        .iter()
        .map(|row| {
            let (does, waits) = row.meaning();
            json!({
                "phase": row.phase, "step": row.step, "detail": row.detail, "who": row.who, "level": row.level,
                "startUs": row.start_us, "durationUs": row.duration_us, "criticalUs": row.critical_us, "does": does, "waitsFor": waits,
            })
        })
        .collect();
    let stretch = |stretch: &Stretch| {
        let row = stretch.step.and_then(|step| timeline.rows.get(step));
        json!({"step": row.map(|row| &row.step), "who": row.map(|row| &row.who), "startUs": stretch.start_us, "durationUs": stretch.length_us()})
    };
    let (longest, all) = timeline.unexplained();
    let freeze = timeline.freeze.map(|(from, to)| {
        json!({
            "startUs": from, "durationUs": to - from, "criticalPath": timeline.path.iter().map(stretch).collect::<Vec<_>>(),
            "unexplainedUs": all, "longestUnexplainedUs": longest,
        })
    });
    json!({
        "name": object.name_any(), "pod": object.spec.pod_name, "phase": status.phase, "sourceNode": status.source_node, "targetNode": status.target_node,
        "traceId": status.trace_id, "clocks": status.clocks, "freeze": freeze, "steps": steps, "unexplained": timeline.gaps.iter().map(stretch).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn migration() -> PodMigration {
        let step =
            |phase: &str, step: &str, who: &str, start: i64, took: i64| json!({"phase": phase, "step": step, "who": who, "startUs": start, "durationUs": took});
        serde_json::from_value(json!({
            "apiVersion": "godwit.dev/v1alpha1", "kind": "PodMigration", "metadata": {"name": "web-0-x"},
            "spec": {"podName": "web-0", "targetNode": "node-b"},
            "status": {
                "phase": "Succeeded", "sourceNode": "node-a", "targetNode": "node-b",
                "clocks": [{"node": "node-a", "offsetUs": 10, "uncertaintyUs": 90}, {"node": "node-b", "offsetUs": 500_000, "uncertaintyUs": 200}],
                "timeline": [
                    step("Planning", "inspect", "controller", 1_000_000, 12_000),
                    step("Switching", "freeze", "source", 2_000_000, 1_200),
                    step("Switching", "dump", "source", 2_001_200, 30_000),
                    step("Switching", "criu-dump", "source", 2_001_300, 28_000),
                    step("Switching", "offer", "source", 2_031_200, 40_000),
                    step("Switching", "restore", "target", 2_532_200, 30_000),
                    step("Switching", "open", "target", 2_570_200, 1_000),
                    step("Settling", "retire", "controller", 2_100_000, 9_000),
                ],
            },
        }))
        .unwrap()
    }

    #[test]
    fn the_freeze_is_told_on_one_clock() {
        insta::assert_snapshot!(text(&migration()).join("\n"));
    }

    #[test]
    fn programs_get_the_same() {
        let value = value(&migration());
        assert_eq!(value["freeze"]["durationUs"], 71_200);
        assert_eq!(value["freeze"]["longestUnexplainedUs"], 8000);
        assert_eq!(value["steps"].as_array().unwrap().len(), 8);
        assert_eq!(value["unexplained"][0]["durationUs"], 988_000);
    }

    #[test]
    fn nothing_yet_is_no_panic() {
        let object: PodMigration = serde_json::from_value(json!({
            "apiVersion": "godwit.dev/v1alpha1", "kind": "PodMigration", "metadata": {"name": "x"}, "spec": {"podName": "p"},
        }))
        .unwrap();
        assert_eq!(text(&object).len(), 2);
        assert!(value(&object)["freeze"].is_null());
    }
}
