//! The hand-over: who may run the pod (architecture 2b), as two state machines and one arbiter.
//!
//! ```text
//!   source agent                         Handover (arbiter)                    target agent
//!   ────────────                         ──────────────────                    ────────────
//!   Prepared
//!   Claiming ──── create ───────────────▶ Source                               Prepared (keepers wait)
//!   Sealing   fence, gate shut, freeze, dump, pod sealed
//!   Offered ──── Handoff.Restore ─────────────────────────────────────────────▶ Restoring (to the gate), verify
//!                                                                              Swapping (journaled)
//!                                          Target ◀──────────── CAS ──────────  Owner
//!           ◀──────────────────────────────────────── Handoff.Sealed? ────────
//!            ──── yes ────────────────────────────────────────────────────────▶ Opening (journaled), gates open
//!                                          Running ◀─────────── CAS ──────────  Running (journaled, consumed) → Done
//!   Gone (never thaws) → Retired
//!
//!   Aborting ──── CAS from Source ───────▶ Aborted          (or the target's journaled promise: Never)
//!   Released (thawed)
//! ```
//!
//! **How an agent drives a machine.** It feeds one event at a time into `step`, executes the returned effects *in order*, and only then feeds the next event
//! (long work, a dump or a call, is begun in its place in the order; its result is a later event). [`source::Effect::Journal`] and
//! [`target::Effect::Journal`] mean: make the serialised machine, as it is now, durable (written and fsynced) before the next effect. After a crash the agent
//! reads the journal, feeds `Restarted` first, and then what it finds. Rules the machines rely on:
//!
//! - One call to the API server is outstanding at a time: a new read or write effect replaces the one before it, whose answer is dropped (the write itself may
//!   still take effect: that is what the read after it is for). Reads are uncached GETs, begun when the effect is executed.
//! - A write that may or may not have taken effect (time-out, broken connection) is [`Written::Unknown`], never guessed. Not found, conflict and a refusal by a
//!   CEL rule are [`Written::Conflict`].
//! - `Retry` is fed by a timer (with back-off) while `finished` is false. It never decides anything: it asks again.
//! - Every effect is idempotent: after a restart it may come again.
//! - A `Handover` whose `spec.migrationUid` is another migration's is [`Read::Foreign`].
//!
//! **Rules that go beyond 2b, and why.** (1) Before the offer the target cannot swap, so a dump that failed is thawed at once; `Aborted` follows. (2) The target's
//! journaled promise never to swap suffices for the thaw, whether the API server is there or not. (3) The consumed marker, because of which a later `create` starts
//! the image afresh, is made when something has run, not before the gate opens: otherwise a container whose restore fails between gate and resume could be
//! started afresh by the kubelet while the target gives the pod back. A `create` in between is refused (the kubelet comes again), see [`target::Machine::create`].
//! (4) The fence, see [`seal`]. All four are checked by the model.

pub mod seal;
pub mod source;
pub mod state;
pub mod target;

use serde::{Deserialize, Serialize};

use crate::Failure;
pub use seal::{SealFacts, Sealed};
pub use state::{Owner, Role, may};

/// A `metadata.resourceVersion`. Opaque.
pub type Version = String;

/// What an uncached GET of the `Handover` said.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Read {
    /// It is there, and it is this migration's.
    Found {
        /// `status.state`; [`Owner::Source`] when there is no status yet.
        owner: Owner,
        /// For the next compare-and-swap.
        version: Version,
    },
    /// The API server says that there is none.
    NotFound,
    /// There is one, but of another migration.
    Foreign,
    /// No answer, or one that is none of the above.
    Away,
}

/// What became of a compare-and-swap.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Written {
    /// It took effect.
    Ok {
        /// The version that it made.
        version: Version,
    },
    /// The API server refused it (conflict, not found, rule): it did not take effect and never will.
    Conflict,
    /// No answer: it may have taken effect, or may yet.
    Unknown,
}

/// Where the target stands, as it tells the source (`AskReply`, the outcome of `Handoff.Restore`).
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// Keepers wait; nothing was offered yet.
    Prepared,
    /// Restoring or verifying; no swap was sent.
    Restoring,
    /// A swap was sent or confirmed: the arbiter knows.
    Swapped,
    /// A swap was sent, but the target will not run: it gives back what it may have taken. No promise yet.
    Withdrawing(Failure),
    /// It runs, or has run.
    Running,
    /// Journaled promise: it never ran, never will, and no swap of it is in effect or under way.
    Never(Failure),
}
