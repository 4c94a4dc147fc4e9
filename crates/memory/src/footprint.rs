//! The memory of a set of processes, from `/proc/PID/smaps_rollup` (Documentation/filesystems/proc.rst).
//!
//! ```text
//!   Pss_Anon   ┐
//!   Pss_Shmem  ├─ what CRIU writes: `images()`
//!   SwapPss    │
//!   Hugetlb    ┘
//!   Pss_File     stays where it is: the target maps the same files; dirty pages of shared mappings reach the file by themselves
//! ```
//!
//! The proportional figures (PSS) divide a page by the number of processes that map it, so that a sum over a pod counts a page once (but for what is shared with
//! processes outside the pod, where it counts too little).

use std::fs;
use std::io::ErrorKind;

/// Memory of a set of processes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Sum of the resident set sizes; shared pages count once for each process.
    pub rss: u64,
    /// Proportional set size; shared pages count once.
    pub pss: u64,
    /// Resident pages that more than one process maps, once for each process.
    pub shared: u64,
    /// Anonymous memory, proportionally: heaps, stacks, written pages of private file mappings.
    pub anon: u64,
    /// The same, once for each process: what it would be if forked processes shared nothing.
    pub anon_each: u64,
    /// Shared anonymous memory, memfds and tmpfs files that are mapped, proportionally.
    pub shmem: u64,
    /// Dirty pages of file mappings, proportionally.
    pub file_dirty: u64,
    /// Locked (mlock(2)), of whatever kind, proportionally.
    pub locked: u64,
    /// Swapped out, proportionally.
    pub swap: u64,
    /// Huge pages of hugetlbfs. Not part of `rss` and `pss`.
    pub hugetlb: u64,
    /// Processes counted.
    pub processes: u32,
    /// Processes that are there but could not be read.
    pub unreadable: u32,
}

impl Footprint {
    /// Bytes of memory images that a dump will have, an upper estimate: pages that were never written may be left out.
    #[must_use]
    pub fn images(&self) -> u64 {
        self.anon + self.shmem + self.swap + self.hugetlb
    }

    fn add(&mut self, rollup: &str) {
        let mut pss_dirty = 0;
        let (mut anon, mut shmem) = (0, 0);
        for (name, bytes) in rollup.lines().filter_map(field) {
            match name {
                "Rss" => self.rss += bytes,
                "Pss" => self.pss += bytes,
                "Pss_Anon" => anon = bytes,
                "Pss_Shmem" => shmem = bytes,
                "Anonymous" => self.anon_each += bytes,
                "Pss_Dirty" => pss_dirty = bytes,
                "Shared_Clean" | "Shared_Dirty" => self.shared += bytes,
                "Locked" => self.locked += bytes,
                "SwapPss" => self.swap += bytes,
                "Shared_Hugetlb" | "Private_Hugetlb" => self.hugetlb += bytes,
                _ => {}
            }
        }
        self.anon += anon;
        self.shmem += shmem;
        self.file_dirty += pss_dirty.saturating_sub(anon + shmem);
        self.processes += 1;
    }
}

/// `Name:   123 kB` → name and bytes.
fn field(line: &str) -> Option<(&str, u64)> {
    let (name, rest) = line.split_once(':')?;
    let kilobytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((name, kilobytes.saturating_mul(1024)))
}

/// Adds up the memory of `pids`. Processes that have ended, and those without memory of their own (zombies, kernel threads), count as nothing. Blocks: the kernel
/// walks the page tables, about 25 ms for each GiB of small pages; not for use inside a freeze.
#[must_use]
pub fn footprint(pids: &[i32]) -> Footprint {
    let mut total = Footprint::default();
    for pid in pids {
        match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            Ok(rollup) => total.add(&rollup),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound) || error.raw_os_error() == Some(NO_PROCESS) => {}
            Err(_) => total.unreadable += 1,
        }
    }
    total
}

/// ESRCH: what smaps_rollup answers for a process without memory.
const NO_PROCESS: i32 = 3;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    /// Not this process: other tests, beside this one, take and give back memory of it meanwhile.
    #[test]
    fn written_memory_appears_as_anonymous() {
        let mut writer = Command::new("dd").args(["if=/dev/zero", "bs=64M", "count=1"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // It writes what it has read, once it has all of that; and waits, since nobody reads more than a byte.
        let mut pipe = writer.stdout.take().unwrap();
        pipe.read_exact(&mut [0]).unwrap();
        let found = footprint(&[writer.id().cast_signed()]);
        drop(pipe);
        writer.wait().unwrap();
        assert!((64 << 20..72 << 20).contains(&found.anon), "{found:?}");
        assert!(found.images() >= found.anon && found.rss >= found.anon && found.processes == 1);
    }

    #[test]
    fn the_dead_and_the_bodiless_count_as_nothing() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        let ended = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !ended() {
            assert!(std::time::Instant::now() < end, "it does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let zombie = footprint(&[pid]);
        child.wait().unwrap();
        let (kernel_thread, dead) = (2, footprint(&[pid]));
        assert_eq!((zombie.rss, dead), (0, Footprint::default()));
        assert_eq!(footprint(&[kernel_thread]).rss, 0);
    }

    #[test]
    fn fields_are_read_as_bytes() {
        let mut total = Footprint::default();
        total.add("00400000-7ffd ---p 00000000 00:00 0    [rollup]\nRss:  8 kB\nPss: 6 kB\nPss_Dirty: 5 kB\nPss_Anon: 2 kB\nPss_File: 3 kB\nPss_Shmem: 1 kB\nShared_Clean: 4 kB\nAnonymous: 4 kB\nSwapPss: 16 kB\nPrivate_Hugetlb: 2048 kB\nLocked: 1 kB\n");
        let expected = Footprint {
            rss: 8 << 10,
            pss: 6 << 10,
            shared: 4 << 10,
            anon: 2 << 10,
            anon_each: 4 << 10,
            shmem: 1 << 10,
            file_dirty: 2 << 10,
            locked: 1 << 10,
            swap: 16 << 10,
            hugetlb: 2 << 20,
            processes: 1,
            unreadable: 0,
        };
        assert_eq!(total, expected);
        assert_eq!(total.images(), (2 << 10) + (1 << 10) + (16 << 10) + (2 << 20));
    }
}
