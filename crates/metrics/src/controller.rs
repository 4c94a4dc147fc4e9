//! What the controller counts: each phase (rate, errors, duration), migrations by outcome, failures by reason, the freeze, bytes.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::{Page, long, short};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabels {
    phase: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
    outcome: String,
}

/// See the module.
pub struct Controller {
    phases: Family<PhaseLabels, Histogram, fn() -> Histogram>,
    migrations: Family<OutcomeLabels, Counter>,
    failures: Family<ReasonLabels, Counter>,
    freezes: Family<OutcomeLabels, Histogram, fn() -> Histogram>,
    bytes: Counter,
    at_work: Gauge,
    leads: Gauge,
    page: Page,
}

/// A migration that has ended.
#[derive(Clone, Debug, Default)]
pub struct Ended<'a> {
    /// `Succeeded`, `RolledBack` or `Failed`.
    pub outcome: &'a str,
    /// Why it did not succeed.
    pub reason: Option<&'a str>,
    /// For how long the pod stood still, if it did.
    pub freeze: Option<Duration>,
    /// Bytes that were sent.
    pub bytes: u64,
}

impl Default for Controller {
    fn default() -> Self {
        let phases = Family::new_with_constructor(long as fn() -> Histogram);
        let freezes = Family::new_with_constructor(short as fn() -> Histogram);
        let (migrations, failures) = (Family::default(), Family::default());
        let (bytes, at_work, leads) = (Counter::default(), Gauge::default(), Gauge::default());
        let mut registry = Registry::with_prefix("godwit");
        registry.register("phase_duration_seconds", "How long phases took, by how they ended", Family::clone(&phases));
        registry.register("migrations", "Migrations that have ended", Family::clone(&migrations));
        registry.register("failures", "Migrations that did not succeed, by reason", Family::clone(&failures));
        registry.register("freeze_seconds", "For how long pods stood still", Family::clone(&freezes));
        registry.register("sent_bytes", "Bytes sent to targets by migrations that have ended", bytes.clone());
        registry.register("migrations_at_work", "Migrations that this replica carries through their phases now", at_work.clone());
        registry.register("leads", "1 in the replica that leads", leads.clone());
        Self { phases, migrations, failures, freezes, bytes, at_work, leads, page: Page::new(registry) }
    }
}

/// Phases that have an end.
const PHASES: [&str; 6] = ["Pending", "Planning", "Preparing", "Copying", "Switching", "Settling"];
/// How a phase can end.
const PHASE_OUTCOMES: [&str; 2] = ["done", "failed"];
/// How a migration can end.
const OUTCOMES: [&str; 3] = ["Succeeded", "RolledBack", "Failed"];

impl Controller {
    /// Nothing has happened yet, and these may be reasons of failures. What can be counted is on the page with a zero from the beginning: Prometheus does not
    /// see a first increase of something that was not there before.
    #[must_use]
    pub fn expecting<'a>(reasons: impl IntoIterator<Item = &'a str>) -> Self {
        let metrics = Self::default();
        for phase in PHASES {
            for outcome in PHASE_OUTCOMES {
                drop(metrics.phases.get_or_create(&PhaseLabels { phase: phase.to_owned(), outcome }));
            }
        }
        for outcome in OUTCOMES {
            drop(metrics.migrations.get_or_create(&OutcomeLabels { outcome: outcome.to_owned() }));
            drop(metrics.freezes.get_or_create(&OutcomeLabels { outcome: outcome.to_owned() }));
        }
        for reason in reasons {
            for outcome in OUTCOMES.into_iter().filter(|outcome| *outcome != "Succeeded") {
                drop(metrics.failures.get_or_create(&ReasonLabels { reason: reason.to_owned(), outcome: outcome.to_owned() }));
            }
        }
        metrics
    }

    /// The page of these metrics.
    #[must_use]
    pub fn page(&self) -> Page {
        self.page.clone()
    }

    /// This replica leads.
    pub fn leads(&self) {
        self.leads.set(1);
    }

    /// A phase has ended.
    pub fn phase(&self, phase: &str, failed: bool, took: Duration) {
        let labels = PhaseLabels { phase: phase.to_owned(), outcome: if failed { "failed" } else { "done" } };
        self.phases.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A migration has ended.
    pub fn ended(&self, ended: &Ended<'_>) {
        let labels = OutcomeLabels { outcome: ended.outcome.to_owned() };
        self.migrations.get_or_create(&labels).inc();
        if let Some(reason) = ended.reason {
            self.failures.get_or_create(&ReasonLabels { reason: reason.to_owned(), outcome: ended.outcome.to_owned() }).inc();
        }
        if let Some(freeze) = ended.freeze {
            self.freezes.get_or_create(&labels).observe(freeze.as_secs_f64());
        }
        self.bytes.inc_by(ended.bytes);
    }

    /// Counts a migration that is being carried through its phases, until the guard goes.
    #[must_use]
    pub fn at_work(&self) -> AtWork {
        self.at_work.inc();
        AtWork(self.at_work.clone())
    }
}

/// See [`Controller::at_work`].
pub struct AtWork(Gauge);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_may_happen_is_there_with_a_zero() {
        let text = Controller::expecting(["Inotify"]).page().text().unwrap();
        for line in [
            "godwit_phase_duration_seconds_count{phase=\"Switching\",outcome=\"failed\"} 0",
            "godwit_migrations_total{outcome=\"Succeeded\"} 0",
            "godwit_failures_total{reason=\"Inotify\",outcome=\"Failed\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_page_tells_what_was_counted() {
        let metrics = Controller::default();
        metrics.phase("Planning", false, Duration::from_millis(20));
        metrics.ended(&Ended { outcome: "RolledBack", reason: Some("Inotify"), freeze: Some(Duration::from_millis(80)), bytes: 7 });
        let guard = metrics.at_work();
        let text = metrics.page().text().unwrap();
        for line in [
            "godwit_phase_duration_seconds_count{phase=\"Planning\",outcome=\"done\"} 1",
            "godwit_migrations_total{outcome=\"RolledBack\"} 1",
            "godwit_failures_total{reason=\"Inotify\",outcome=\"RolledBack\"} 1",
            "godwit_freeze_seconds_bucket{le=\"0.1\",outcome=\"RolledBack\"} 1",
            "godwit_sent_bytes_total 7",
            "godwit_migrations_at_work 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        drop(guard);
        assert!(metrics.page().text().unwrap().contains("godwit_migrations_at_work 0"));
    }
}
