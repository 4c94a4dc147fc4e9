//! Compresses pieces of memory where the way to the target is what takes the time, and leaves them as they are where it is not.
//!
//! ```text
//!   piece ─▶ zstd, or as it is: Packer ─▶ queue ─▶ network       time spent waiting for the queue: the network is slower than this thread
//! ```
//! `Auto` tries it when more than half of the time is waiting, and keeps whichever brought more memory across in a second; after a while it looks again.

use std::io;

use godwit_rpc::v1::{Compression, PageChunk};
use zstd::bulk::Compressor;

use super::window::Seen;

/// How hard zstd tries: least.
const LEVEL: i32 = 1;
/// So many windows after the other way was found to be slower, it is tried again.
const PATIENCE: u32 = 16;
/// A piece that would keep more than so many eighths of its length goes as it is.
const EIGHTHS: usize = 7;

/// Whether pieces are compressed. See the module.
#[derive(Debug)]
pub struct Packer {
    wish: Compression,
    choice: Choice,
}

/// What compresses, one for each thread; made when it is needed first.
#[derive(Default)]
pub struct Zstd(Option<Compressor<'static>>);

/// What `Auto` does, from what it has seen.
#[derive(Debug, Default)]
struct Choice {
    packing: bool,
    /// Bytes of memory a second as it is, and packed.
    rates: [Option<f64>; 2],
    /// Windows since both ways were compared.
    age: u32,
}

impl Packer {
    /// As wished.
    #[must_use]
    pub fn new(wish: Compression) -> Self {
        Self { wish, choice: Choice::default() }
    }

    /// Whether the next piece is to be compressed.
    #[must_use]
    pub fn packs(&self) -> bool {
        match self.wish {
            Compression::Never => false,
            Compression::Always => true,
            Compression::Auto => self.choice.packing,
        }
    }

    /// The way is another one: what was seen of it holds no more.
    pub fn forget(&mut self) {
        self.choice.rates = [None; 2];
    }

    /// A window is over, of so many threads.
    pub fn learn(&mut self, seen: &Seen, threads: usize) {
        self.choice.learn(seen.rate(), seen.waits(threads));
    }
}

impl Zstd {
    /// The piece compressed, if it gets smaller by that.
    ///
    /// # Errors
    /// When zstd cannot be set up.
    pub fn pack(&mut self, mut piece: PageChunk) -> io::Result<PageChunk> {
        if piece.data.is_empty() {
            return Ok(piece);
        }
        let zstd = match &mut self.0 {
            Some(zstd) => zstd,
            empty => empty.insert(Compressor::new(LEVEL)?),
        };
        let packed = zstd.compress(&piece.data)?;
        if packed.len() / EIGHTHS < piece.data.len() / 8 {
            piece.data = packed.into();
            piece.packed = true;
        }
        Ok(piece)
    }
}

impl Choice {
    /// So many bytes a second got across, and whether most of the time was waiting: packed is worth a try only where the network is slow; as it is, where the packing is.
    fn learn(&mut self, rate: f64, waits: bool) {
        self.rates[usize::from(self.packing)] = Some(rate);
        self.age += 1;
        let other = self.rates[usize::from(!self.packing)];
        let other_is_better = other.is_none_or(|other| other > rate) || self.age >= PATIENCE;
        let change = match (self.packing, other) {
            (false, _) => waits && other_is_better,
            (true, Some(plain)) if rate < plain => true,
            (true, _) => !waits && self.age >= PATIENCE,
        };
        if change {
            (self.packing, self.age) = (!self.packing, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_fast_network_is_never_given_compressed_memory() {
        let mut choice = Choice::default();
        for _ in 0..100 {
            choice.learn(1600.0, false);
            assert!(!choice.packing);
        }
    }

    #[test]
    fn on_a_slow_network_it_stays_with_what_brings_more_across() {
        let mut choice = Choice::default();
        choice.learn(160.0, true);
        assert!(choice.packing, "it is tried");
        for _ in 0..5 {
            choice.learn(400.0, false);
            assert!(choice.packing, "and kept");
        }
        choice.learn(80.0, true);
        assert!(!choice.packing, "until it is slower");
        for _ in 0..PATIENCE - 1 {
            choice.learn(160.0, true);
            assert!(!choice.packing);
        }
        choice.learn(160.0, true);
        assert!(choice.packing, "later it is tried again");
    }

    #[test]
    fn a_piece_is_packed_if_it_gets_smaller() {
        let mut zstd = Zstd::default();
        let text = PageChunk { data: b"godwit ".repeat(10_000).into(), ..PageChunk::default() };
        let packed = zstd.pack(text.clone()).unwrap();
        assert!(packed.packed && packed.data.len() < text.data.len() / 8);
        assert_eq!(zstd::bulk::decompress(&packed.data, text.data.len()).unwrap(), text.data);
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(1 << 16)
        .collect();
        let piece = zstd.pack(PageChunk { data: noise.clone().into(), ..PageChunk::default() }).unwrap();
        assert!(!piece.packed);
        assert_eq!(piece.data, noise);
        assert!(Packer::new(Compression::Always).packs() && !Packer::new(Compression::Never).packs() && !Packer::new(Compression::Auto).packs());
    }
}
