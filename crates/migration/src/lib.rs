//! The pure heart of a live migration: what can move ([`plan`]), who may run ([`handover`]), how long it stood still ([`timeline`]).
//!
//! Nothing here reads a clock, a file or a socket and nothing knows Kubernetes types: decisions go from values to values, so that they can be tested
//! exhaustively and model-checked (`tests/`), and be replayed from a journal.
//!
//! ```text
//!   controller ── what both agents say of their nodes ──▶ plan::compare ──▶ blockers, warnings
//!   source agent ── events ──▶ handover::source::Machine ──▶ effects ──▶ source agent
//!   target agent ── events ──▶ handover::target::Machine ──▶ effects ──▶ target agent
//!   both agents  ── steps  ──▶ timeline::freeze ──▶ what the freeze was spent on
//!   any reason   ──────────────▶ catalogue::of    ──▶ cause and remedy in plain words
//! ```

pub mod catalogue;
pub mod failure;
pub mod handover;
pub mod plan;
pub mod timeline;

pub use failure::Failure;
