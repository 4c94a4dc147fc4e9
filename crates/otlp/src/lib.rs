//! A migration as one trace of OpenTelemetry, exported by OTLP when it has ended.
//!
//! ```text
//!   agents, wrappers, controller ── steps, while it goes on ──▶ PodMigration.status.timeline        (nothing more is done for a trace until the end)
//!                                                                       │ the migration has ended
//!   spans::of   steps on one clock, as a tree: migration ▸ phase ▸ step ▸ part of a step
//!                                                                       │ bounded queue
//!   Exporter    one request for each migration, again and again for some minutes ──▶ collector (OTLP over gRPC)
//! ```
//!
//! - [`context`] which trace the spans of a migration belong to.
//! - [`spans`] the spans of a record. Pure.
//! - [`wire`] the same as messages of OTLP.
//! - [`exporter`] the way to the collector.
//!
//! Steps are noted anyway (`kubectl migrate timeline` tells them), so nothing is measured twice, nothing is sent while a pod stands still, agents and wrappers
//! need no way to the collector, and the times of both nodes are on one clock.

pub mod context;
pub mod exporter;
pub mod spans;
pub mod wire;

pub use exporter::{Exporter, Settings};
