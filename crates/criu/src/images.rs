//! CRIU's images: is everything there, whole, and consistent, before CRIU sees it? And what CRIU would restore wrongly is put right.
//!
//! ```text
//!   source                                      target
//!   criu dump ends ─▶ seal: manifest.json ────▶ verify: manifest (lengths, digests)                           manifest.rs
//!                                                 every file: magic, messages, payloads             frame.rs, schema.rs
//!                                                 pstree ─ core-N, mm-N, fs-N, fdinfo-N …             tree.rs
//!                                                 fdinfo ─ files ─ terminals, pipes, sockets, ghosts  files.rs
//!                                                 mm-N ─ pagemap-N ─ length of pages-M                memory.rs, samples.rs
//!                                                 mounts, cgroups, seccomp filters                    places.rs
//!                                               rearm: timers that CRIU would restore stopped   timers.rs
//! ```
//! A truncated `pages-*.img` makes CRIU read for ever and fill the disk with its log, so nothing is left to CRIU to find out.
//!
//! The format: two little-endian words of magic, then entries, each a length and a protobuf message, some followed by raw bytes. Messages are read through
//! CRIU's own definitions, which are its stable interface; what a newer CRIU adds is kept, for no message is ever written anew as a whole. Memory pages (but a
//! few), and the content of files, pipes and sockets, are never loaded.

pub mod chain;
pub mod decode;
mod files;
mod frame;
mod kind;
mod manifest;
mod memory;
mod places;
mod samples;
pub mod schema;
mod sockets;
mod timers;
mod tree;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

pub use files::{FILE as FILES, PARTS};
pub use frame::{Image, Payload, Source, Stream};
pub(crate) use frame::{put_entries, write_entries};
pub use kind::{Body, INVENTORY, Kind, is_service, of as kind};
pub(crate) use manifest::renew;
pub use manifest::{FILE as MANIFEST, Manifest, complete, seal, seal_whole};
pub use memory::{FILE as FILE_MAPPING, GUARD, PAGE, Run, SHARED};
pub use samples::Sample;
pub use sockets::Endpoint;
pub(crate) use sockets::end;
pub use timers::rearm;
pub use tree::Process;

use crate::{Problem, descriptors};

/// What was found in a directory of whole images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The process tree, parents before children.
    pub processes: Vec<Process>,
    /// Internet sockets that a restore makes again, in no order.
    pub sockets: Vec<Endpoint>,
    /// Some pages of the processes; none where only the messages were read.
    pub samples: Vec<Sample>,
    /// Number of files.
    pub files: u32,
    /// Their length together, in bytes.
    pub bytes: u64,
    /// Pages of 4096 bytes that are in the images.
    pub pages: u64,
    /// Pages that are still at the source (post-copy).
    pub lazy_pages: u64,
    /// Whether a list of digests said that all is as it was dumped. Without one only the images themselves could be asked.
    pub sealed: bool,
    /// Fields that a newer CRIU wrote and that are not understood here.
    pub unknown: u32,
}

/// The images of one dump: all messages, and the lengths of all files.
#[derive(Clone, Debug, Default)]
pub struct Set {
    /// Length of every file, in bytes.
    pub lengths: BTreeMap<String, u64>,
    /// Every image that has messages.
    pub images: BTreeMap<String, Image>,
    /// The type of every open file, by id.
    files: BTreeMap<u64, u64>,
    /// The ids of all mounts.
    mounts: BTreeSet<u64>,
}

impl Set {
    /// Reads every image in a directory. Each is checked by itself.
    ///
    /// # Errors
    /// [`Problem::Damaged`] with the name of the first bad file.
    pub fn open(directory: &Path) -> Result<Self, Problem> {
        Self::listed(directory, list(directory)?)
    }

    fn listed(directory: &Path, lengths: BTreeMap<String, u64>) -> Result<Self, Problem> {
        let mut set = Self::default();
        for (name, length) in &lengths {
            if let Some(image) = Image::open(directory, name, *length)? {
                set.images.insert(name.clone(), image);
            }
        }
        set.lengths = lengths;
        Ok(set)
    }

    /// Adds a file from anywhere, e.g. out of an archive. Reads no more of it than its messages; what is no image is not read at all.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn add(&mut self, name: &str, length: u64, source: impl Source) -> Result<(), Problem> {
        if let Some(kind) = kind::of(name).filter(|kind| kind.body != Body::Raw) {
            self.images.insert(name.to_owned(), Image::read(name, kind, length, source)?);
        }
        self.lengths.insert(name.to_owned(), length);
        Ok(())
    }

    /// Checks the images against one another.
    ///
    /// # Errors
    /// [`Problem::MissingImage`] or [`Problem::Damaged`] with the name of the first bad file.
    pub fn check(&mut self) -> Result<Summary, Problem> {
        self.files = files::index(self)?;
        self.mounts = places::mounts(self)?;
        let lives = tree::check(self)?;
        let memory = memory::check(self, &lives)?;
        files::check(self, &lives)?;
        places::check(self, &lives)?;
        let unknown = self.images.values().map(|image| image.unknown).fold(0, u32::saturating_add);
        Ok(Summary {
            processes: lives.into_iter().map(|(process, _)| process).collect(),
            sockets: sockets::all(self),
            samples: Vec::new(),
            files: u32::try_from(self.lengths.len()).unwrap_or(u32::MAX),
            bytes: self.lengths.values().fold(0, |sum, length| sum.saturating_add(*length)),
            pages: memory.pages,
            lazy_pages: memory.lazy,
            sealed: false,
            unknown,
        })
    }

    /// An image that has to be there.
    ///
    /// # Errors
    /// [`Problem::MissingImage`] if it is not.
    pub fn image(&self, name: &str) -> Result<&Image, Problem> {
        self.images.get(name).ok_or_else(|| Problem::MissingImage { file: name.to_owned() })
    }

    /// The first message of an image.
    ///
    /// # Errors
    /// If the image is not there or is empty.
    pub fn first(&self, name: &str) -> Result<schema::View<'_>, Problem> {
        self.image(name)?.first().ok_or_else(|| Problem::damaged(name, "it is empty"))
    }

    /// The type of an open file that another image speaks of.
    fn file(&self, by: &str, id: u64) -> Result<u64, Problem> {
        self.files.get(&id).copied().ok_or_else(|| Problem::damaged(by, format!("it speaks of file {id}, which is not in {}", files::FILE)))
    }
}

/// Checks every image in a directory.
///
/// # Errors
/// [`Problem::MissingImage`] or [`Problem::Damaged`] with the name of the first bad file.
pub fn verify(directory: &Path) -> Result<Summary, Problem> {
    let mut lengths = list(directory)?;
    let manifest = manifest::check(directory, &lengths)?;
    lengths.remove(manifest::FILE);
    let mut set = Set::listed(directory, lengths)?;
    if !set.lengths.contains_key(descriptors::FILE) {
        return Err(Problem::MissingImage { file: descriptors::FILE.into() });
    }
    let summary = set.check()?;
    let samples = samples::take(directory, &set, &summary.processes)?;
    Ok(Summary { sealed: manifest.is_some(), samples, ..summary })
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
