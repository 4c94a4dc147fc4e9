//! What must be copied and removed so that a copy made at one index becomes the directory at a later one.
//!
//! A file that changes while it is being copied must be copied again. Every change is caught by one of these rules:
//!
//! | changed how | caught by |
//! |---|---|
//! | written, renamed, replaced, attributes | inode, size, mode, owner, mtime or ctime differ |
//! | in the same tick of the kernel's clock in which the old index read it | ctime not clearly before the old index began |
//! | through a shared mapping: the time changes only with the first write after a write-back, on tmpfs never | it was mapped at either index, or the directory is in memory |

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Entry, Index, Type};

/// File times come from a clock that moves with the timer tick, at most 10 ms (CONFIG_HZ=100); the rest is for a clock that is being slewed.
const TICK_NS: i128 = 100_000_000;

/// A difference between two indexes, relative paths in order.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Changes {
    /// To be copied.
    pub changed: Vec<PathBuf>,
    /// To be removed first.
    pub removed: Vec<Removal>,
    /// Bytes of the files among `changed`.
    pub bytes: u64,
}

/// Something to remove.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub enum Removal {
    /// The entry with everything below.
    Tree(PathBuf),
    /// Everything below the directory, not the directory.
    Content(PathBuf),
    /// If it is a directory, that with everything below: something else is to take its place.
    Obstacle(PathBuf),
}

impl Removal {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Tree(path) | Self::Content(path) | Self::Obstacle(path) => path,
        }
    }
}

impl Changes {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

impl Index {
    /// What has changed since `old`. Against [`Index::empty`] it is everything.
    #[must_use]
    pub fn changes(&self, old: &Self) -> Changes {
        let mut changes = Changes::default();
        let mut emptied: Option<&Path> = None;
        for (path, entry) in &self.entries {
            let before = old.entries.get(path);
            if !emptied.is_some_and(|emptied| path.starts_with(emptied)) {
                emptied = None;
            }
            match entry.kind {
                Type::Whiteout => {
                    if before.is_none_or(|before| before.kind != Type::Whiteout) {
                        changes.removed.push(Removal::Tree(path.clone()));
                    }
                    continue;
                }
                Type::Socket => {
                    if before.is_some_and(|before| before.kind != Type::Socket) {
                        changes.removed.push(Removal::Tree(path.clone()));
                    }
                    continue;
                }
                // The directory was made anew: what the copy has below it, from lower layers or from before, must go, and all of it comes again.
                Type::Directory { opaque: true, .. } if before.is_none_or(|before| before.kind != entry.kind || before.ino != entry.ino) => {
                    changes.removed.push(Removal::Content(path.clone()));
                    emptied.get_or_insert(path);
                }
                _ => {}
            }
            if before.is_some_and(|before| matches!(before.kind, Type::Directory { .. })) && !matches!(entry.kind, Type::Directory { .. }) {
                changes.removed.push(Removal::Tree(path.clone()));
            }
            if before.is_none() && self.overlay && !matches!(entry.kind, Type::Directory { .. }) {
                // It may hide a directory of the lower layers, which the copy has.
                changes.removed.push(Removal::Obstacle(path.clone()));
            }
            if emptied.is_some() || before.is_none_or(|before| self.differs(path, entry, before, old)) {
                changes.changed.push(path.clone());
                if entry.kind == Type::File {
                    changes.bytes += entry.size.min(entry.allocated);
                }
            }
        }
        let mut gone: Option<&Path> = None;
        for path in old.entries.keys().filter(|path| !self.entries.contains_key(*path)) {
            if !gone.is_some_and(|gone| path.starts_with(gone)) {
                changes.removed.push(Removal::Tree(path.clone()));
                gone = Some(path);
            }
        }
        changes.removed.sort();
        changes.removed.dedup();
        changes
    }

    fn differs(&self, path: &Path, now: &Entry, before: &Entry, old: &Self) -> bool {
        let silent = now.kind == Type::File && (self.memory || self.mapped.contains(path) || old.mapped.contains(path));
        silent || !same(now, before) || now.ctime_ns >= old.started_ns - TICK_NS
    }
}

/// A directory's size and allocation are its filesystem's own business.
fn same(a: &Entry, b: &Entry) -> bool {
    let neutral = |entry: &Entry| match entry.kind {
        Type::Directory { .. } => Entry { size: 0, allocated: 0, ..*entry },
        _ => Entry { allocated: 0, ..*entry },
    };
    neutral(a) == neutral(b)
}
