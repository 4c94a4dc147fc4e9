//! The flags of a process's mappings (`VmFlags` in `/proc/PID/smaps`, Documentation/filesystems/proc.rst) without a walk through its page tables.
//!
//! ```text
//!   smaps:           each mapping's flags, and how much of it is there: the kernel looks at every page, tens of milliseconds for each GiB
//!   iter/task_vma:   each mapping's `vm_flags` as they are: microseconds          + which letters this kernel has for each bit
//! ```
//! A BPF iterator (Documentation/bpf/bpf_iterators.rst; of one task, and safe, since Linux 6.1.8) tells the bits. Their letters are no interface, so they are learned
//! from mappings that this process makes, each with something of its own. A process with a bit that was not learned is read by smaps.

mod btf;
mod iterator;
mod letters;
mod samples;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::sync::OnceLock;

use crate::maps::{self, VSYSCALL};
use crate::range::Range;
use iterator::Mappings;
use letters::Letters;

/// How often it is tried to learn the letters, while this process maps and unmaps.
const ATTEMPTS: usize = 5;

/// One mapping as the iterator tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flagged {
    range: Range,
    bits: u64,
}

/// What this machine's kernel can do, once found out.
#[derive(Debug)]
struct Reader {
    iterator: Mappings,
    letters: Letters,
}

impl Reader {
    /// Once; takes tens of milliseconds at first, and lasts as long as this program.
    fn get() -> io::Result<&'static Self> {
        static READER: OnceLock<Result<Reader, String>> = OnceLock::new();
        READER.get_or_init(|| Self::make().map_err(|error| error.to_string())).as_ref().map_err(|why| io::Error::new(io::ErrorKind::Unsupported, why.clone()))
    }

    fn make() -> io::Result<Self> {
        let iterator = Mappings::load(&btf::read()?)?;
        let own = std::process::id().cast_signed();
        // Mapped until the letters are known.
        let _samples = samples::Samples::make()?;
        for _ in 0..ATTEMPTS {
            let before = iterator.read(own)?;
            let text = fs::read_to_string("/proc/self/smaps")?;
            let after = iterator.read(own)?;
            // Other threads of this process may have mapped something meanwhile.
            let steady: Vec<Flagged> = before.into_iter().filter(|one| after.contains(one)).collect();
            // What the kernel shows for this process's own mappings it shows for others'; where it does not show all, nothing can be told of anybody.
            if let Some(letters) = Letters::learn(&text, &steady).filter(|letters| steady.iter().all(|one| letters.of(one.bits).is_some())) {
                return Ok(Self { iterator, letters });
            }
        }
        Err(io::Error::other("smaps does not show a letter for each flag of a mapping"))
    }
}

/// Whether flags can be read without smaps here. Asked before there is need of it: the first time takes tens of milliseconds.
///
/// # Errors
/// Why not.
pub fn probe() -> io::Result<()> {
    Reader::get().map(drop)
}

/// What `/proc/PID/smaps` says of a process that stands still, but for the amounts: of each mapping its line of `maps`, and its `VmFlags`.
///
/// # Errors
/// When this kernel has no such iterator, the process has ended, it has a flag that nobody knows, or its mappings change meanwhile. Then smaps must be read.
pub fn smaps(pid: i32) -> io::Result<String> {
    let reader = Reader::get()?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let flagged = reader.iterator.read(pid)?;
    text(&maps, &flagged, &reader.letters)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("the flags of a mapping of process {pid} are not known")))
}

fn text(maps: &str, flagged: &[Flagged], letters: &Letters) -> Option<String> {
    let mut text = String::with_capacity(maps.len() * 2);
    let mut flagged = flagged.iter();
    for line in maps.lines() {
        let mapping = maps::parse(line)?;
        let words = if mapping.name == VSYSCALL {
            // The kernel's own, at the same address in every process: no iterator tells of it.
            letters.vsyscall()?.to_owned()
        } else {
            let next = flagged.next().filter(|next| next.range == mapping.range)?;
            letters.of(next.bits)?
        };
        writeln!(text, "{line}\nVmFlags: {words}").ok()?;
    }
    flagged.next().is_none().then_some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    /// A program with mappings of all kinds, more than the kernel tells at once, which then rests.
    const VARIED: &str = "import mmap, sys\n\
        held = [mmap.mmap(-1, 1 << 20) for _ in range(8)]\n\
        for number, advice in enumerate((mmap.MADV_DONTFORK, mmap.MADV_HUGEPAGE, mmap.MADV_NOHUGEPAGE, 16, mmap.MADV_RANDOM)): held[number].madvise(advice)\n\
        held.append(mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000))\n\
        held.append(mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ))\n\
        many = mmap.mmap(-1, 6000 * 4096)\n\
        for page in range(0, 6000, 2): many.madvise(mmap.MADV_DONTFORK, page * 4096, 4096)\n\
        print('ready', flush=True)\n\
        sys.stdin.read()\n";

    #[test]
    fn what_is_told_is_what_smaps_says() {
        if let Err(error) = probe() {
            return eprintln!("skipped: {error}");
        }
        let mut child = Command::new("python3").args(["-c", VARIED]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said.trim(), "ready");
        let pid = child.id().cast_signed();
        let full = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
        let expected: Vec<&str> = full.lines().filter(|line| maps::parse(line).is_some() || line.starts_with("VmFlags:")).map(str::trim_end).collect();
        let told = smaps(pid).unwrap();
        assert_eq!(told.lines().map(str::trim_end).collect::<Vec<_>>(), expected);
        assert!(told.contains(" dc") && told.contains(" nr"));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(smaps(pid).is_err());
    }

    #[test]
    fn what_does_not_fit_is_not_told() {
        let maps = "00400000-00500000 r--p 00000000 08:01 12 /bin/x\n00500000-00600000 rw-p 00000000 00:00 0 \n";
        let one = |start, end, bits| Flagged { range: Range { start, end }, bits };
        let both = [one(0x40_0000, 0x50_0000, 1), one(0x50_0000, 0x60_0000, 3)];
        let letters =
            Letters::learn("00400000-00500000 r--p 00000000 08:01 12 /bin/x\nVmFlags: rd \n00500000-00600000 rw-p 00000000 00:00 0 \nVmFlags: rd wr \n", &both)
                .unwrap();
        assert_eq!(
            text(maps, &both, &letters).unwrap(),
            "00400000-00500000 r--p 00000000 08:01 12 /bin/x\nVmFlags: rd \n00500000-00600000 rw-p 00000000 00:00 0 \nVmFlags: rd wr \n"
        );
        for other in [
            &both[..1],
            &[both[1], both[0]],
            &[both[0], one(0x50_0000, 0x60_0000, 7)],
            &[both[0], one(0x50_0000, 0x60_1000, 3)],
            &[both[0], both[1], one(0x70_0000, 0x80_0000, 1)],
        ] {
            assert_eq!(text(maps, other, &letters), None);
        }
    }
}
