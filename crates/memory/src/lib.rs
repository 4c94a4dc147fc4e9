//! What memory a pod has, and how it travels while the pod runs.
//!
//! ```text
//!   source node                                                        target node
//!   process ── ptrace, once ──▶ userfaultfd ─┐ (or digests of all memory, where that cannot be done)
//!           ◀── PAGEMAP_SCAN, each round ── Tracker ── ranges ──▶ Reader ── pages ──▶ Store (files in tmpfs, CRIU's own layout)
//!                                             │
//!                                           Index: which pages the store has as they are now
//! ```
//!
//! What has not travelled when the pod is frozen goes in the freeze, or after it ([`awaited`]).
//!
//! [`tracker`] says which pages have changed, [`read`] takes them, [`index`] remembers what the other side has, [`store`] is the other side, [`rounds`] decides how
//! often. Nothing here knows of pods, networks or CRIU's images but for the layout of the store's files.

pub mod awaited;
mod changes;
pub mod flags;
mod footprint;
pub mod hazard;
pub mod index;
#[cfg(target_arch = "x86_64")]
mod inject;
pub mod maps;
pub mod pager;
pub mod pending;
pub mod range;
pub mod read;
pub mod rounds;
pub mod scan;
pub mod store;
mod sys;
pub mod tracker;

pub use footprint::{Footprint, footprint};
pub use range::{PAGE, Range};

/// Why memory cannot be tracked or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This kernel or machine cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// The process has ended, or has become another program.
    #[error("process {0} has ended or executed another program")]
    Gone(i32),
    /// This program tracks the process already, and the kernel knows no second tracking beside that.
    #[error("process {0} is still tracked for an earlier migration, which is just being given up")]
    Busy(i32),
    /// A system call failed.
    #[error("{what}: {source}")]
    Call {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn call(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Call { what, source }
    }
}
