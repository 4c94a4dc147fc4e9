//! Which mappings are hidden: four 64-bit words each, sorted.

/// Environment variable with the path of the file.
pub const VARIABLE: &str = "GODWIT_VEIL";
/// Behind that path, and before the process's number: what CRIU reads in place of its `smaps`, if there is such a file.
pub(crate) const SMAPS: &str = ".smaps.";

/// The file that CRIU reads in place of a process's `smaps`, beside the table.
#[cfg(not(feature = "library"))]
#[must_use]
pub fn smaps_of(table: &std::path::Path, pid: i32) -> std::path::PathBuf {
    let mut path = table.as_os_str().to_owned();
    path.push(format!("{SMAPS}{pid}"));
    path.into()
}

/// One hidden mapping.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hidden {
    /// The process, as CRIU's `/proc` names it.
    pub pid: u64,
    /// First byte.
    pub start: u64,
    /// Byte behind the last one.
    pub end: u64,
    /// 1: there is no guard page in it (`MADV_GUARD_INSTALL`); 0: nobody knows.
    pub unguarded: u64,
}

/// The file's content.
#[cfg(not(feature = "library"))]
#[must_use]
pub fn encode(hidden: &[Hidden]) -> Vec<u8> {
    let mut sorted = hidden.to_vec();
    sorted.sort_unstable();
    sorted.iter().flat_map(|one| [one.pid, one.start, one.end, one.unguarded]).flat_map(u64::to_ne_bytes).collect()
}

/// What becomes of a question about `start`…`end`.
#[cfg(any(feature = "library", test))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is no page up to here.
    Nothing(u64),
    /// The kernel is asked, but not beyond this.
    Ask(u64),
}

/// Looks a question up in a sorted table, of which only those entries count that are `meant`.
#[cfg(any(feature = "library", test))]
pub fn look(table: &[Hidden], pid: u64, start: u64, end: u64, meant: impl Fn(&Hidden) -> bool) -> Answer {
    // From the first one of this process on that does not end before the question begins.
    let at = table.partition_point(|one| one.pid < pid || (one.pid == pid && one.end <= start));
    match table.get(at..).and_then(|rest| rest.iter().take_while(|one| one.pid == pid).find(|one| meant(one))) {
        Some(one) if one.start <= start => Answer::Nothing(one.end.min(end)),
        Some(one) => Answer::Ask(one.start.min(end)),
        None => Answer::Ask(end),
    }
}

/// Takes the entries of hidden mappings out of a piece of a pagemap that was read at `offset`: 8 bytes for each page of 4096.
#[cfg(any(feature = "library", test))]
pub fn blank(table: &[Hidden], pid: u64, offset: u64, piece: &mut [u8]) {
    let first = table.partition_point(|one| one.pid < pid);
    for one in table.iter().skip(first).take_while(|one| one.pid == pid) {
        let place = |address: u64| usize::try_from((address / 4096 * 8).saturating_sub(offset)).unwrap_or(usize::MAX).min(piece.len());
        let (start, end) = (place(one.start), place(one.end));
        if let Some(entries) = piece.get_mut(start..end) {
            entries.fill(0);
        }
    }
}

/// The process in `/proc/4711/pagemap`, if `rest` is `/pagemap`.
#[cfg(any(feature = "library", test))]
pub fn process(path: &[u8], rest: &[u8]) -> Option<u64> {
    let path = path.strip_suffix(rest)?;
    let digits = path.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (front, digits) = path.split_at(path.len().saturating_sub(digits));
    if digits.is_empty() || digits.len() > 10 || !front.ends_with(b"/") {
        return None;
    }
    Some(digits.iter().fold(0u64, |value, digit| value.saturating_mul(10).saturating_add(u64::from(digit.saturating_sub(b'0')))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_cut_at_hidden_mappings() {
        let hidden = |pid, start, end, unguarded| Hidden { pid, start, end, unguarded };
        let table = [hidden(5, 10, 20, 1), hidden(7, 10, 20, 0), hidden(7, 20, 30, 1), hidden(7, 50, 60, 0), hidden(9, 0, 5, 1)];
        let look = |table, pid, start, end| look(table, pid, start, end, |_| true);
        for (start, end, answer) in [
            (0, 5, Answer::Ask(5)),
            (0, 100, Answer::Ask(10)),
            (10, 100, Answer::Nothing(20)),
            (15, 17, Answer::Nothing(17)),
            (20, 100, Answer::Nothing(30)),
            (30, 100, Answer::Ask(50)),
            (59, 61, Answer::Nothing(60)),
            (60, 100, Answer::Ask(100)),
        ] {
            assert_eq!(look(&table, 7, start, end), answer, "{start} {end}");
        }
        assert_eq!(look(&table, 6, 0, 100), Answer::Ask(100));
        assert_eq!(look(&table, 8, 0, 100), Answer::Ask(100));
        assert_eq!(look(&[], 7, 0, 100), Answer::Ask(100));
        let unguarded = |start| super::look(&table, 7, start, 100, |one| one.unguarded == 1);
        assert_eq!([unguarded(0), unguarded(20), unguarded(30)], [Answer::Ask(20), Answer::Nothing(30), Answer::Ask(100)]);
    }

    #[test]
    fn entries_of_hidden_mappings_are_blank() {
        let hidden = |pid, start: u64, end: u64| Hidden { pid, start: start * 4096, end: end * 4096, unguarded: 0 };
        let table = [hidden(5, 0, 100), hidden(7, 2, 4), hidden(7, 6, 60), hidden(9, 0, 100)];
        let read = |pid, from: u64, pages: usize| {
            let mut piece = vec![1u8; pages * 8];
            blank(&table, pid, from * 8, &mut piece);
            piece.chunks_exact(8).map(|entry| if entry == [0; 8] { '.' } else { 'x' }).collect::<String>()
        };
        assert_eq!(read(7, 0, 8), "xx..xx..");
        assert_eq!(read(7, 3, 4), ".xx.");
        assert_eq!(read(7, 59, 3), ".xx");
        assert_eq!(read(6, 0, 8), "xxxxxxxx");
        assert_eq!(read(7, 100, 2), "xx");
    }

    #[test]
    fn processes_are_found_in_paths() {
        assert_eq!(process(b"/proc/4711/pagemap", b"/pagemap"), Some(4711));
        assert_eq!(process(b"/4711/pagemap", b"/pagemap"), Some(4711));
        assert_eq!(process(b"/proc/4711", b""), Some(4711));
        for other in [&b"/proc/self/pagemap"[..], b"/proc/4711/maps", b"/proc/x4711/pagemap", b"", b"/pagemap", b"/proc/99999999999/pagemap"] {
            assert_eq!(process(other, b"/pagemap"), None);
        }
    }

    #[cfg(not(feature = "library"))]
    #[test]
    fn the_file_is_sorted() {
        let one = Hidden { pid: 2, start: 1, end: 2, unguarded: 1 };
        let two = Hidden { pid: 1, start: 8, end: 9, unguarded: 0 };
        let words: Vec<u64> = encode(&[one, two]).chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())).collect();
        assert_eq!(words, [1, 8, 9, 0, 2, 1, 2, 1]);
    }
}
