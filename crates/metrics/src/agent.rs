//! What an agent counts: each step of a switch, switches by role and outcome, bytes.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::{Page, short};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StepLabels {
    role: String,
    step: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SwitchLabels {
    role: &'static str,
    outcome: &'static str,
}

/// See the module.
pub struct Agent {
    steps: Family<StepLabels, Histogram, fn() -> Histogram>,
    switches: Family<SwitchLabels, Counter>,
    sent: Counter,
    page: Page,
}

impl Default for Agent {
    fn default() -> Self {
        let steps = Family::new_with_constructor(short as fn() -> Histogram);
        let (switches, sent) = (Family::default(), Counter::default());
        let mut registry = Registry::with_prefix("godwit_agent");
        registry.register("step_seconds", "How long steps of switches took on this node", Family::clone(&steps));
        registry.register("switches", "Switches that have ended on this node", Family::clone(&switches));
        registry.register("sent_bytes", "Bytes of images and files sent from this node", sent.clone());
        Self { steps, switches, sent, page: Page::new(registry) }
    }
}

impl Agent {
    /// The page of these metrics.
    #[must_use]
    pub fn page(&self) -> Page {
        self.page.clone()
    }

    /// A step was taken.
    pub fn step(&self, role: &str, step: &str, took: Duration) {
        self.steps.get_or_create(&StepLabels { role: role.to_owned(), step: step.to_owned() }).observe(took.as_secs_f64());
    }

    /// A switch has ended in this role.
    pub fn switched(&self, role: &'static str, running: bool) {
        self.switches.get_or_create(&SwitchLabels { role, outcome: if running { "running" } else { "taken-back" } }).inc();
    }

    /// Bytes were sent.
    pub fn sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_page_tells_what_was_counted() {
        let metrics = Agent::default();
        metrics.step("source", "freeze", Duration::from_millis(1));
        metrics.switched("source", true);
        metrics.sent(9);
        let text = metrics.page().text().unwrap();
        for line in [
            "godwit_agent_step_seconds_count{role=\"source\",step=\"freeze\"} 1",
            "godwit_agent_switches_total{role=\"source\",outcome=\"running\"} 1",
            "godwit_agent_sent_bytes_total 9",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
