//! Which pages of a process the other side has as they are now, and which are known to hold nothing but zeros. Two bits a page: 64 KiB for each GiB; with digests 4 MiB.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::range::{PAGE, Range, push};

/// Pages in a block: 2 MiB.
const BLOCK: u64 = 512;
const PER_BLOCK: usize = BLOCK as usize;

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    blocks: HashMap<u64, Block>,
    /// What digests are made with, if there are any. Another one for each process, so that what looks alike by accident does so once.
    seed: Option<u64>,
}

#[derive(Debug, Default)]
struct Block {
    stored: [u64; 8],
    zero: [u64; 8],
    /// Of the pages in `stored`, if there are digests.
    digests: Vec<u128>,
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing, or only as it was before it changed.
    No,
    /// The other side has it.
    Stored,
    /// It holds only zeros: nobody needs to have it.
    Zero,
}

fn place(address: u64) -> (u64, usize, u64) {
    let page = address / PAGE;
    let within = page % BLOCK;
    (page / BLOCK, usize::try_from(within / 64).unwrap_or(0), 1 << (within % 64))
}

fn within(address: u64) -> usize {
    usize::try_from(address / PAGE % BLOCK).unwrap_or(0)
}

impl Index {
    /// One that keeps digests of what the other side has.
    #[must_use]
    pub fn with_digests() -> Self {
        Self { blocks: HashMap::new(), seed: Some(RandomState::new().hash_one(0)) }
    }

    /// Notes that the other side has the page at `address` with this content.
    pub fn stored_as(&mut self, address: u64, page: &[u8]) {
        self.set(address, Known::Stored);
        let Some(seed) = self.seed else { return };
        let block = self.blocks.entry(place(address).0).or_default();
        block.digests.resize(PER_BLOCK, 0);
        block.digests[within(address)] = xxh3_128_with_seed(page, seed);
    }

    /// Whether the other side has the page at `address` with this content. Without digests: never.
    #[must_use]
    pub fn has(&self, address: u64, page: &[u8]) -> bool {
        let (Some(seed), Known::Stored) = (self.seed, self.get(address)) else { return false };
        let digest = self.blocks.get(&place(address).0).and_then(|block| block.digests.get(within(address)));
        digest.is_some_and(|digest| *digest == xxh3_128_with_seed(page, seed))
    }

    /// What is known of the page at `address`.
    #[must_use]
    pub fn get(&self, address: u64) -> Known {
        let (block, word, bit) = place(address);
        match self.blocks.get(&block) {
            Some(block) if block.stored[word] & bit != 0 => Known::Stored,
            Some(block) if block.zero[word] & bit != 0 => Known::Zero,
            _ => Known::No,
        }
    }

    /// Sets what is known of the page at `address`.
    pub fn set(&mut self, address: u64, known: Known) {
        let (block, word, bit) = place(address);
        if known == Known::No && !self.blocks.contains_key(&block) {
            return;
        }
        let block = self.blocks.entry(block).or_default();
        block.stored[word] &= !bit;
        block.zero[word] &= !bit;
        match known {
            Known::No => {}
            Known::Stored => block.stored[word] |= bit,
            Known::Zero => block.zero[word] |= bit,
        }
    }

    /// Forgets all pages of a range.
    pub fn forget(&mut self, range: Range) {
        for address in range.pages() {
            self.set(address, Known::No);
        }
    }

    /// The pages of `ranges` of which this is known, in order.
    #[must_use]
    pub fn pick(&self, ranges: &[Range], known: Known) -> Vec<Range> {
        let mut found = Vec::new();
        let mut here = (u64::MAX, None);
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                // One word of bits: up to 64 pages.
                let (block, word, bit) = place(at);
                if here.0 != block {
                    here = (block, self.blocks.get(&block));
                }
                let (stored, zero) = here.1.map_or((0, 0), |block| (block.stored[word], block.zero[word]));
                let bits = match known {
                    Known::No => !(stored | zero),
                    Known::Stored => stored,
                    Known::Zero => zero,
                };
                let first = u64::from(bit.trailing_zeros());
                let end = range.end.min(at + (64 - first) * PAGE);
                let mut bits = bits >> first;
                let mut page = at;
                while page < end && bits != 0 {
                    let (skipped, length) = (bits.trailing_zeros(), (bits >> bits.trailing_zeros()).trailing_ones());
                    let start = page + u64::from(skipped) * PAGE;
                    let stop = (start + u64::from(length) * PAGE).min(end);
                    if start < stop {
                        push(&mut found, Range { start, end: stop });
                    }
                    page = start + u64::from(length) * PAGE;
                    bits = bits.checked_shr(skipped + length).unwrap_or(0);
                }
                at = end;
            }
        }
        found
    }

    /// Bytes that the other side has.
    #[must_use]
    pub fn stored(&self) -> u64 {
        let pages: u32 = self.blocks.values().flat_map(|block| block.stored).map(u64::count_ones).sum();
        u64::from(pages) * PAGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_known_by_their_digests() {
        let (one, other) = ([1u8; 4096], [2u8; 4096]);
        let (mut with, mut without) = (Index::with_digests(), Index::default());
        for index in [&mut with, &mut without] {
            assert!(!index.has(PAGE, &one));
            index.stored_as(PAGE, &one);
            assert_eq!(index.get(PAGE), Known::Stored);
        }
        assert!(with.has(PAGE, &one) && !with.has(PAGE, &other) && !with.has(2 * PAGE, &one));
        assert!(!without.has(PAGE, &one), "nothing is known without digests");
        with.stored_as(PAGE, &other);
        assert!(!with.has(PAGE, &one) && with.has(PAGE, &other));
        with.set(PAGE, Known::Zero);
        assert!(!with.has(PAGE, &other));
    }

    #[test]
    fn every_page_is_one_thing() {
        let mut index = Index::default();
        let at = |page: u64| page * PAGE;
        for page in 500..520 {
            index.set(at(page), Known::Stored);
        }
        index.set(at(510), Known::Zero);
        index.set(at(511), Known::No);
        index.set(at(9_999), Known::No);
        let all = [Range { start: at(490), end: at(600) }];
        let range = |start, end| Range { start: at(start), end: at(end) };
        assert_eq!(index.pick(&all, Known::Stored), [range(500, 510), range(512, 520)]);
        assert_eq!(index.pick(&all, Known::Zero), [range(510, 511)]);
        assert_eq!(index.stored(), 18 * PAGE);
        // Against every page one by one, from and to everywhere in a word.
        for (start, end) in [(490, 600), (501, 502), (509, 513), (511, 577), (512, 640), (447, 512), (0, 2000)] {
            for known in [Known::No, Known::Stored, Known::Zero] {
                let picked = index.pick(&[range(start, end)], known);
                for page in start..end {
                    assert_eq!(picked.iter().any(|one| one.start <= at(page) && at(page) < one.end), index.get(at(page)) == known, "{page} {known:?}");
                }
                assert!(picked.windows(2).all(|pair| pair[0].end < pair[1].start) && picked.iter().all(|one| one.start >= at(start) && one.end <= at(end)));
            }
        }
        index.forget(range(495, 515));
        assert_eq!(index.pick(&all, Known::Stored), [range(515, 520)]);
        assert_eq!(index.get(at(510)), Known::No);
    }
}
