//! Takes pages of a process, in pieces, without those that hold only zeros.
//!
//! ```text
//!   process_vm_readv   fast, but it pins: a page that forked processes share becomes one for each of them (mm/gup.c), charged to their container while it runs
//!   /proc/PID/mem      page by page, and leaves everything as it is
//! ```

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::libc;

use crate::index::{Index, Known};
use crate::maps;
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

/// Whether some of these processes may share pages that each of them may write: they have been forked from one, and have executed no other program since. Told by where their stacks begin: the
/// kernel chooses that anew, at random, with each program.
#[must_use]
pub fn may_share(pids: &[i32]) -> bool {
    let mut stacks = BTreeSet::new();
    pids.iter().filter_map(|pid| start_of_stack(*pid)).any(|stack| !stacks.insert(stack))
}

/// `startstack` of proc_pid_stat(5); `None` for a process without memory.
fn start_of_stack(pid: i32) -> Option<u64> {
    let stat = maps::text(&format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(25)?.parse::<u64>().ok().filter(|start| *start != 0)
}

/// Reads `ranges` (in order) of process `pid` and gives them to `send` in pieces of at most [`PIECE`] bytes. What was read is noted in the index; a page that
/// could not be read (it has gone meanwhile) is known no more.
///
/// # Errors
/// When the process has ended, or `send` does not go on.
pub fn pages(pid: i32, ranges: &[Range], index: &mut Index, send: impl FnMut(Piece) -> io::Result<()>) -> io::Result<()> {
    shared_pages(pid, ranges, index, || false, send)
}

/// As [`pages`], of a process that may share some of them with others: while `shares` says so, they stay shared. It is asked before each piece, since a process may be forked at any time.
///
/// # Errors
/// As [`pages`].
pub fn shared_pages(
    pid: i32,
    ranges: &[Range],
    index: &mut Index,
    mut shares: impl FnMut() -> bool,
    mut send: impl FnMut(Piece) -> io::Result<()>,
) -> io::Result<()> {
    if ranges.is_empty() {
        return Ok(());
    }
    let mut choose = || shares().then(|| File::open(format!("/proc/{pid}/mem"))).transpose();
    let mut memory = choose()?;
    let mut buffer = vec![0u8; PIECE];
    let mut piece = Piece::default();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let wanted = usize::try_from(range.end - at).unwrap_or(PIECE).min(PIECE);
            let out = &mut buffer[..wanted];
            let read = match &memory {
                Some(memory) => read_file(memory, at, out),
                None => read_memory(pid, at, out),
            };
            let read = match read {
                Ok(read) => read - read % 4096,
                // EFAULT: unmapped or protected since the scan.
                Err(error) if error.raw_os_error() == Some(libc::EFAULT) => 0,
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
                        memory = choose()?;
                    }
                }
                at += PAGE;
            }
        }
    }
    if piece.data.is_empty() { Ok(()) } else { send(piece) }
}

/// From `/proc/PID/mem`, with the errors of process_vm_readv.
fn read_file(memory: &File, at: u64, out: &mut [u8]) -> io::Result<usize> {
    match memory.read_at(out, at) {
        // All of its memory is gone.
        Ok(0) => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        other => other,
    }
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
        let range = Range { start: base, end: base + 5 * PAGE };
        for shares in [false, true] {
            let mut index = Index::default();
            let mut pieces = Vec::new();
            let take = |piece| {
                pieces.push(piece);
                Ok(())
            };
            shared_pages(std::process::id().cast_signed(), &[range], &mut index, || shares, take).unwrap();
            assert_eq!(pieces.len(), 1);
            assert_eq!(pieces[0].ranges, [Range { start: base, end: base + PAGE }, Range { start: base + 2 * PAGE, end: base + 4 * PAGE }]);
            assert_eq!(pieces[0].data.len(), 3 * 4096);
            assert_eq!(pieces[0].data[2 * 4096 - 1], 2);
            let known: Vec<Known> = range.pages().map(|page| index.get(page)).collect();
            assert_eq!(known, [Known::Stored, Known::Zero, Known::Stored, Known::Stored, Known::Zero]);
        }
        let all = whole(std::process::id().cast_signed(), &[Range { start: base, end: base + PAGE }, range]).unwrap();
        assert!(all.len() == 6 * 4096 && all[4096..] == memory[offset..offset + 5 * 4096] && all[..4096] == all[4096..2 * 4096]);
        drop(memory);
    }

    #[test]
    fn a_process_that_has_gone_is_an_error_and_a_hole_is_not() {
        let own = std::process::id().cast_signed();
        let mut index = Index::default();
        let hole = [Range { start: PAGE, end: 2 * PAGE }];
        for shares in [false, true] {
            index.set(PAGE, Known::Stored);
            shared_pages(own, &hole, &mut index, || shares, |_| Ok(())).unwrap();
            assert_eq!(index.get(PAGE), Known::No);
            assert!(shared_pages(i32::MAX, &hole, &mut index, || shares, |_| Ok(())).is_err());
        }
        assert!(whole(own, &hole).is_err());
    }
}
