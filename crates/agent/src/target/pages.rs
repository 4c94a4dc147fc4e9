//! The page store of one migration: memory that has arrived while the pod still runs at the source, and its way into CRIU's images.
//!
//! ```text
//!   Handoff.Pages ─▶ <images>/<container>.store/<stream>/pages-<pid>.img     tmpfs, never a disk
//!   Open ─▶ fills: the keeper is told of the store; its pager will fill the processes while they run
//!   images complete ─▶ link: their list of pages ─▶ "lazy" in CRIU's tables, and the pager's table  (or, where CRIU cannot: the store's levels become its `parent`)
//!                      a page that is not there refuses the restore
//!                      pages that come later ─▶ room for them, and the pager's table  ([`super::filling`] fetches them)
//! ```
//! What the store holds is known to this process only. After a restart of the agent it knows of no page, and images that need one are refused.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use blake3::Hasher;
use godwit_criu::images::chain::{self, ByProcess, Level};
use godwit_memory::{
    Range, awaited, pager,
    store::{Part, Store},
};
use godwit_rpc::v1::{Failure, PageChunk, Receipt};

use crate::{
    convert,
    failure::{failure, internal},
};

/// Largest piece of memory, in bytes, that is unpacked; a message of the contract is no longer.
const LARGEST: usize = 8 << 20;
/// What must stay free beside memory that comes later, in bytes.
const SPARE: u64 = 16 << 20;

/// See the module.
pub struct Pages {
    base: PathBuf,
    stores: Mutex<BTreeMap<String, Held>>,
    /// Bytes for which there must be room when they come later, of all containers.
    promised: Mutex<u64>,
}

struct Held {
    store: Store,
    /// The keeper was told of it.
    fills: bool,
}

/// One stream of a round that is arriving; a round may be several, beside each other.
pub struct Arriving<'a> {
    pages: &'a Pages,
    /// Of each container: the level of its store into which this stream brings what is new.
    levels: BTreeMap<String, usize>,
    receipt: Receipt,
    hash: Hasher,
}

impl Pages {
    /// Empty stores below `base` for a migration's images.
    #[must_use]
    pub fn below(base: PathBuf) -> Self {
        Self { base, stores: Mutex::default(), promised: Mutex::default() }
    }

    /// A stream begins; a `fresh` one is the first, whatever was before.
    ///
    /// # Errors
    /// When a store cannot be made, or there were too many streams.
    pub fn begin(&self, containers: &[String], fresh: bool) -> Result<Arriving<'_>, Failure> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let mut levels = BTreeMap::new();
        for name in containers {
            let refuse = |error: std::io::Error| internal("cannot make room for the pod's memory", error);
            if fresh || !stores.contains_key(name) {
                let store = Store::new(&store_of(&self.base.join(name))).map_err(refuse)?;
                stores.insert(name.clone(), Held { store, fills: false });
            }
            if let Some(held) = stores.get_mut(name) {
                levels.insert(name.clone(), held.store.begin().map_err(refuse)?);
            }
        }
        Ok(Arriving { pages: self, levels, receipt: Receipt { beside: true, ..Receipt::default() }, hash: Hasher::new() })
    }

    /// Whether memory of a container has arrived, which will fill its processes; the keeper is told so.
    pub fn fills(&self, container: &str) -> bool {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.get_mut(container).map(|held| held.fills = true).is_some()
    }

    /// Where the store of a container is.
    #[must_use]
    pub fn store(&self, container: &str) -> PathBuf {
        store_of(&self.base.join(container))
    }

    /// Whether what comes later will fit: there is no way back then.
    fn room(&self, images: &Path, awaited: &ByProcess) -> Result<(), Failure> {
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = *promised + awaited.values().flatten().map(|(start, end)| end - start).sum::<u64>();
        let free = nix::sys::statvfs::statvfs(images).map_err(|error| internal("cannot look how much room there is", error))?;
        if free.blocks_available().saturating_mul(free.fragment_size()) > needed.saturating_add(SPARE) {
            *promised = needed;
            return Ok(());
        }
        Err(failure(
            "NoRoomForImages",
            "the memory that is still to come does not fit into the target's /run any more",
            "choose a node with more memory, or enlarge the tmpfs at /run",
        ))
    }

    /// Puts the stored pages of a container below its verified images, if these need any.
    ///
    /// # Errors
    /// When a page that they need is not here.
    pub fn link(&self, container: &str, images: &Path) -> Result<(), Failure> {
        let damaged = |problem: godwit_criu::Problem| convert::criu_failure(&problem.failure(), container);
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let held = stores.remove(container);
        let read = |name| chain::read_list(images, name).map(Option::unwrap_or_default).map_err(damaged);
        let (list, awaited) = (read(chain::LIST)?, read(chain::AWAITED)?);
        if held.as_ref().is_some_and(|held| held.fills) {
            chain::keep_own(images).map_err(damaged)?;
        }
        if list.is_empty() && awaited.is_empty() {
            // Complete as they are. A pager that finds no table does not know that.
            let without = |_| pager::write_table(&store_of(images), &[]).map_err(|error| internal("cannot write the pager's table", error));
            return held.filter(|held| held.fills).map_or(Ok(()), without);
        }
        let lost = |what: String| {
            failure("PagesMissing", format!("container {container}: {what}"), "nothing has run and the pod goes on at the source; migrate again")
        };
        let Held { store, fills } = held.ok_or_else(|| lost("the memory that had arrived is gone (the target's agent was restarted)".into()))?;
        let (lazy, eager) = if fills { chain::split(images, list).map_err(damaged)? } else { (ByProcess::new(), list) };
        let (awaited, unable) = chain::split(images, awaited).map_err(damaged)?;
        if !fills && !awaited.is_empty() || !unable.is_empty() {
            return Err(failure(
                "PostCopyNotPossible",
                format!(
                    "container {container} has memory that changes too late and that CRIU restores before the container runs (locked by mlock, or on huge pages)"
                ),
                "the pod goes on at the source; use memory: PreCopy or Auto",
            ));
        }
        let mut rows = store.rows(&ranges(&lazy)).map_err(|error| lost(error.to_string()))?;
        if !awaited.is_empty() {
            self.room(images, &awaited)?;
            let later = awaited::make(&store_of(images), &ranges(&awaited));
            rows.extend(later.map_err(|error| internal("cannot make room for memory that comes later", error))?);
            rows.sort_unstable_by_key(|row| (row.process, row.range.start));
        }
        let tables = store.tables(&ranges(&eager)).map_err(|error| lost(error.to_string()))?;
        chain::apart(images, &[&lazy, &awaited]).map_err(damaged)?;
        pager::write_table(&store_of(images), &rows).map_err(|error| internal("cannot write the pager's table", error))?;
        if eager.is_empty() {
            return Ok(());
        }
        let levels: Vec<Level> = tables
            .into_iter()
            .map(|table| {
                let parts = |parts: Vec<Part>| parts.iter().map(|part| ((part.range.start, part.range.end), part.here)).collect();
                Level { directory: table.directory, processes: table.processes.into_iter().map(|(process, list)| (process, parts(list))).collect() }
            })
            .collect();
        chain::link(images, &eager, &levels).map_err(damaged)
    }
}

