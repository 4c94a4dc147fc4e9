//! The mappings of a process, from `/proc/PID/maps` (proc_pid_maps(5)), and which of them can travel as pages.

use std::fs;
use std::io;

use crate::Range;

/// Smallest mapping that is taken out of CRIU's hands. What is smaller is few and changes often.
pub const SMALLEST: u64 = 256 << 10;
/// The kernel's own page, at the same address in every process.
pub(crate) const VSYSCALL: &str = "[vsyscall]";
/// Registration begins and ends here: below lies nothing, above the kernel (x86-64 and aarch64, 47 and 48 bits; a process with 5-level tables stays below unless it asks).
const LOWEST: u64 = 0x1_0000;
const HIGHEST: u64 = 0x7fff_ffff_f000;

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Where.
    pub range: Range,
    /// Readable.
    pub read: bool,
    /// Executable.
    pub exec: bool,
    /// Not shared.
    pub private: bool,
    /// Without a file.
    pub anonymous: bool,
    /// The name behind: a path, `[heap]`, `[anon:…]` or nothing.
    pub name: String,
}

impl Mapping {
    /// Whether a page of it is nobody else's and can be read from outside: what CRIU writes as pages of the process and nothing else does.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.private && self.anonymous && (self.name.is_empty() || self.name == "[heap]" || self.name == "[stack]" || self.name.starts_with("[anon:"))
    }

    /// Whether its pages may travel outside of CRIU's images. Not executable: CRIU puts its first instruction into executable memory and takes it out again.
    #[must_use]
    pub fn travels(&self) -> bool {
        self.is_plain() && self.read && !self.exec && self.name != "[stack]" && self.range.len() >= SMALLEST
    }

    /// Whether it could be one of those that the kernel may drop: C libraries make small ones (for `getrandom` without a system call, from the first use on).
    #[must_use]
    pub fn may_be_droppable(&self) -> bool {
        self.is_plain() && !self.travels() && !self.exec && self.range.len() < SMALLEST && (self.name.is_empty() || self.name.starts_with("[anon:"))
    }
}

/// All mappings in order of their addresses.
///
/// # Errors
/// `NotFound` (or ESRCH) when the process has ended.
pub fn of(pid: i32) -> io::Result<Vec<Mapping>> {
    let maps = text(&format!("/proc/{pid}/maps"))?;
    maps.lines().map(|line| parse(line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("maps of {pid}: {line}")))).collect()
}

/// A text of `/proc`. Names in it (of mapped files, of threads) need not be UTF-8.
pub(crate) fn text(path: &str) -> io::Result<String> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// A line of `maps`, or the first one of a mapping in `smaps`.
pub(crate) fn parse(line: &str) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let range = Range { start: u64::from_str_radix(start, 16).ok()?, end: u64::from_str_radix(end, 16).ok()? };
    let flags = words.next()?.as_bytes();
    let (_offset, _device) = (words.next()?, words.next()?);
    let inode: u64 = words.next()?.parse().ok()?;
    let name = words.next().unwrap_or_default().trim().to_owned();
    Some(Mapping { range, read: *flags.first()? == b'r', exec: *flags.get(2)? == b'x', private: *flags.get(3)? == b'p', anonymous: inode == 0, name })
}

/// The ranges that are registered as a whole: everything between shared mappings, the kernel's own, and `also` (sorted). Whole ranges, so that no mapping is split
/// that has changed since `maps` was read: the kernel joins what has the same registration, and an application's mremap fails on a mapping that was split under it.
#[must_use]
pub fn between(maps: &[Mapping], also: &[Range]) -> Vec<Range> {
    let foreign = |mapping: &&Mapping| !mapping.private || mapping.name.starts_with("[v");
    let mut holes: Vec<Range> = maps.iter().filter(foreign).map(|mapping| mapping.range).chain(also.iter().copied()).collect();
    holes.sort();
    let (mut ranges, mut at) = (Vec::new(), LOWEST);
    for hole in holes {
        if hole.start > at {
            ranges.push(Range { start: at, end: hole.start.min(HIGHEST) });
        }
        at = at.max(hole.end);
    }
    if at < HIGHEST {
        ranges.push(Range { start: at, end: HIGHEST });
    }
    ranges.retain(|range| !range.is_empty());
    ranges
}

/// The mappings in a text of `smaps`, each with what stands behind `VmFlags:`.
pub(crate) fn flagged(smaps: &str) -> impl Iterator<Item = (Mapping, &str)> {
    let mut last = None;
    smaps.lines().filter_map(move |line| match line.strip_prefix("VmFlags:") {
        Some(words) => Some((last.take()?, words.trim_start())),
        None => {
            last = parse(line).or_else(|| last.take());
            None
        }
    })
}

