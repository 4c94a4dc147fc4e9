//! Images whose pages have travelled before: the dump's own tables, and below them levels of pages that CRIU reads as the images of earlier dumps.
//!
//! ```text
//!   source: dump ends ─▶ present: which pages CRIU wrote ─▶ compared with the frozen processes ─▶ pages.store, sealed by the manifest
//!
//!   target: images                       page store                images, as CRIU reads them
//!           pagemap-1.img  A…B     +     0/ pages-1.img C D   ─▶   pagemap-1.img              A B in pages-2.img, C D E "in parent"
//!           pages-2.img                  1/ pages-1.img E          pages-2.img
//!           pages.store    C D E                                   parent/pagemap-1.img       E here, C D "in parent"
//!                                                                  parent/parent/…            C D here
//! ```
//! `parent`, `PE_PARENT` and the order of pages are CRIU's own for incremental dumps (criu/pagemap.c): a table lists pages by address, pages that are "here" lie in the
//! file in that order. Every page of the list must be in exactly one place; where it is not, nothing is restored.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::wire::{Fields, Value, put_varint};
use crate::Problem;

/// Name of the list of pages that are in the page store, among the images.
pub const LIST: &str = "pages.store";
/// Name of the list of pages that come when the processes run again (post-copy).
pub const AWAITED: &str = "pages.awaited";
/// Name of the directory with the images of an earlier dump (`CR_PARENT_LINK`).
pub const PARENT: &str = "parent";

const PAGE: u64 = 4096;
const IN_PARENT: u64 = 1;
const LAZY: u64 = 2;
const PRESENT: u64 = 4;
/// First and second word of a pagemap image.
const MAGIC: [u32; 2] = [0x5456_4319, 0x5608_4025];

/// Pages one behind the other: the address of the first byte, and of the byte behind the last.
pub type Pages = (u64, u64);
/// By pid inside the container, in order of addresses.
pub type ByProcess = BTreeMap<i32, Vec<Pages>>;

/// One level of the page store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Its directory, with a file `pages-<pid>.img` for each process that has pages in it.
    pub directory: PathBuf,
    /// By process, in order: pages, and whether they are in this level's file or below.
    pub processes: BTreeMap<i32, Vec<(Pages, bool)>>,
}

struct Entry {
    pages: Pages,
    message: Vec<u8>,
}

/// The pages that a dump has written, by process.
///
/// # Errors
/// When a table is damaged.
pub fn present(directory: &Path) -> Result<ByProcess, Problem> {
    let mut found = ByProcess::new();
    for entry in fs::read_dir(directory).map_err(Problem::read(directory))? {
        let name = entry.map_err(Problem::read(directory))?.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix("pagemap-").and_then(|rest| rest.strip_suffix(".img"));
        let Some(process) = process.and_then(|process| process.parse::<i32>().ok()) else { continue };
        let (_, entries) = read(directory, &name)?;
        let mut pages: Vec<Pages> = Vec::new();
        for entry in entries.iter().filter(|entry| number(&entry.message, 4).unwrap_or(PRESENT) & PRESENT != 0) {
            match pages.last_mut() {
                Some(last) if last.1 == entry.pages.0 => last.1 = entry.pages.1,
                _ => pages.push(entry.pages),
            }
        }
        found.insert(process, pages);
    }
    Ok(found)
}

/// Writes a list of pages ([`LIST`] or [`AWAITED`]); before the manifest.
///
/// # Errors
/// If it cannot be written.
pub fn write_list(directory: &Path, name: &str, list: &ByProcess) -> io::Result<()> {
    let mut bytes = Vec::new();
    for (process, pages) in list {
        for (start, end) in pages {
            for word in [u64::try_from(*process).unwrap_or(0), *start, *end] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
    }
    fs::write(directory.join(name), bytes)
}

/// Reads a list; `None` if these images have none.
///
/// # Errors
/// When it is damaged.
pub fn read_list(directory: &Path, name: &str) -> Result<Option<ByProcess>, Problem> {
    let path = directory.join(name);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Problem::read(path)(error)),
    };
    let damaged = || Problem::damaged(name, "it is not a list of pages");
    let mut list = ByProcess::new();
    if bytes.len() % 24 != 0 {
        return Err(damaged());
    }
    for row in bytes.chunks_exact(24) {
        let word = |at: usize| row[at..at + 8].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let process = i32::try_from(word(0)).ok().filter(|process| *process > 0).ok_or_else(damaged)?;
        let (start, end) = (word(8), word(16));
        let pages = list.entry(process).or_default();
        let ordered = pages.last().is_none_or(|last: &Pages| last.1 <= start);
        if !ordered || start >= end || start % PAGE != 0 || end % PAGE != 0 {
            return Err(damaged());
        }
        pages.push((start, end));
    }
    Ok(Some(list))
}