/// The pages of a piece, unpacked. No more than the ranges can hold is ever made of it, whatever it says.
fn contents<'a>(chunk: &'a PageChunk, ranges: &[Range]) -> std::io::Result<Cow<'a, [u8]>> {
    if !chunk.packed {
        return Ok(Cow::Borrowed(&chunk.data));
    }
    let length: u64 = ranges.iter().map(|range| range.end.saturating_sub(range.start)).fold(0, u64::saturating_add);
    let length = usize::try_from(length).ok().filter(|length| *length <= LARGEST).ok_or_else(|| std::io::Error::other("a piece is too large"))?;
    Ok(Cow::Owned(zstd::bulk::decompress(&chunk.data, length)?))
}

fn ranges(list: &ByProcess) -> BTreeMap<i32, Vec<Range>> {
    list.iter().map(|(process, pages)| (*process, pages.iter().map(|(start, end)| Range { start: *start, end: *end }).collect())).collect()
}

/// The page store that belongs to a directory of images.
#[must_use]
pub fn store_of(images: &Path) -> PathBuf {
    images.with_extension("store")
}

impl Arriving<'_> {
    /// Takes one piece.
    ///
    /// # Errors
    /// What is wrong with it, or that there is no room.
    pub fn take(&mut self, chunk: &PageChunk) -> Result<(), Failure> {
        let broken = |what: &str| failure("TransferFailed", format!("memory of container {} did not arrive: {what}", chunk.container), "try again");
        let ranges = convert::page_ranges(&chunk.ranges).ok_or_else(|| broken("an address is missing"))?;
        let data = contents(chunk, &ranges).map_err(|error| broken(&error.to_string()))?;
        let mut stores = self.pages.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let held = stores.get_mut(&chunk.container).zip(self.levels.get(&chunk.container));
        let (held, level) = held.ok_or_else(|| broken("the target pod has no such container"))?;
        held.store.put(*level, chunk.process, &ranges, &data).map_err(|error| {
            if error.raw_os_error() == Some(nix::libc::ENOSPC) {
                failure(
                    "NoRoomForImages",
                    "the pod's memory does not fit into the target's /run any more",
                    "choose a node with more memory, or enlarge the tmpfs at /run",
                )
            } else {
                broken(&error.to_string())
            }
        })?;
        self.hash.update(&data);
        self.receipt.files += 1;
        self.receipt.bytes += data.len() as u64;
        Ok(())
    }

    /// Ends the stream.
    #[must_use]
    pub fn finish(mut self) -> Receipt {
        self.receipt.digest = self.hash.finalize().as_bytes().to_vec();
        self.receipt
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_packed_piece_holds_what_its_ranges_say_and_no_more() {
        let piece = |data: Vec<u8>, packed| PageChunk { data: data.into(), packed, ..PageChunk::default() };
        let (ranges, pages) = ([Range { start: 4096, end: 3 * 4096 }], vec![7; 2 * 4096]);
        let packed = zstd::bulk::compress(&pages, 1).unwrap();
        assert_eq!(contents(&piece(packed.clone(), true), &ranges).unwrap(), pages);
        assert_eq!(contents(&piece(pages.clone(), false), &ranges).unwrap(), pages);
        assert!(contents(&piece(packed, true), &ranges[..0]).is_err(), "more than its ranges hold");
        assert!(contents(&piece(vec![1, 2, 3], true), &ranges).is_err(), "not zstd");
        let endless = [Range { start: 0, end: u64::MAX }];
        assert!(contents(&piece(pages, true), &endless).is_err());
    }
}
