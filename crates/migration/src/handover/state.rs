//! The arbiter's four words and who may change which into which.
//!
//! ```text
//!              target: restored, verified, held           target: it runs
//!   Source ───────────────────────────────────▶ Target ───────────────────▶ Running
//!     │ ▲                                         │
//!     │ └─────────────────────────────────────────┘
//!     │        target: proof that nothing ran
//!     ▼ source: taken back
//!   Aborted
//! ```

use serde::{Deserialize, Serialize};

/// Who owns the pod, as the `Handover` object says. A `Handover` without status is read as [`Owner::Source`].
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// The source owns the pod; it may be sealed meanwhile.
    Source,
    /// The target owns the pod; its gate may open once the source confirms that it is sealed.
    Target,
    /// The target runs, or has run. Final.
    Running,
    /// The migration is over; the source owns the pod. Final.
    Aborted,
}

impl Owner {
    /// Whether nothing changes any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Running | Self::Aborted)
    }
}

/// The two writers of a `Handover`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The agent on the node that the pod leaves.
    Source,
    /// The agent on the node that the pod goes to.
    Target,
}

/// Whether `role` may change `from` into `to`. The API server enforces the same table, without the role, by a CEL rule of the CRD.
#[must_use]
pub fn may(from: Owner, to: Owner, role: Role) -> bool {
    matches!(
        (from, to, role),
        (Owner::Source, Owner::Target, Role::Target)
            | (Owner::Target, Owner::Running, Role::Target)
            | (Owner::Target, Owner::Source, Role::Target)
            | (Owner::Source, Owner::Aborted, Role::Source)
    )
}
