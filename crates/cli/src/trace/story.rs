//! Lines from everywhere become one story: each on the controller's clock, none twice, in order, and only what is wanted.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use godwit_api::PodMigration;
use godwit_api::migration::Clock;
use godwit_api::trace::{MigrationTraceStatus, TraceLine};
use godwit_trace::{Level, Line, Order, Source, order};

use super::record;
use crate::options::Trace;
use crate::text::precise;

/// For so long a line waits for earlier ones of other nodes.
const HOLD: Duration = Duration::from_secs(2);
/// For so long the past of one node waits for that of the other.
const PAST: Duration = Duration::from_secs(20);

/// A line as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Where it was noted: a node, or `-` for the controller.
    pub node: String,
    /// What; its time is on the controller's clock.
    pub line: Line,
}

/// See the module.
pub struct Story {
    options: Trace,
    since_us: i64,
    clocks: HashMap<String, Clock>,
    order: Order<Told>,
    /// When lines came, and the highest time of what had come by then.
    marks: VecDeque<(Instant, i64)>,
    /// What was told already: agents and the record tell the same steps, and the record tells everything again whenever it changes.
    known: HashSet<(String, i64, String)>,
    ended: bool,
    taken: u64,
    nodes: usize,
    past_told: bool,
    begin: Instant,
}

impl Story {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(options: Trace) -> Self {
        let since_us = options.since.map_or(i64::MIN, |time| (jiff::Timestamp::now() - time).as_microsecond());
        Self {
            options,
            since_us,
            clocks: HashMap::new(),
            order: Order::default(),
            marks: VecDeque::new(),
            known: HashSet::new(),
            ended: false,
            taken: 0,
            nodes: 0,
            past_told: false,
            begin: Instant::now(),
        }
    }

    /// Whether no node has told anything yet.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.nodes == 0
    }

    /// The record as it is now.
    pub fn record(&mut self, object: &PodMigration) {
        let clocks = object.status.iter().flat_map(|status| &status.clocks);
        for clock in clocks {
            self.clocks.entry(clock.node.clone()).or_insert_with(|| clock.clone());
        }
        for Told { node, line } in record::lines(object) {
            self.take(&node, line);
        }
        if let (false, Some(Told { node, line })) = (self.ended, record::end(object)) {
            self.ended = true;
            self.take(&node, line);
        }
    }

    /// The window as it is now; gives the number up to which it was read.
    pub fn window(&mut self, status: &MigrationTraceStatus) -> u64 {
        for node in status.nodes.iter().skip(self.nodes) {
            let clock = &node.clock;
            let first = status.lines.iter().filter(|line| line.node == clock.node).map(|line| line.at_us).min();
            let at_us = first.unwrap_or_else(|| jiff::Timestamp::now().as_microsecond().saturating_add(clock.offset_us));
            self.clocks.insert(clock.node.clone(), clock.clone());
            self.take(&clock.node, Line::new(at_us, Source::Trace, Level::Info, &format!("the {} of the migration; {}", node.role, offset(clock))));
        }
        self.nodes = self.nodes.max(status.nodes.len());
        self.past_told = !status.nodes.is_empty() && status.nodes.iter().all(|node| node.past_told);
        let known = usize::try_from(self.taken.saturating_sub(status.first)).unwrap_or(usize::MAX);
        for TraceLine { at_us, node, source, level, text } in status.lines.iter().skip(known) {
            if let Some(source) = Source::of(source) {
                self.take(node, Line::new(*at_us, source, Level::of(level), text));
            }
        }
        self.taken = self.taken.max(status.first + status.lines.len() as u64);
        self.taken
    }

    /// A line with its node's own time.
    fn take(&mut self, node: &str, mut line: Line) {
        if !self.known.insert((node.to_owned(), line.at_us, line.text.clone())) {
            return;
        }
        if let Some(clock) = self.clocks.get(node) {
            line.at_us = order::corrected(line.at_us, clock.offset_us, clock.uncertainty_us);
        }
        if !self.wants(&line) {
            return;
        }
        let highest = self.marks.back().map_or(i64::MIN, |(_, highest)| *highest).max(line.at_us);
        self.marks.push_back((Instant::now(), highest));
        self.order.put(line.at_us, Told { node: node.to_owned(), line });
    }

    fn wants(&self, line: &Line) -> bool {
        let Trace { source, grep, verbose, .. } = &self.options;
        let about_this = line.source == Source::Trace;
        (about_this || source.is_empty() || source.contains(&line.source))
            && (about_this || grep.as_ref().is_none_or(|grep| grep.is_match(&line.text)))
            && (*verbose || line.level > Level::Debug)
            && line.at_us >= self.since_us
    }

    /// What can be told: everything that has waited for long enough.
    pub fn ready(&mut self) -> impl Iterator<Item = Told> {
        let mut until = i64::MIN;
        if self.past_told || self.begin.elapsed() > PAST {
            let waited = self.marks.partition_point(|(came, _)| came.elapsed() >= HOLD);
            until = self.marks.drain(..waited).next_back().map_or(until, |(_, highest)| highest);
        }
        self.order.take_until(until).map(|(_, told)| told)
    }

    /// Everything.
    pub fn rest(&mut self) -> impl Iterator<Item = Told> {
        self.order.take().map(|(_, told)| told)
    }
}

