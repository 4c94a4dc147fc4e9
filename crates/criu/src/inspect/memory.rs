//! What memory a process has, and what it was called: the command line is in its own memory.

use serde::Serialize;

use super::file::Files;
use crate::images::{FILE_MAPPING, GUARD, PAGE, Run, SHARED, Set, schema::View};

/// Gives bytes of a pages file.
pub trait Pages {
    /// Bytes from an offset on; fewer or none if they are not there.
    fn read(&self, name: &str, offset: u64, length: usize) -> Vec<u8>;
}

/// Memory of a process, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Address space.
    pub mapped: u64,
    /// In the images.
    pub stored: u64,
    /// Still at the source.
    pub lazy: u64,
    /// Its mappings, by address.
    pub mappings: Vec<Mapping>,
}

/// A mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mapping {
    /// First address, in hexadecimal.
    pub start: String,
    /// The address behind it.
    pub end: String,
    /// `rwx`, and `s` or `p` for shared and private.
    pub mode: String,
    /// Bytes of it that are in the images.
    pub stored: u64,
    /// A path, `[heap]`, `[stack]` …
    pub what: String,
}

/// `VMA_AREA_STACK`, `VSYSCALL`, `VDSO`, `HEAP`, `SYSVIPC`, `SOCKET`, `VVAR`, `AIORING`, `SHSTK` (`criu/include/image.h`).
const NAMES: [(u64, &str); 9] = [
    (1 << 1, "[stack]"),
    (1 << 2, "[vsyscall]"),
    (1 << 3, "[vdso]"),
    (1 << 5, "[heap]"),
    (1 << 10, "[System V segment]"),
    (1 << 11, "[socket]"),
    (1 << 12, "[vvar]"),
    (1 << 13, "[aio]"),
    (1 << 15, "[shadow stack]"),
];
/// `VMA_AREA_MEMFD`.
const MEMFD: u64 = 1 << 14;
/// `MAP_GROWSDOWN`: the kernel marks the stack with it.
const GROWS_DOWN: u64 = 0x100;

/// The memory of a process.
pub fn of(set: &Set, files: &Files<'_>, pid: i32) -> Memory {
    let Ok(mm) = set.first(&format!("mm-{pid}.img")) else { return Memory::default() };
    let runs: Vec<Run> = super::all(set, &format!("pagemap-{pid}.img")).skip(1).filter_map(|entry| Run::of(&entry).ok()).collect();
    let bytes = |run: &Run| run.count * PAGE;
    let mut memory = Memory {
        stored: runs.iter().filter(|run| run.present).map(bytes).fold(0, u64::saturating_add),
        lazy: runs.iter().filter(|run| run.lazy).map(bytes).fold(0, u64::saturating_add),
        ..Memory::default()
    };
    let mut at = 0;
    for vma in mm.views("vmas").iter().filter(|vma| vma.number("status").unwrap_or(0) & GUARD == 0) {
        let (start, end) = (vma.number("start").unwrap_or(0), vma.number("end").unwrap_or(0));
        memory.mapped = memory.mapped.saturating_add(end.saturating_sub(start));
        while runs.get(at).is_some_and(|run| run.end() <= start) {
            at += 1;
        }
        let inside = runs.get(at..).unwrap_or_default().iter().take_while(|run| run.start < end).filter(|run| run.present);
        let stored = inside.map(|run| run.end().min(end).saturating_sub(run.start.max(start))).fold(0, u64::saturating_add);
        memory.mappings.push(Mapping { start: format!("{start:x}"), end: format!("{end:x}"), mode: mode(vma), stored, what: what(vma, files, &mm) });
    }
    memory
}

fn mode(vma: &View<'_>) -> String {
    let (protection, flags) = (vma.number("prot").unwrap_or(0), vma.number("flags").unwrap_or(0));
    let bit = |bit: u64, word: char| if protection & bit != 0 { word } else { '-' };
    // MAP_SHARED
    [bit(1, 'r'), bit(2, 'w'), bit(4, 'x'), if flags & 1 != 0 { 's' } else { 'p' }].iter().collect()
}

fn what(vma: &View<'_>, files: &Files<'_>, mm: &View<'_>) -> String {
    let number = |field| vma.number(field).unwrap_or(0);
    let status = number("status");
    if status & (FILE_MAPPING | MEMFD) != 0 {
        return files.path(number("shmid")).unwrap_or_else(|| files.what(number("shmid")));
    }
    if let Some((_, name)) = NAMES.iter().find(|(bit, _)| status & bit != 0) {
        return (*name).to_owned();
    }
    if status & SHARED != 0 {
        return format!("[shared {}]", number("shmid"));
    }
    let stack = mm.number("mm_start_stack").unwrap_or(0);
    if number("flags") & GROWS_DOWN != 0 || (number("start") <= stack && stack < number("end")) { "[stack]".into() } else { String::new() }
}

/// Words of a process from its own memory: between two addresses, each ended by a zero.
pub fn words(set: &Set, pid: i32, fields: (&str, &str), pages: &dyn Pages) -> Vec<String> {
    /// Longest command line or environment that is read, in bytes.
    const LONGEST: u64 = 128 << 10;
    let Ok(mm) = set.first(&format!("mm-{pid}.img")) else { return Vec::new() };
    let (Some(start), Some(end)) = (mm.number(fields.0), mm.number(fields.1)) else { return Vec::new() };
    let bytes = read(set, pid, start, end.saturating_sub(start).min(LONGEST), pages);
    let text = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
    if text.is_empty() { Vec::new() } else { text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect() }
}

/// Memory of a process, as far as it is in the images from there on.
fn read(set: &Set, pid: i32, start: u64, length: u64, pages: &dyn Pages) -> Vec<u8> {
    let mut entries = super::all(set, &format!("pagemap-{pid}.img"));
    let Some(id) = entries.next().and_then(|head| head.number("pages_id")) else { return Vec::new() };
    let name = format!("pages-{id}.img");
    let (mut bytes, mut offset, mut wanted) = (Vec::new(), 0_u64, start);
    let end = start.saturating_add(length);
    for run in entries.filter_map(|entry| Run::of(&entry).ok()).filter(|run| run.present) {
        if wanted >= run.start && wanted < run.end() && wanted < end {
            let take = run.end().min(end) - wanted;
            let found = pages.read(&name, offset.saturating_add(wanted - run.start), usize::try_from(take).unwrap_or(0));
            wanted += found.len() as u64;
            let short = (found.len() as u64) < take;
            bytes.extend(found);
            if short {
                break;
            }
        }
        offset = offset.saturating_add(run.count * PAGE);
    }
    bytes
}
