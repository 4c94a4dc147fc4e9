//! The pager against a program that moves, drops, unmaps and forks its memory while it is filled, and compares every byte that it reads.
//!
//! The test starts itself anew as that program, which plays CRIU's part too: it registers its memory, hands over its userfaultfd as CRIU does, and goes on as a restored
//! process would. `GODWIT_FILLING_RUNS` (default 6) says how many programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod program;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use godwit_memory::awaited::{self, Awaited};
use godwit_memory::pager;
use godwit_memory::store::Store;
use godwit_memory::{PAGE, Range};

/// What the program is told in its environment: its history (a seed, or what is to happen), path of the socket.
const PROGRAM: &str = "GODWIT_FILLING_PROGRAM";
/// First address of the memory that is filled.
const BASE: u64 = 0x10_0000_0000;
/// Pages of it.
const PAGES: u64 = 24_000;

/// What page `number` held when the process stood still; some pages held nothing.
fn content(number: u64) -> [u8; 4096] {
    let mut page = [0; 4096];
    if number % 7 != 3 {
        page[..8].copy_from_slice(&(number + 1).to_le_bytes());
        page[4088..].copy_from_slice(&(!number).to_le_bytes());
    }
    page
}

fn main() {
    if let Ok(words) = std::env::var(PROGRAM) {
        let (history, path) = words.split_once(' ').unwrap();
        program::run(history, path);
    }
    let filter = std::env::args().nth(1).filter(|word| !word.starts_with('-')).unwrap_or_default();
    if std::env::args().any(|word| word == "--list") {
        return println!("what_moves_is_filled_where_it_is: test");
    }
    if !"what_moves_is_filled_where_it_is".contains(&filter) {
        return;
    }
    let runs: u64 = std::env::var("GODWIT_FILLING_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(6);
    let first = u64::from(std::process::id());
    for seed in first..first + runs {
        one(seed);
    }
    what_is_filled_is_given_back_and_nobody_else_is_filled_with_it();
    children_are_filled_when_their_parent_has_gone();
    what_comes_later_is_waited_for(first);
    what_will_never_come_is_the_end();
    a_page_that_is_missing_is_the_end();
}

/// Every page that is not in `later` is in the store.
fn fill_store(directory: &std::path::Path, seed: u64, later: impl Fn(u64) -> bool) {
    let mut store = Store::new(directory).unwrap();
    let wanted: Vec<u64> = (0..PAGES).filter(|number| number % 7 != 3).collect();
    let range = |number: u64| Range { start: BASE + number * PAGE, end: BASE + (number + 1) * PAGE };
    // Two rounds: what is left out of the first comes in the second, and some of the first comes again.
    let level = store.begin().unwrap();
    for number in wanted.iter().filter(|number| !(*number + seed).is_multiple_of(5)) {
        store.put(level, 1, &[range(*number)], &if number.is_multiple_of(11) { [0xee; 4096] } else { content(*number) }).unwrap();
    }
    let level = store.begin().unwrap();
    for number in wanted.iter().filter(|number| (*number + seed).is_multiple_of(5) || number.is_multiple_of(11)) {
        store.put(level, 1, &[range(*number)], &content(*number)).unwrap();
    }
    let list = |is_late: bool| BTreeMap::from([(1, wanted.iter().filter(|number| later(**number) == is_late).map(|number| range(*number)).collect())]);
    let mut rows = store.rows(&list(false)).unwrap();
    rows.extend(awaited::make(directory, &list(true)).unwrap());
    rows.sort_unstable_by_key(|row| row.range.start);
    pager::write_table(directory, &rows).unwrap();
}

fn start(history: &str, socket: &std::path::Path) -> std::process::Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(PROGRAM, format!("{history} {}", socket.display())).stdout(Stdio::piped()).spawn().unwrap()
}

fn one(seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    fill_store(&directory.path().join("store"), seed, |_| false);
    serve(&seed.to_string(), directory.path());
}

fn what_is_filled_is_given_back_and_nobody_else_is_filled_with_it() {
    for (late, levels) in [(false, ["0", "1"].as_slice()), (true, &["awaited"])] {
        // A tmpfs, as the agents' stores are on.
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let store = directory.path().join("store");
        fill_store(&store, 0, |_| late);
        let mut awaited = Awaited::open(&store).unwrap();
        while let Some((process, ranges)) = awaited.next(1 << 20) {
            let pages = ranges.iter().flat_map(Range::pages).flat_map(|address| content((address - BASE) / PAGE));
            awaited.put(process, &ranges, &pages.collect::<Vec<u8>>()).unwrap();
        }
        let held = || levels.iter().map(|level| std::fs::metadata(store.join(level).join("pages-1.img")).unwrap().blocks() * 512).collect::<Vec<_>>();
        assert!(held().iter().all(|bytes| *bytes > PAGES / 20 * PAGE), "{:?}", held());
        serve("alone", directory.path());
        assert!(held().iter().all(|bytes| *bytes == 0), "{:?}", held());
        std::fs::remove_file(directory.path().join("lazy-pages.socket")).unwrap();
        is_the_end(directory.path());
    }
}

fn children_are_filled_when_their_parent_has_gone() {
    let directory = tempfile::tempdir().unwrap();
    fill_store(&directory.path().join("store"), 0, |_| false);
    serve("parent", directory.path());
}

/// Serves the program of this history to its end.
fn serve(history: &str, directory: &std::path::Path) {
    let socket = directory.join("lazy-pages.socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut child = start(history, &socket);
    let filled = match pager::serve(&listener, &directory.join("store")) {
        Ok(filled) => filled,
        Err((error, held)) => {
            // It waits for pages that nobody fills any more.
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            drop(held);
            panic!("{history}: {error}; the program said {}", String::from_utf8_lossy(&output.stdout));
        }
    };
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.starts_with("good"), "{history}: {}: {said}", output.status);
    println!("{history}: {} bytes filled, {} faults; the program: {}", filled.bytes, filled.faults, said.trim());
}

/// Two of three pages come while the program runs, slowly, and what it waits for first.
fn what_comes_later_is_waited_for(seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    fill_store(&store, seed, |number| !number.is_multiple_of(3));
    let coming = std::thread::spawn(move || {
        let mut awaited = Awaited::open(&store).unwrap();
        while let Some((process, ranges)) = awaited.next(1 << 20) {
            let data: Vec<u8> = ranges.iter().flat_map(Range::pages).flat_map(|address| content((address - BASE) / PAGE)).collect();
            std::thread::sleep(std::time::Duration::from_millis(2));
            awaited.put(process, &ranges, &data).unwrap();
        }
    });
    serve(&seed.to_string(), directory.path());
    // What the program has given back need not come.
    drop(coming);
}

fn what_will_never_come_is_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    fill_store(&store, 0, |number| number > PAGES / 2);
    Awaited::open(&store).unwrap().lose();
    is_the_end(directory.path());
}

fn a_page_that_is_missing_is_the_end() {
    let directory = tempfile::tempdir().unwrap();
    fill_store(&directory.path().join("store"), 0, |_| false);
    // A file that has become shorter.
    let file = directory.path().join("store/0/pages-1.img");
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(4096).unwrap();
    is_the_end(directory.path());
}

fn is_the_end(directory: &std::path::Path) {
    let socket = directory.join("lazy-pages.socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut child = start("1", &socket);
    let outcome = pager::serve(&listener, &directory.join("store"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(outcome.is_err());
}
