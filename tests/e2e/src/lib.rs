//! What the scenarios under `tests/` stand on.
//!
//! ```text
//!  tests/main.rs ── list of scenarios ──▶ suite: on all pairs of nodes of one runtime at once
//!                                           │ every scenario (and every RuntimeClass of the source that matters) once for each runtime
//!                                           ▼
//!                                         case: own namespace, pods, moves ──▶ the scenario ──▶ cleanup, proof that nothing is left
//! ```
//! Whatever is cluster-wide (a controller that is killed, a node that goes) runs alone, after the others. At the end virtual machines join the lab for those
//! scenarios that are to run on other kernels and on cgroup v2 too.

pub mod case;
pub mod children;
pub mod contract;
pub mod faults;
pub mod footprint;
pub mod http;
pub mod leftovers;
pub mod machines;
pub mod pairs;
pub mod road;
pub mod scenario;
pub mod suite;
pub mod user;
pub mod watch;

pub use case::Case;
pub use scenario::{OnMachines, Scenario};