/// Mappings that the kernel may drop at any time (`VmFlags: dp`, MAP_DROPPABLE): nobody needs them, and CRIU leaves them out. Some kernels refuse to register them. Slow where smaps
/// must be read for it: all page tables are walked.
///
/// # Errors
/// When the process has ended.
pub fn droppable(pid: i32) -> io::Result<Vec<Range>> {
    // A process that runs may change its mappings between two looks.
    droppable_at_once(pid).or_else(|_| text(&format!("/proc/{pid}/smaps")).map(|smaps| droppable_in(&smaps)))
}

/// The same of a process that stands still, and without a walk through its page tables.
///
/// # Errors
/// When this kernel cannot tell it so.
pub(crate) fn droppable_at_once(pid: i32) -> io::Result<Vec<Range>> {
    crate::flags::smaps(pid).map(|smaps| droppable_in(&smaps))
}

fn droppable_in(smaps: &str) -> Vec<Range> {
    flagged(smaps).filter(|(_, words)| words.split_whitespace().any(|flag| flag == "dp")).map(|(mapping, _)| mapping.range).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ffi::OsStr;
    use std::io::{BufRead, BufReader};
    use std::os::unix::ffi::OsStrExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// Maps the file that is named to it, and rests.
    const MAPPING: &str = "import mmap, os, sys\n\
        file = open(os.fsencode(sys.argv[1]), 'rb')\n\
        memory = mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ)\n\
        print('ready', flush=True)\n\
        sys.stdin.read()\n";

    #[test]
    fn names_need_not_be_text() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(OsStr::from_bytes(b"m\xfcll"));
        fs::write(&path, [1u8; 4096]).unwrap();
        let mut child = Command::new("python3").args(["-c", MAPPING]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said.trim(), "ready");
        let pid = child.id().cast_signed();
        let maps = of(pid).unwrap();
        assert!(maps.iter().any(|mapping| mapping.name.ends_with("/m\u{fffd}ll")));
        droppable(pid).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn lines_are_understood() {
        let heap = parse("55e0c000-55e8d000 rw-p 00000000 00:00 0                          [heap]").unwrap();
        assert!(heap.is_plain() && heap.travels());
        let small = parse("7f0000000000-7f0000001000 rw-p 00000000 00:00 0").unwrap();
        assert!(small.is_plain() && !small.travels());
        for line in [
            "7f0000000000-7f0040000000 rwxp 00000000 00:00 0 ",
            "7f0000000000-7f0040000000 rw-s 00000000 00:01 77 /dev/zero (deleted)",
            "7f0000000000-7f0040000000 ---p 00000000 00:00 0 ",
            "7f0000000000-7f0040000000 rw-p 00000000 08:01 12 /usr/lib/with space.so",
            "7ffc00000000-7ffc00100000 rw-p 00000000 00:00 0 [stack]",
            "7ffc00000000-7ffc00100000 r--p 00000000 00:00 0 [vvar]",
        ] {
            assert!(!parse(line).unwrap().travels(), "{line}");
        }
        assert_eq!(parse("7f00-7f10 rw-p 00000000 08:01 12 /usr/lib/with space.so").unwrap().name, "/usr/lib/with space.so");
        assert_eq!(parse("Size: 4 kB"), None);
    }

    #[test]
    fn whole_ranges_leave_shared_and_kernel_mappings_out() {
        let maps: Vec<Mapping> = [
            "00400000-00500000 r-xp 00000000 08:01 12 /bin/x",
            "00600000-00700000 rw-s 00000000 00:01 7 /dev/zero",
            "00800000-00900000 rw-p 00000000 00:00 0 ",
            "00a00000-00a01000 r--p 00000000 00:00 0 [vvar]",
            "00a01000-00a02000 r-xp 00000000 00:00 0 [vdso]",
        ]
        .iter()
        .map(|line| parse(line).unwrap())
        .collect();
        let range = |start, end| Range { start, end };
        assert_eq!(
            between(&maps, &[range(0x80_1000, 0x80_2000)]),
            [range(LOWEST, 0x60_0000), range(0x70_0000, 0x80_1000), range(0x80_2000, 0xa0_0000), range(0xa0_2000, HIGHEST)]
        );
    }

    #[test]
    fn the_own_maps_are_read() {
        let own = of(std::process::id().cast_signed()).unwrap();
        assert!(own.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
        assert!(own.iter().any(|mapping| mapping.name == "[vdso]"));
    }
}
