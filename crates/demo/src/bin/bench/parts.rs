//! What a GiB of memory costs of a processor on its way, each part alone: the agents' own functions, one after the other on one thread.
//!
//! ```text
//!   read::pages ── digest ── (compression, framing, TLS, network: see tls.rs) ── digest ── Store::put
//!   source                                                                      target
//! ```

use std::io;

use anyhow::{Context, Result};
use godwit_demo::numbers::Row;
use godwit_memory::index::Index;
use godwit_memory::range::{PAGE, Range};
use godwit_memory::read::{self, PIECE};
use godwit_memory::store::Store;

use crate::processor::spent;
use crate::tls::{CASE, memory};

/// On a tmpfs, as the agents' stores are.
const STORE: &str = "/dev/shm/godwit-bench-store";
/// Says which process a page is of; nobody asks here.
const PROCESS: i32 = 1;

/// Measures each part so many times.
pub fn measure(times: usize) -> Result<Vec<Row>> {
    let memory = memory();
    let (mut reads, mut digests, mut puts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..times {
        reads.push(seconds(|| read(&memory))?);
        digests.push(seconds(|| {
            blake3::Hasher::new().update(&memory).finalize();
            Ok(())
        })?);
        puts.push(seconds(|| put(&memory))?);
        // It has been measured; and the next one makes its own.
        std::fs::remove_dir_all(STORE).with_context(|| format!("{STORE} cannot be removed"))?;
    }
    let row = |part: &str, samples: &[f64]| Row::of(CASE, part, "processor time", "s", samples);
    let rows = [row("pages read out of a process", &reads), row("the digest, on each side", &digests), row("pages put into the store", &puts)];
    Ok(rows.into_iter().flatten().collect())
}

fn seconds(work: impl FnOnce() -> io::Result<()>) -> Result<f64> {
    let before = spent()?;
    work()?;
    Ok(spent()? - before)
}

/// Pages of this process: the calls, the search for zeros and the copies are those for another one.
fn read(memory: &[u8]) -> io::Result<()> {
    let start = (memory.as_ptr() as u64).next_multiple_of(PAGE);
    let end = (memory.as_ptr() as u64 + memory.len() as u64) / PAGE * PAGE;
    read::pages(std::process::id().cast_signed(), &[Range { start, end }], &mut Index::default(), |piece| {
        std::hint::black_box(piece);
        Ok(())
    })
}

fn put(memory: &[u8]) -> io::Result<()> {
    let mut store = Store::new(STORE.as_ref())?;
    let level = store.begin()?;
    let mut start = 0;
    for piece in memory.chunks(PIECE) {
        let end = start + piece.len() as u64;
        store.put(level, PROCESS, &[Range { start, end }], piece)?;
        start = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn each_part_does_its_work() {
        let memory = vec![7; 3 * PIECE];
        // Processor time may be counted in ticks, of which a short piece of work sees none.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while seconds(|| read(&memory)).unwrap() <= 0.0 {
            assert!(std::time::Instant::now() < end, "reading takes no time");
        }
        put(&memory).unwrap();
        assert_eq!(std::fs::metadata(format!("{STORE}/0/pages-1.img")).unwrap().len(), 3 * PIECE as u64);
        std::fs::remove_dir_all(STORE).unwrap();
    }
}
