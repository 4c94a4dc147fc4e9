//! `pagemap-*.img` against `pages-*.img`: each map names its pages file, and says how many pages it takes from it, in order.

use std::collections::BTreeMap;

use super::frame::Image;
use super::wire;
use crate::Problem;

/// Bytes of a page on every architecture that Godwit runs on.
const PAGE: u64 = 4096;
/// Flags of an entry (`criu/include/pagemap.h`).
const IN_PARENT: u64 = 1;
const LAZY: u64 = 2;
const PRESENT: u64 = 4;

/// What the maps add up to.
#[derive(Debug, Default)]
pub struct Memory {
    pub pages: u64,
    pub lazy: u64,
}

pub fn check(images: &BTreeMap<String, Image>, lengths: &BTreeMap<String, u64>) -> Result<Memory, Problem> {
    let mut memory = Memory::default();
    let mut used: BTreeMap<u64, u64> = BTreeMap::new();
    for (name, image) in images.iter().filter(|(name, _)| name.starts_with("pagemap-")) {
        let (head, entries) = image.entries.split_first().ok_or_else(|| Problem::damaged(name, "it has no head"))?;
        let id = wire::number(head, 1).ok_or_else(|| Problem::damaged(name, "its head names no pages"))?;
        for entry in entries {
            // Field 2 is the old 32-bit count, 5 the new one.
            let count = wire::number(entry, 5).or_else(|| wire::number(entry, 2)).ok_or_else(|| Problem::damaged(name, "an entry without a count"))?;
            // Without flags: an image of before CRIU 2, where all pages are present.
            let flags = wire::number(entry, 4).unwrap_or(if wire::number(entry, 3) == Some(1) { IN_PARENT } else { PRESENT });
            if flags & IN_PARENT != 0 {
                return Err(Problem::damaged(name, "it needs the images of an earlier dump"));
            }
            if flags & PRESENT != 0 {
                *used.entry(id).or_default() += count;
                memory.pages += count;
            } else if flags & LAZY != 0 {
                memory.lazy += count;
            }
        }
        used.entry(id).or_default();
    }
    for (id, pages) in used {
        let name = format!("pages-{id}.img");
        match lengths.get(&name) {
            Some(length) if *length == pages * PAGE => {}
            Some(length) => {
                return Err(Problem::damaged(&name, format!("{length} bytes, but the maps speak of {pages} pages")));
            }
            None if pages == 0 => {}
            None => return Err(Problem::MissingImage { file: name }),
        }
    }
    Ok(memory)
}
