//! A library that is preloaded into `criu dump`. CRIU learns which pages a process has from one call, PAGEMAP_SCAN on `/proc/PID/pagemap`; this library answers it for
//! mappings whose pages the target has already: nothing is there. And it learns which mappings there are, and their flags, from `/proc/PID/smaps`, for which the kernel looks at every
//! page; this library opens in its place a file that the agent has written in the freeze, with what CRIU uses of it. Everything else that CRIU asks goes to the kernel.
//!
//! ```text
//!   criu ── ioctl(pagemap of 4711, PAGEMAP_SCAN, start…end) ──▶ start lies in a hidden mapping?   yes ─▶ "no page up to its end"
//!                                                                                                 no ──▶ the kernel, asked up to the next hidden mapping
//!      ── openat(4711, "smaps") ────────────────────────▶ has the agent written one?              yes ─▶ that one
//!                                                                                                 no ──▶ the kernel's
//! ```
//! On kernels without PAGEMAP_SCAN (before Linux 6.7) it reads the pagemap (`pread`), and finds no entries for them.
//!
//! Whether it worked is not believed but looked up in the images: the agent accepts a dump only if every page of every process is in exactly one of images and page
//! store. A criu that cannot be preloaded (linked statically) merely writes everything.
//!
//! Which mappings: a file that the environment variable [`VARIABLE`] names, see [`encode`], and one beside it for each process, see [`smaps_of`]. This crate is also an ordinary library for those who write that file.
#![cfg_attr(feature = "library", no_std)]

#[cfg(feature = "library")]
mod library;
mod table;

pub use table::{Hidden, VARIABLE};
#[cfg(not(feature = "library"))]
pub use table::{encode, smaps_of};