fn offset(clock: &Clock) -> String {
    let sign = if clock.offset_us < 0 { "behind" } else { "ahead of" };
    let told = format!("its clock is {} {sign} the controller's (± {})", precise(clock.offset_us.saturating_abs()), precise(clock.uncertainty_us));
    if clock.offset_us.saturating_abs() > clock.uncertainty_us { format!("{told}, corrected here") } else { told }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use clap::Parser;
    use godwit_api::trace::TraceNode;

    use super::*;
    use crate::options::{Command, Options};

    fn story(line: &str) -> Story {
        let parsed = Options::try_parse_from(["kubectl-migrate", "trace"].into_iter().chain(line.split(' ').filter(|word| !word.is_empty()))).unwrap();
        let Some(Command::Trace { trace, .. }) = parsed.command else { panic!("a trace") };
        Story::new(trace)
    }

    fn status(first: u64, lines: &[(i64, &str, &str, &str, &str)]) -> MigrationTraceStatus {
        let node = |name: &str, role: &str, offset_us| TraceNode {
            role: role.into(),
            clock: Clock { node: name.into(), offset_us, uncertainty_us: 100 },
            past_told: true,
        };
        let line = |(at_us, node, source, level, text): &(i64, &str, &str, &str, &str)| TraceLine {
            at_us: *at_us,
            node: (*node).into(),
            source: (*source).into(),
            level: (*level).into(),
            text: (*text).into(),
        };
        MigrationTraceStatus {
            first,
            lines: lines.iter().map(line).collect(),
            nodes: vec![node("node-a", "source", 0), node("node-b", "target", 5000)],
            ..MigrationTraceStatus::default()
        }
    }

    fn texts(story: &mut Story) -> Vec<String> {
        story.rest().filter(|told| told.line.source != Source::Trace).map(|told| told.line.text).collect()
    }

    #[test]
    fn lines_of_both_nodes_are_in_the_order_of_one_clock() {
        let mut story = story("web-0");
        let lines =
            [(10_000, "node-a", "kubelet", "info", "second"), (14_000, "node-b", "criu", "info", "first"), (16_000, "node-b", "runtime", "warning", "third")];
        assert_eq!(story.window(&status(0, &lines)), 3);
        assert_eq!(story.window(&status(1, &lines[1..])), 3);
        assert_eq!(story.window(&status(1, &[lines[1], lines[2], (8_000, "node-a", "exec", "info", "late")])), 4);
        assert_eq!(texts(&mut story), ["late", "first", "second", "third"]);
    }

    #[test]
    fn only_what_is_wanted_is_told_and_always_what_is_missing() {
        let mut story = story("web-0 --source criu,trace --grep dump");
        let lines = [
            (1, "node-a", "criu", "info", "dumping"),
            (2, "node-a", "criu", "debug", "dumping more"),
            (3, "node-a", "kubelet", "info", "dumping"),
            (4, "node-a", "criu", "info", "other"),
            (5, "node-a", "trace", "info", "no journal"),
        ];
        story.window(&status(0, &lines));
        let told: Vec<String> = story.rest().map(|told| told.line.text).collect();
        assert!(told.contains(&"dumping".to_owned()) && told.contains(&"no journal".to_owned()), "{told:?}");
        assert_eq!(told.len(), 4, "{told:?}");
    }

    #[test]
    fn clocks_are_shown() {
        let mut story = story("web-0");
        story.window(&status(0, &[]));
        let told: Vec<String> = story.rest().map(|told| told.line.text).collect();
        assert_eq!(told[1], "the target of the migration; its clock is 5.00 ms ahead of the controller's (± 0.10 ms), corrected here");
    }
}