/// Puts the levels (the lowest first) below the images, so that every page of the list is found through them. The levels stay where they are: their files get a second
/// name. Verify the images before.
///
/// # Errors
/// When a page is in the images and in the list, a process has no images, a level does not hold what it lists, or a file cannot be written.
pub fn link(directory: &Path, list: &ByProcess, levels: &[Level]) -> Result<(), Problem> {
    for (process, pages) in list {
        add(directory, *process, pages)?;
    }
    // From above: each is `parent` of the one before it, the highest one of the images.
    let mut place = directory.to_path_buf();
    for level in levels.iter().rev() {
        place.push(PARENT);
        fs::create_dir(&place).map_err(Problem::read(&place))?;
        for (process, parts) in &level.processes {
            check(level, *process, parts)?;
            let pages = format!("pages-{process}.img");
            fs::hard_link(level.directory.join(&pages), place.join(&pages)).map_err(Problem::read(place.join(&pages)))?;
            let name = format!("pagemap-{process}.img");
            let entries = parts.iter().map(|(pages, here)| entry(*pages, if *here { PRESENT } else { IN_PARENT })).collect();
            let mut head = vec![0x08];
            put_varint(&mut head, u64::try_from(*process).unwrap_or(0));
            write(&place.join(&name), &head, entries, &name)?;
        }
    }
    Ok(())
}

/// Parts the list: processes whose pages CRIU can leave to a pager, and those where it cannot (`vma_entry_can_be_lazy` in criu/include/vma.h: memory that is locked).
///
/// # Errors
/// When an image is damaged.
pub fn split(directory: &Path, list: ByProcess) -> Result<(ByProcess, ByProcess), Problem> {
    let (mut lazy, mut eager) = (ByProcess::new(), ByProcess::new());
    for (process, pages) in list {
        let mappings = lazy_mappings(directory, process)?;
        let all = pages.iter().all(|(start, end)| mappings.iter().any(|(first, last)| first <= start && end <= last));
        (if all { &mut lazy } else { &mut eager }).insert(process, pages);
    }
    Ok((lazy, eager))
}

/// Mappings that CRIU gives to a pager, joined where they touch.
fn lazy_mappings(directory: &Path, process: i32) -> Result<Vec<Pages>, Problem> {
    const NEEDED: u64 = 0x22; // MAP_PRIVATE, MAP_ANONYMOUS
    const FORBIDDEN: u64 = 0x4_2000; // MAP_HUGETLB, MAP_LOCKED
    let name = format!("mm-{process}.img");
    let path = directory.join(&name);
    let messages = messages(&path, &name)?;
    let message = messages.first().ok_or_else(|| Problem::damaged(&name, "it is empty"))?;
    let mut found: Vec<Pages> = Vec::new();
    for field in Fields(message).filter(|field| field.number == 14) {
        let Value::Bytes(mapping) = field.value else { continue };
        let field = |wanted| number(mapping, wanted).ok_or_else(|| Problem::damaged(&name, "a mapping lacks a field"));
        let (start, end, flags, status) = (field(1)?, field(2)?, field(6)?, field(7)?);
        if flags & NEEDED == NEEDED && flags & FORBIDDEN == 0 && status & super::memory::KERNELS == 0 {
            match found.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => found.push((start, end)),
            }
        }
    }
    Ok(found)
}

/// Tells CRIU to restore itself all pages that are in the images: it marks as "lazy" whatever it could leave to a pager, and with a pager it does. For every restore with one.
///
/// # Errors
/// When a table is damaged or cannot be written.
pub fn keep_own(directory: &Path) -> Result<(), Problem> {
    for process in present(directory)?.into_keys() {
        let name = format!("pagemap-{process}.img");
        let (head, entries) = read(directory, &name)?;
        let own = |kept: Entry| if number(&kept.message, 4) == Some(PRESENT | LAZY) { entry(kept.pages, PRESENT) } else { kept };
        write(&directory.join(&name), &head, entries.into_iter().map(own).collect(), &name)?;
    }
    Ok(())
}

