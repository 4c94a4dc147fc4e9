//! A library that is preloaded into `criu dump`. CRIU learns which pages a process has from one call, PAGEMAP_SCAN on `/proc/PID/pagemap`; this library answers it for
//! mappings whose pages the target has already: nothing is there. Everything else that CRIU asks goes to the kernel.
//!
//! ```text
//!   criu ── ioctl(pagemap of 4711, PAGEMAP_SCAN, start…end) ──▶ start lies in a hidden mapping?   yes ─▶ "no page up to its end"
//!                                                                                                 no ──▶ the kernel, asked up to the next hidden mapping
//! ```
//! On kernels without that call (before Linux 6.7) it reads the pagemap (`pread`), and finds no entries for them.
//!
//! Whether it worked is not believed but looked up in the images: the agent accepts a dump only if every page of every process is in exactly one of images and page
//! store. A criu that cannot be preloaded (linked statically) merely writes everything.
//!
//! Which mappings: a file that the environment variable [`VARIABLE`] names, see [`encode`]. This crate is also an ordinary library for those who write that file.
#![cfg_attr(feature = "library", no_std)]

#[cfg(feature = "library")]
mod library;
mod table;

#[cfg(not(feature = "library"))]
pub use table::encode;
pub use table::{Hidden, VARIABLE};
