//! Takes pages of a process, in pieces, without those that hold only zeros.

use std::io;

use crate::index::{Index, Known};
use crate::range::{PAGE, Range, push};
use crate::sys::read_memory;

/// Bytes in a piece.
pub const PIECE: usize = 1 << 20;

/// Pages on their way: which, and their contents one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Where they belong, in order.
    pub ranges: Vec<Range>,
    /// [`PAGE`] bytes for each page.
    pub data: Vec<u8>,
}

impl Piece {
    fn add(&mut self, address: u64, page: &[u8]) {
        push(&mut self.ranges, Range { start: address, end: address + PAGE });
        self.data.extend_from_slice(page);
    }
}

/// Reads `ranges` (in order) of process `pid` and gives them to `send` in pieces of at most [`PIECE`] bytes. What was read is noted in the index; a page that
/// could not be read (it has gone meanwhile) is known no more.
///
/// # Errors
/// When the process has ended, or `send` does not go on.
pub fn pages(pid: i32, ranges: &[Range], index: &mut Index, mut send: impl FnMut(Piece) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0u8; PIECE];
    let mut piece = Piece::default();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let wanted = usize::try_from(range.end - at).unwrap_or(PIECE).min(PIECE);
            let read = match read_memory(pid, at, &mut buffer[..wanted]) {
                Ok(read) => read - read % 4096,
                // EFAULT: unmapped or protected since the scan.
                Err(error) if error.raw_os_error() == Some(nix::libc::EFAULT) => 0,
                Err(error) => return Err(error),
            };
            if read == 0 {
                index.set(at, Known::No);
                at += PAGE;
                continue;
            }
            for page in buffer[..read].chunks_exact(4096) {
                if is_zero(page) {
                    index.set(at, Known::Zero);
                } else {
                    piece.add(at, page);
                    index.stored_as(at, page);
                    if piece.data.len() >= PIECE {
                        send(std::mem::take(&mut piece))?;
                    }
                }
                at += PAGE;
            }
        }
    }
    if piece.data.is_empty() { Ok(()) } else { send(piece) }
}

/// Reads all of `ranges` of a process that stands still, one behind the other.
///
/// # Errors
/// When the process has ended, or a part is not mapped.
pub fn whole(pid: i32, ranges: &[Range]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let (done, wanted) = (bytes.len(), usize::try_from(range.end - at).map_err(|_| io::ErrorKind::InvalidInput)?);
            bytes.resize(done + wanted, 0);
            let read = read_memory(pid, at, &mut bytes[done..])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.truncate(done + read);
            at += u64::try_from(read).unwrap_or(0);
        }
    }
    Ok(bytes)
}

pub(crate) fn is_zero(page: &[u8]) -> bool {
    page.chunks_exact(8).all(|word| word == [0; 8])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pages_of_zeros_do_not_travel() {
        // The middle of a buffer, on page boundaries.
        let mut memory = vec![0u8; 8 * 4096];
        let base = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let offset = usize::try_from(base - memory.as_ptr() as u64).unwrap();
        for (page, value) in [(0, 1u8), (2, 2), (3, 3)] {
            memory[offset + page * 4096 + 4095] = value;
        }
        let memory = std::hint::black_box(memory);
        let mut index = Index::default();
        let mut pieces = Vec::new();
        let range = Range { start: base, end: base + 5 * PAGE };
        pages(std::process::id().cast_signed(), &[range], &mut index, |piece| {
            pieces.push(piece);
            Ok(())
        })
        .unwrap();
        assert_eq!(pieces.len(), 1);
        assert_eq!(pieces[0].ranges, [Range { start: base, end: base + PAGE }, Range { start: base + 2 * PAGE, end: base + 4 * PAGE }]);
        assert_eq!(pieces[0].data.len(), 3 * 4096);
        assert_eq!(pieces[0].data[2 * 4096 - 1], 2);
        let known: Vec<Known> = range.pages().map(|page| index.get(page)).collect();
        assert_eq!(known, [Known::Stored, Known::Zero, Known::Stored, Known::Stored, Known::Zero]);
        let all = whole(std::process::id().cast_signed(), &[Range { start: base, end: base + PAGE }, range]).unwrap();
        assert!(all.len() == 6 * 4096 && all[4096..] == memory[offset..offset + 5 * 4096] && all[..4096] == all[4096..2 * 4096]);
        drop(memory);
    }

    #[test]
    fn a_process_that_has_gone_is_an_error_and_a_hole_is_not() {
        let own = std::process::id().cast_signed();
        let mut index = Index::default();
        index.set(PAGE, Known::Stored);
        pages(own, &[Range { start: PAGE, end: 2 * PAGE }], &mut index, |_| Ok(())).unwrap();
        assert_eq!(index.get(PAGE), Known::No);
        assert!(whole(own, &[Range { start: PAGE, end: 2 * PAGE }]).is_err());
        assert!(pages(i32::MAX, &[Range { start: PAGE, end: 2 * PAGE }], &mut index, |_| Ok(())).is_err());
    }
}