/// That no page which a pager fills is in two of the lists, or in the images as well. The tables say nothing of those pages: CRIU gives all memory that can be left to a pager to it
/// (`vma_entry_can_be_lazy`), with or without an entry, and reads entries one by one. Verify the images before.
///
/// # Errors
/// When a page is in two places, or a process has no images.
pub fn apart(directory: &Path, lists: &[&ByProcess]) -> Result<(), Problem> {
    let mut all: BTreeMap<i32, Vec<Pages>> = BTreeMap::new();
    for (process, pages) in lists.iter().copied().flatten() {
        all.entry(*process).or_default().extend(pages);
    }
    if all.is_empty() {
        return Ok(());
    }
    let own = present(directory)?;
    for (process, mut pages) in all {
        let name = format!("pagemap-{process}.img");
        pages.extend(own.get(&process).ok_or_else(|| Problem::MissingImage { file: name.clone() })?);
        pages.sort_unstable();
        in_one_place(&name, pages.iter().copied())?;
    }
    Ok(())
}

/// Of a table, in order of addresses.
fn in_one_place(name: &str, pages: impl Iterator<Item = Pages>) -> Result<(), Problem> {
    let mut end = 0;
    for (start, next) in pages {
        if start < end {
            return Err(Problem::damaged(name, format!("the page at {start:#x} is in two places")));
        }
        end = next;
    }
    Ok(())
}

/// Pages of the levels below.
fn add(directory: &Path, process: i32, pages: &[Pages]) -> Result<(), Problem> {
    let name = format!("pagemap-{process}.img");
    if !directory.join(&name).exists() {
        return Err(Problem::MissingImage { file: name });
    }
    let (head, mut entries) = read(directory, &name)?;
    if entries.iter().any(|entry| number(&entry.message, 4).unwrap_or(PRESENT) & IN_PARENT != 0) {
        return Err(Problem::damaged(&name, "it needs the images of an earlier dump"));
    }
    entries.extend(pages.iter().map(|pages| entry(*pages, IN_PARENT)));
    write(&directory.join(&name), &head, entries, &name)
}

/// The file of a process in a level must be as long as its table says.
fn check(level: &Level, process: i32, parts: &[(Pages, bool)]) -> Result<(), Problem> {
    let name = format!("pages-{process}.img");
    let path = level.directory.join(&name);
    let wanted: u64 = parts.iter().filter(|(_, here)| *here).map(|((start, end), _)| end - start).sum();
    let length = match fs::metadata(&path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound && wanted == 0 => {
            fs::write(&path, []).map_err(Problem::read(&path))?;
            0
        }
        Err(error) => return Err(Problem::read(path)(error)),
    };
    if length == wanted { Ok(()) } else { Err(Problem::damaged(&name, format!("{length} bytes instead of {wanted}"))) }
}

fn read(directory: &Path, name: &str) -> Result<(Vec<u8>, Vec<Entry>), Problem> {
    let path = directory.join(name);
    let mut messages = messages(&path, name)?.into_iter();
    let head = messages.next().ok_or_else(|| Problem::damaged(name, "it has no head"))?;
    let entries = messages.map(|message| {
        let start = number(&message, 1).ok_or_else(|| Problem::damaged(name, "an entry without an address"))?;
        let count = number(&message, 5).or_else(|| number(&message, 2)).ok_or_else(|| Problem::damaged(name, "an entry without a count"))?;
        let end =
            count.checked_mul(PAGE).and_then(|length| start.checked_add(length)).ok_or_else(|| Problem::damaged(name, "an entry beyond all addresses"))?;
        Ok(Entry { pages: (start, end), message })
    });
    Ok((head, entries.collect::<Result<_, Problem>>()?))
}

/// The messages of an image that has nothing else: two words of magic, then each with its length.
fn messages(path: &Path, name: &str) -> Result<Vec<Vec<u8>>, Problem> {
    let bytes = fs::read(path).map_err(Problem::read(path))?;
    let short = || Problem::damaged(name, "it ends too early");
    let mut rest = bytes.get(8..).ok_or_else(short)?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| short())?;
        let (message, behind) = behind.split_at_checked(length).ok_or_else(short)?;
        found.push(message.to_vec());
        rest = behind;
    }
    Ok(found)
}

