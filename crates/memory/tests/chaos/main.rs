//! Random memory programs, tracked from outside and compared byte for byte.
//!
//! The test starts itself anew as the program that is tracked: its threads map, unmap, move, drop, protect, fork and write at random. Meanwhile rounds run; then the
//! program is stopped, the last changes are taken, and every page that the copy claims to have is compared with the program's memory, and every page of the program's
//! must be in exactly one of the copy, the known zeros, and what is left to CRIU. It is tracked twice: what the first time leaves behind must not deceive the second.
//!
//! `GODWIT_CHAOS_RUNS` (default 8) says how many programs, `GODWIT_CHAOS_SEED` the first one's seed, `GODWIT_CHAOS_WAY` (`Protection`, `Digests`; default all that this kernel has) how they are tracked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod program;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use godwit_memory::index::Known;
use godwit_memory::read::{self, Piece};
use godwit_memory::tracker::{Tracker, Tracking};
use godwit_memory::{PAGE, Range};

/// What the program is told in its environment: seed, transparent huge pages (0 or 1).
const PROGRAM: &str = "GODWIT_CHAOS_PROGRAM";

fn main() {
    if let Ok(words) = std::env::var(PROGRAM) {
        let mut words = words.split(' ').map(|word| word.parse::<u64>().unwrap());
        program::run(words.next().unwrap(), words.next().unwrap() == 1);
    }
    let filter = std::env::args().nth(1).filter(|word| !word.starts_with('-')).unwrap_or_default();
    if std::env::args().any(|word| word == "--list") {
        return println!("random_programs_arrive_as_they_are: test");
    }
    if !"random_programs_arrive_as_they_are".contains(&filter) {
        return;
    }
    let mut ways = vec![Tracking::Digests];
    match godwit_memory::scan::Support::probe() {
        Ok(_) => ways.push(Tracking::Protection),
        Err(error) => println!("skipped with write protection: {error}"),
    }
    if let Ok(only) = std::env::var("GODWIT_CHAOS_WAY") {
        ways.retain(|way| format!("{way:?}") == only);
    }
    let runs: u64 = std::env::var("GODWIT_CHAOS_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(8);
    let first = std::env::var("GODWIT_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    let mut bad = Vec::new();
    for (seed, way) in (first..first + runs).flat_map(|seed| ways.iter().map(move |way| (seed, *way))) {
        match one(seed, seed % 2 == 1, way) {
            Ok(said) => println!("seed {seed}, {way:?}: {said}"),
            Err(why) => {
                println!("seed {seed}, {way:?}: {why}");
                bad.push(seed);
            }
        }
    }
    assert!(bad.is_empty(), "seeds {bad:?} did not arrive as they were");
    println!("random programs: {runs} arrived as they are");
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn one(seed: u64, huge: bool, way: Tracking) -> Result<String, String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let child = command.env(PROGRAM, format!("{seed} {}", u8::from(huge))).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id().cast_signed();
    let mut running = Running(child);
    let mut said = BufReader::new(running.0.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");

    let mut copy: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut first = Tracker::attach(pid, Some(way)).map_err(|error| error.to_string())?;
    for round in 0..3 {
        let changed = first.round().map_err(|error| format!("round {round} of those given up: {error}"))?;
        take(&mut first, &changed, &mut copy)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(first);
    copy.clear();
    std::thread::sleep(Duration::from_millis(50));
    let mut tracker = Tracker::attach(pid, Some(way)).map_err(|error| format!("once more: {error}"))?;
    let rounds = 6 + seed % 7;
    let mut moved = 0;
    for round in 0..rounds {
        let changed = tracker.round().map_err(|error| format!("round {round}: {error}"))?;
        moved += take(&mut tracker, &changed, &mut copy)?;
        std::thread::sleep(Duration::from_millis(20 + seed * 37 % 150));
    }
    stop(pid);
    let last = tracker.last().map_err(|error| error.to_string())?;
    let late = take(&mut tracker, &last.changed, &mut copy)?;
    let complained = std::thread::spawn(move || said.map_while(Result::ok).collect::<Vec<_>>());

    for list in [&last.hidden, &last.pages, &last.changed, &last.left] {
        if list.windows(2).any(|pair| pair[0].end > pair[1].start) {
            return Err("a list is not in order".into());
        }
    }
    // The truth: the memory of the stopped program.
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let page_at = |at: u64| {
        let mut page = vec![0; 4096];
        memory.read_exact_at(&mut page, at).map(|()| page)
    };
    let (mut stored, mut zero) = (0, 0);
    for at in last.pages.iter().flat_map(Range::pages) {
        let truth = page_at(at).map_err(|error| format!("{at:x} cannot be read: {error}"))?;
        match tracker.index.get(at) {
            Known::Stored if copy.get(&at) == Some(&truth) => stored += 1,
            Known::Stored => return Err(format!("page {at:x} differs")),
            Known::Zero if truth.iter().all(|byte| *byte == 0) => zero += 1,
            Known::Zero => return Err(format!("page {at:x} is not zero")),
            Known::No => return Err(format!("page {at:x} is missing")),
        }
    }
    // What is in a hidden mapping and not in the list reads as zeros.
    let pages: std::collections::HashSet<u64> = last.pages.iter().flat_map(Range::pages).collect();
    for at in last.hidden.iter().flat_map(Range::pages).filter(|at| !pages.contains(at)) {
        if let Ok(truth) = page_at(at)
            && truth.iter().any(|byte| *byte != 0)
        {
            return Err(format!("page {at:x} holds something and is in no list"));
        }
    }
    if last.left.iter().any(|left| last.hidden.iter().any(|hidden| hidden.meets(left))) {
        return Err("a page is in the copy and left to CRIU".into());
    }
    drop(tracker);
    signal(pid, nix::libc::SIGCONT);
    std::thread::sleep(Duration::from_millis(100));
    drop(running);
    let complaints: Vec<String> = complained.join().unwrap();
    if !complaints.is_empty() {
        return Err(format!("the program complains: {complaints:?}"));
    }
    Ok(format!("{rounds} rounds, {moved} pages moved, {late} in the end; {stored} are there, {zero} zero"))
}

fn take(tracker: &mut Tracker, ranges: &[Range], copy: &mut HashMap<u64, Vec<u8>>) -> Result<u64, String> {
    let mut moved = 0;
    let pid = tracker.pid;
    read::pages(pid, ranges, &mut tracker.index, |piece: Piece| {
        for (at, page) in piece.ranges.iter().flat_map(Range::pages).zip(piece.data.chunks_exact(4096)) {
            copy.insert(at, page.to_vec());
            moved += 1;
        }
        Ok(())
    })
    .map_err(|error| format!("reading: {error}"))?;
    debug_assert_eq!(PAGE, 4096);
    Ok(moved)
}

fn signal(pid: i32, number: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::try_from(number).unwrap()).unwrap();
}

/// Returns when every thread stands still.
fn stop(pid: i32) {
    signal(pid, nix::libc::SIGSTOP);
    loop {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let all = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok()).all(|stat| {
            let state = stat.rsplit_once(") ").unwrap().1.chars().next().unwrap();
            matches!(state, 'T' | 'Z')
        });
        if all {
            return;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}
