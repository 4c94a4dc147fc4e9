//! The documentation as something that is run: every shell block of it is either run by a test, or says why it cannot be.
//!
//! ```text
//!  page.md ── block ──▶ marks, commands, outputs ── run ──▶ one bash for each command ──▶ compared with the page, or written into it
//!     │
//!     ├────── links ──▶ every link has its file and its heading
//!     └────── book ───▶ sources for mdbook, as they lie in the repository
//! ```
//!
//! How a block is marked stands in docs/documentation.md; [`block`] reads it. This crate knows neither the lab nor a cluster: who runs blocks gives it a
//! [`run::Stage`], a folder with what their commands need.

pub mod block;
pub mod book;
pub mod likeness;
pub mod links;
pub mod normal;
pub mod run;
pub mod stage;