/// The number in a field of a message.
fn number(message: &[u8], wanted: u64) -> Option<u64> {
    Fields(message).filter(|field| field.number == wanted).find_map(|field| if let Value::Number(number) = field.value { Some(number) } else { None })
}

/// Writes a table in order of addresses; what was there goes.
fn write(path: &Path, head: &[u8], mut entries: Vec<Entry>, name: &str) -> Result<(), Problem> {
    entries.sort_by_key(|entry| entry.pages);
    in_one_place(name, entries.iter().map(|entry| entry.pages))?;
    let mut bytes: Vec<u8> = MAGIC.iter().flat_map(|word| word.to_le_bytes()).collect();
    let messages = std::iter::once(head).chain(entries.iter().map(|entry| entry.message.as_slice()));
    for message in messages {
        bytes.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(message);
    }
    fs::write(path, bytes).map_err(Problem::read(path))
}

/// A `pagemap_entry` as CRIU writes it: address, the count of old (0), flags, count.
fn entry(pages: Pages, flags: u64) -> Entry {
    let mut message = vec![0x08];
    put_varint(&mut message, pages.0);
    message.extend([0x10, 0, 0x20]);
    put_varint(&mut message, flags);
    message.push(0x28);
    put_varint(&mut message, (pages.1 - pages.0) / PAGE);
    Entry { pages, message }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn images(pages: &[Pages]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        write(&directory.path().join("pagemap-7.img"), &[0x08, 2], pages.iter().map(|pages| entry(*pages, PRESENT)).collect(), "x").unwrap();
        directory
    }

    #[test]
    fn tables_and_lists_come_back_as_they_were() {
        let directory = images(&[(0x1000, 0x3000), (0x3000, 0x4000), (0x7fff_ffff_0000, 0x7fff_ffff_2000)]);
        assert_eq!(present(directory.path()).unwrap(), ByProcess::from([(7, vec![(0x1000, 0x4000), (0x7fff_ffff_0000, 0x7fff_ffff_2000)])]));
        assert_eq!(read_list(directory.path(), LIST).unwrap(), None);
        let list = ByProcess::from([(1, vec![(0x1000, 0x2000), (0x5000, 0x9000)]), (7, vec![(0x8000, 0x9000)])]);
        write_list(directory.path(), LIST, &list).unwrap();
        assert_eq!(read_list(directory.path(), LIST).unwrap(), Some(list));
        fs::write(directory.path().join(LIST), [0; 23]).unwrap();
        assert!(read_list(directory.path(), LIST).is_err());
    }

    #[test]
    fn levels_become_parents() {
        let directory = images(&[(0x1000, 0x2000), (0x9000, 0xa000)]);
        let store = tempfile::tempdir().unwrap();
        let level = |name: &str, pages: usize, parts: &[(Pages, bool)]| {
            let path = store.path().join(name);
            fs::create_dir(&path).unwrap();
            if pages > 0 {
                fs::write(path.join("pages-7.img"), vec![1; pages * 4096]).unwrap();
            }
            Level { directory: path, processes: BTreeMap::from([(7, parts.to_vec())]) }
        };
        let levels = [
            level("0", 2, &[((0x2000, 0x3000), true), ((0x5000, 0x6000), true)]),
            level("1", 1, &[((0x2000, 0x3000), false), ((0x3000, 0x4000), true)]),
            level("2", 0, &[((0x2000, 0x4000), false)]),
        ];
        let list = ByProcess::from([(7, vec![(0x2000, 0x4000)])]);
        link(directory.path(), &list, &levels).unwrap();
        // CRIU's own view: what is present at the top, and what each level holds.
        assert_eq!(present(directory.path()).unwrap()[&7], [(0x1000, 0x2000), (0x9000, 0xa000)]);
        assert_eq!(present(&directory.path().join("parent")).unwrap()[&7], []);
        assert_eq!(present(&directory.path().join("parent/parent")).unwrap()[&7], [(0x3000, 0x4000)]);
        assert_eq!(present(&directory.path().join("parent/parent/parent")).unwrap()[&7], [(0x2000, 0x3000), (0x5000, 0x6000)]);
        assert_eq!(fs::metadata(directory.path().join("parent/pages-7.img")).unwrap().len(), 0);
    }

    #[test]
    fn pages_are_the_pagers_unless_their_memory_is_locked() {
        let directory = images(&[(0x1000, 0x2000)]);
        // mm_entry with mappings (field 14): start, end, pgoff, shmid, prot, flags, status.
        let mapping = |start: u64, end: u64, flags: u64| {
            let mut message = Vec::new();
            for (field, value) in [(1u8, start), (2, end), (3, 0), (4, 0), (5, 3), (6, flags), (7, 1)] {
                message.push(field << 3);
                put_varint(&mut message, value);
            }
            message
        };
        let mm = |mappings: &[Vec<u8>]| {
            let mut message = Vec::new();
            for mapping in mappings {
                message.extend([14 << 3 | 2, u8::try_from(mapping.len()).unwrap()]);
                message.extend_from_slice(mapping);
            }
            let mut bytes: Vec<u8> = [0x5456_4319u32, 0x5749_2820].iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.extend(u32::try_from(message.len()).unwrap().to_le_bytes());
            bytes.extend(message);
            fs::write(directory.path().join("mm-7.img"), bytes).unwrap();
        };
        let list = ByProcess::from([(7, vec![(0x2000, 0x5000)])]);
        mm(&[mapping(0x2000, 0x4000, 0x22), mapping(0x4000, 0x6000, 0x2022)]);
        assert_eq!(split(directory.path(), list.clone()).unwrap(), (ByProcess::new(), list.clone()));
        mm(&[mapping(0x2000, 0x4000, 0x22), mapping(0x4000, 0x6000, 0x4022)]);
        assert_eq!(split(directory.path(), list.clone()).unwrap(), (list.clone(), ByProcess::new()));
        // What CRIU could leave to a pager, but has written.
        write(&directory.path().join("pagemap-7.img"), &[0x08, 2], vec![entry((0x1000, 0x2000), PRESENT | LAZY)], "x").unwrap();
        keep_own(directory.path()).unwrap();
        let (_, kept) = read(directory.path(), "pagemap-7.img").unwrap();
        assert_eq!(number(&kept[0].message, 4), Some(PRESENT));
        assert_eq!(present(directory.path()).unwrap()[&7], [(0x1000, 0x2000)]);
    }

    #[test]
    fn pages_of_the_images_and_of_the_pager_are_apart() {
        let directory = images(&[(0x3000, 0x5000), (0x9000, 0xa000)]);
        let with = |process, pages: &[Pages]| apart(directory.path(), &[&ByProcess::from([(process, pages.to_vec())])]);
        for pages in [&[][..], &[(0x1000, 0x3000), (0x5000, 0x9000)], &[(0xa000, 0xb000)], &[(0x1000, 0x2000)]] {
            with(7, pages).unwrap();
        }
        for pages in [&[(0x1000, 0x4000)][..], &[(0x1000, 0x2000), (0x4000, 0x5000)], &[(0x8000, 0xb000)], &[(0x9000, 0xa000)]] {
            assert!(with(7, pages).is_err(), "{pages:?}");
        }
        assert!(with(8, &[]).is_err());
        apart(directory.path(), &[&ByProcess::new()]).unwrap();
        let list = |start, end| ByProcess::from([(7, vec![(start, end)])]);
        apart(directory.path(), &[&list(0x1000, 0x2000), &list(0x2000, 0x3000)]).unwrap();
        assert!(apart(directory.path(), &[&list(0x1000, 0x3000), &list(0x2000, 0x3000)]).is_err());
    }

    #[test]
    fn a_page_in_two_places_or_none_is_refused() {
        let twice = images(&[(0x1000, 0x3000)]);
        assert!(link(twice.path(), &ByProcess::from([(7, vec![(0x2000, 0x4000)])]), &[]).is_err());
        assert!(link(twice.path(), &ByProcess::from([(8, vec![(0x2000, 0x4000)])]), &[]).is_err());
        let store = tempfile::tempdir().unwrap();
        fs::write(store.path().join("pages-7.img"), [0; 4096]).unwrap();
        let short = Level { directory: store.path().to_owned(), processes: BTreeMap::from([(7, vec![((0x4000, 0x6000), true)])]) };
        assert!(link(images(&[]).path(), &ByProcess::from([(7, vec![(0x4000, 0x6000)])]), &[short]).is_err());
    }
}
