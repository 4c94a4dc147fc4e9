//! What controller and agents count, and the page `/metrics` on which Prometheus reads it.
//!
//! ```text
//!   controller ── a phase has ended, a migration has ended ─▶ Controller ─┐
//!   agent      ── a step was taken, a switch has ended ─────▶ Agent ──────┼─▶ Page ◀── GET /metrics ── Prometheus
//! ```
//!
//! Labels have few values: phases, steps, roles, outcomes and reason words; never a name of a pod, a node or a migration.

mod agent;
pub mod controller;
mod page;

pub use agent::Agent;
pub use controller::Controller;
pub use page::Page;

use prometheus_client::metrics::histogram::Histogram;

/// Bounds in seconds for what lasts from a millisecond to some minutes.
const LONG: [f64; 16] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Bounds in seconds for parts of a freeze.
const SHORT: [f64; 15] = [0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];

fn long() -> Histogram {
    Histogram::new(LONG)
}

fn short() -> Histogram {
    Histogram::new(SHORT)
}
