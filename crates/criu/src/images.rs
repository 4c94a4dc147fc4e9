//! CRIU's images: is everything there, whole, and consistent, before CRIU sees it? And what CRIU would restore wrongly is put right.
//!
//! ```text
//!   source                                      target
//!   criu dump ends ─▶ seal: manifest.json ────▶ verify: manifest (lengths, digests)
//!                                                 every file: magic, entries, payloads          frame.rs
//!                                                 pstree ─ core-N, mm-N, pagemap-N per process   tree.rs
//!                                                 pagemap-N ─ length of pages-M                  memory.rs
//!                                               rearm: timers that CRIU would restore stopped   timers.rs
//! ```
//! A truncated `pages-*.img` makes CRIU read for ever and fill the disk with its log, so nothing is left to CRIU to find out.
//!
//! The format: two little-endian words of magic, then entries, each a length and a protobuf message, some followed by raw bytes. Only single fields are
//! read, by their numbers (from CRIU's `images/*.proto`, which are its stable interface), so no schema is compiled in, and a change is made byte by byte, in
//! place.

mod frame;
mod kind;
mod manifest;
mod memory;
mod timers;
mod tree;
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub use manifest::{Manifest, complete, seal};
pub use timers::rearm;
pub use tree::Process;

use crate::{Problem, descriptors};
use frame::Image;

/// What was found in a directory of whole images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The process tree, parents before children.
    pub processes: Vec<Process>,
    /// Number of files.
    pub files: u32,
    /// Their length together, in bytes.
    pub bytes: u64,
    /// Pages of 4096 bytes that are in the images.
    pub pages: u64,
    /// Pages that are still at the source (post-copy).
    pub lazy_pages: u64,
}

/// Checks every image in a directory.
///
/// # Errors
/// [`Problem::MissingImage`] or [`Problem::Damaged`] with the name of the first bad file.
pub fn verify(directory: &Path) -> Result<Summary, Problem> {
    let lengths = list(directory)?;
    let manifest = manifest::check(directory, &lengths)?;
    let mut images = BTreeMap::new();
    for (name, length) in &lengths {
        if let Some(image) = Image::read(directory, name, *length)? {
            images.insert(name.clone(), image);
        }
    }
    if !lengths.contains_key(descriptors::FILE) {
        return Err(Problem::MissingImage { file: descriptors::FILE.into() });
    }
    let processes = tree::check(&images)?;
    let memory = memory::check(&images, &lengths)?;
    let files = u32::try_from(lengths.len() - usize::from(manifest.is_some())).unwrap_or(u32::MAX);
    Ok(Summary { processes, files, bytes: lengths.values().sum(), pages: memory.pages, lazy_pages: memory.lazy })
}

/// Names and lengths of the files in a directory.
fn list(directory: &Path) -> Result<BTreeMap<String, u64>, Problem> {
    let mut lengths = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(Problem::read(directory))? {
        let entry = entry.map_err(Problem::read(directory))?;
        let meta = entry.metadata().map_err(Problem::read(entry.path()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !meta.is_file() {
            return Err(Problem::damaged(&name, "not a plain file"));
        }
        lengths.insert(name, meta.len());
    }
    Ok(lengths)
}
