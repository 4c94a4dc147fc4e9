//! Memory that the kernel may drop at any time is nobody's: it is in no image, and not in the store. Whenever it was made.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use godwit_memory::tracker::Tracker;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Makes a droppable mapping (MAP_DROPPABLE, Linux 6.11) for each line that it reads, and says where it is.
const PROGRAM: &str = "import ctypes, mmap, sys\n\
    kept = []\n\
    for line in sys.stdin:\n\
    \x20   try:\n\
    \x20       kept.append(mmap.mmap(-1, 4096, flags=0x28))\n\
    \x20   except OSError:\n\
    \x20       print('none', flush=True)\n\
    \x20       continue\n\
    \x20   kept[-1][0] = 1\n\
    \x20   print(ctypes.addressof(ctypes.c_char.from_buffer(kept[-1])), flush=True)\n";

#[test]
fn droppable_memory_is_left_to_nobody() {
    if let Err(error) = godwit_memory::scan::Support::probe() {
        return eprintln!("skipped: {error}");
    }
    let mut child = Command::new("python3").args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id().cast_signed();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut made = || {
        writeln!(stdin).unwrap();
        let mut said = String::new();
        stdout.read_line(&mut said).unwrap();
        said.trim().parse::<u64>().ok()
    };
    let Some(before) = made() else {
        child.kill().unwrap();
        child.wait().unwrap();
        return eprintln!("skipped: this kernel has no droppable memory (Linux 6.11)");
    };
    let mut tracker = Tracker::attach(pid, None).unwrap();
    tracker.round().unwrap();
    let later = made().unwrap();
    tracker.round().unwrap();
    let last_of_all = made().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    let last = tracker.last().unwrap();
    // What was made after the last round is seen only where that can be told at once.
    let seen = godwit_memory::flags::smaps(pid).is_ok().then_some((last_of_all, "after the last round"));
    for (address, when) in [(before, "before the tracking began"), (later, "after that")].into_iter().chain(seen) {
        let of = |ranges: &[godwit_memory::Range]| ranges.iter().any(|range| range.start <= address && address < range.end);
        assert!(!of(&last.left) && !of(&last.pages), "what was made {when} is kept");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
