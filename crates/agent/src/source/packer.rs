//! Compresses pieces of memory where the way to the target is what takes the time, and leaves them as they are where it is not.
//!
//! ```text
//!   piece ─▶ Packer ─▶ zstd, or as it is ─▶ queue ─▶ network       time spent waiting for the queue: the network is slower than this thread
//! ```
//! `Auto` tries it when more than half of the time is waiting, and keeps whichever brought more memory across in a second; after a while it looks again.

use std::io;
use std::time::{Duration, Instant};

use godwit_rpc::v1::{Compression, PageChunk};
use zstd::bulk::Compressor;

/// How hard zstd tries: least.
const LEVEL: i32 = 1;
/// Bytes of memory after which both ways are compared.
const WINDOW: u64 = 16 << 20;
/// So many windows after the other way was found to be slower, it is tried again.
const PATIENCE: u32 = 16;
/// A piece that would keep more than so many eighths of its length goes as it is.
const EIGHTHS: usize = 7;

/// See the module.
pub struct Packer {
    wish: Compression,
    choice: Choice,
    window: Window,
    zstd: Option<Compressor<'static>>,
}

#[derive(Debug, Default)]
struct Window {
    begin: Option<Instant>,
    bytes: u64,
    waited: Duration,
}

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
        Self { wish, choice: Choice::default(), window: Window::default(), zstd: None }
    }

    /// A stream begins: what passed since the last one counts for nothing.
    pub fn begin(&mut self) {
        self.window = Window::default();
    }

    /// The piece as it is to travel.
    ///
    /// # Errors
    /// When zstd cannot be set up.
    pub fn pack(&mut self, mut piece: PageChunk) -> io::Result<PageChunk> {
        let wanted = match self.wish {
            Compression::Never => false,
            Compression::Always => true,
            Compression::Auto => self.choice.packing,
        };
        self.window.begin.get_or_insert_with(Instant::now);
        self.window.bytes += piece.data.len() as u64;
        if !wanted || piece.data.is_empty() {
            return Ok(piece);
        }
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            empty => empty.insert(Compressor::new(LEVEL)?),
        };
        let packed = zstd.compress(&piece.data)?;
        if packed.len() / EIGHTHS < piece.data.len() / 8 {
            piece.data = packed;
            piece.packed = true;
        }
        Ok(piece)
    }

    /// So long was waited for the network with the last piece.
    pub fn waited(&mut self, time: Duration) {
        self.window.waited += time;
        let Some(begin) = self.window.begin else { return };
        if self.window.bytes >= WINDOW {
            self.choice.learn(self.window.bytes, begin.elapsed(), self.window.waited);
            self.window = Window::default();
        }
    }
}

impl Choice {
    /// A window is over.
    fn learn(&mut self, bytes: u64, took: Duration, waited: Duration) {
        #[allow(clippy::cast_precision_loss)]
        let rate = bytes as f64 / took.as_secs_f64().max(1e-6);
        self.rates[usize::from(self.packing)] = Some(rate);
        self.age += 1;
        let other = self.rates[usize::from(!self.packing)];
        let other_is_better = other.is_none_or(|other| other > rate) || self.age >= PATIENCE;
        // Packed is worth a try only where the network is slow; as it is, where the packing is.
        let waits = waited > took / 2;
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

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_fast_network_is_never_given_compressed_memory() {
        let mut choice = Choice::default();
        for _ in 0..100 {
            choice.learn(WINDOW, 10 * MS, 2 * MS);
            assert!(!choice.packing);
        }
    }

    #[test]
    fn on_a_slow_network_it_stays_with_what_brings_more_across() {
        let mut choice = Choice::default();
        choice.learn(WINDOW, 100 * MS, 90 * MS);
        assert!(choice.packing, "it is tried");
        for _ in 0..5 {
            choice.learn(WINDOW, 40 * MS, 20 * MS);
            assert!(choice.packing, "and kept");
        }
        choice.learn(WINDOW, 200 * MS, 190 * MS);
        assert!(!choice.packing, "until it is slower");
        for _ in 0..PATIENCE - 1 {
            choice.learn(WINDOW, 100 * MS, 90 * MS);
            assert!(!choice.packing);
        }
        choice.learn(WINDOW, 100 * MS, 90 * MS);
        assert!(choice.packing, "later it is tried again");
    }

    #[test]
    fn a_piece_is_packed_if_it_gets_smaller() {
        let mut packer = Packer::new(Compression::Always);
        let text = PageChunk { data: b"godwit ".repeat(10_000), ..PageChunk::default() };
        let packed = packer.pack(text.clone()).unwrap();
        assert!(packed.packed && packed.data.len() < text.data.len() / 8);
        assert_eq!(zstd::bulk::decompress(&packed.data, text.data.len()).unwrap(), text.data);
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(1 << 16)
        .collect();
        let piece = packer.pack(PageChunk { data: noise.clone(), ..PageChunk::default() }).unwrap();
        assert!(!piece.packed);
        assert_eq!(piece.data, noise);
        assert!(!Packer::new(Compression::Never).pack(text).unwrap().packed);
    }
}
