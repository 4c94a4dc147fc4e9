//! The Kubernetes side of Godwit's contract: the objects of `godwit.dev/v1alpha1` and every label, annotation and name that more than one part uses.
//!
//! ```text
//!   kubectl migrate ──creates──▶ PodMigration ◀──status── controller
//!                                     │ names
//!                                     ▼
//!                                 Handover  ◀──status.state── the two agents, nobody else
//!
//!   kubectl migrate doctor ──creates──▶ NodeCheck      ◀──status── controller ◀── the node's agent
//!   kubectl migrate trace  ──creates──▶ MigrationTrace ◀──status── controller ◀── both agents
//!
//!   kubectl migrate checkpoint ──creates──▶ PodCheckpoint ◀──status── controller ◀── the pod's agent
//!   kubectl migrate restore    ──creates──▶ PodRestore    ◀──status── controller ◀── the new pod's agent
//! ```
//!
//! And, where the installation says so, one manifest that is not ours: [`lpm`].

pub mod check;
pub mod checkpoint;
mod crds;
pub mod handover;
pub mod lpm;
pub mod migration;
pub mod names;
pub mod trace;

pub use check::{NodeCheck, NodeCheckSpec, NodeCheckStatus};
pub use checkpoint::{PodCheckpoint, PodCheckpointSpec, PodCheckpointStatus, PodRestore, PodRestoreSpec, PodRestoreStatus};
pub use crds::{crds, lpm_crd};
pub use handover::{Handover, HandoverSpec, HandoverState, HandoverStatus};
pub use migration::{PodMigration, PodMigrationSpec, PodMigrationStatus};
pub use trace::{MigrationTrace, MigrationTraceSpec, MigrationTraceStatus};

/// API group of all objects.
pub const GROUP: &str = "godwit.dev";
/// API version of all objects.
pub const VERSION: &str = "v1alpha1";
