//! A file of two slots, of which always one is whole: replaced by one write and one `fdatasync`, which is what a frozen pod waits for. (A file that is replaced by
//! renaming costs three commits of the file system's journal.)
//!
//! ```text
//!   slot 0: checksum 32 │ number 8 │ length 8 │ content … zeros      number n goes into slot n mod 2
//!   slot 1: checksum 32 │ number 8 │ length 8 │ content … zeros      read: the whole one with the higher number
//! ```
//! All blocks are allocated and written when the file is made, so that a later write changes nothing but data. A write that did not come to its end leaves its slot
//! without a valid checksum (BLAKE3 of what follows it), and the other one counts.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use crate::durable;

const CHECKSUM: usize = blake3::OUT_LEN;
const HEADER: usize = CHECKSUM + 16;
/// Smallest slot: four pages.
const SMALLEST: usize = 16 << 10;

/// The content and its number.
///
/// # Errors
/// When the file cannot be read, or neither slot is whole.
pub fn read(path: &Path) -> io::Result<(u64, Vec<u8>)> {
    let bytes = fs::read(path)?;
    let slots = bytes.chunks_exact((bytes.len() / 2).max(1));
    let newest = slots.filter_map(whole).max_by_key(|(number, _)| *number);
    let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("{}: neither slot is whole", path.display()));
    newest.map(|(number, content)| (number, content.to_vec())).ok_or_else(broken)
}

/// Number and content of a slot, if it is whole.
fn whole(slot: &[u8]) -> Option<(u64, &[u8])> {
    let (checksum, rest) = slot.split_at_checked(CHECKSUM)?;
    let word = |at: usize| Some(u64::from_le_bytes(rest.get(at..at + 8)?.try_into().ok()?));
    let (number, length) = (word(0)?, usize::try_from(word(8)?).ok()?);
    let end = length.checked_add(16)?;
    (blake3::hash(rest.get(..end)?).as_bytes() == checksum).then_some((number, rest.get(16..end)?))
}

fn slot(number: u64, content: &[u8]) -> Vec<u8> {
    let mut rest = Vec::with_capacity(HEADER + content.len());
    rest.extend(number.to_le_bytes());
    rest.extend((content.len() as u64).to_le_bytes());
    rest.extend(content);
    let mut slot = blake3::hash(&rest).as_bytes().to_vec();
    slot.append(&mut rest);
    slot
}

/// Replaces the content; it is on disk when this returns.
///
/// # Errors
/// When the disk refuses; the old content is then still whole.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let number = match read(path) {
        Ok((number, _)) => number + 1,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return make(path, 0, content),
        Err(error) => return Err(error),
    };
    let file = OpenOptions::new().write(true).open(path)?;
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(0) / 2;
    let slot = slot(number, content);
    if slot.len() > size {
        return make(path, number, content);
    }
    file.write_all_at(&slot, if number.is_multiple_of(2) { 0 } else { size as u64 })?;
    file.sync_data()
}

/// A new file with room to grow, renamed into place.
fn make(path: &Path, number: u64, content: &[u8]) -> io::Result<()> {
    let slot = slot(number, content);
    let size = (2 * slot.len()).next_multiple_of(4096).max(SMALLEST);
    let mut bytes = vec![0; 2 * size];
    let at = if number.is_multiple_of(2) { 0 } else { size };
    bytes.iter_mut().skip(at).zip(&slot).for_each(|(to, from)| *to = *from);
    durable::replace(path, &bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_content_is_read_also_when_it_grows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("entry");
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        for (number, length) in [10, 20_000, 5, 200_000, 0, 7].into_iter().enumerate() {
            let content = vec![u8::try_from(number).unwrap(); length];
            write(&path, &content).unwrap();
            assert_eq!(read(&path).unwrap(), (number as u64, content));
        }
    }

    #[test]
    fn a_write_that_was_cut_leaves_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("entry");
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        let good = fs::read(&path).unwrap();
        // Number 1 is in the second slot.
        for at in [0, CHECKSUM, CHECKSUM + 8, HEADER] {
            let mut torn = good.clone();
            torn[good.len() / 2 + at] ^= 1;
            fs::write(&path, &torn).unwrap();
            assert_eq!(read(&path).unwrap(), (0, b"first".to_vec()), "byte {at}");
            write(&path, b"again").unwrap();
            assert_eq!(read(&path).unwrap(), (1, b"again".to_vec()));
        }
        fs::write(&path, b"").unwrap();
        assert!(read(&path).is_err());
        fs::write(&path, vec![0; 2 * SMALLEST]).unwrap();
        assert!(read(&path).is_err() && write(&path, b"x").is_err(), "what is broken is not replaced");
    }
}
