//! What tracking a process does to it, and what is left of that: a second tracking finds everything, and the process its signals and the pages that it shares.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use godwit_memory::range::subtract;
use godwit_memory::read::{self, may_share};
use godwit_memory::scan::{Mode, Support};
use godwit_memory::tracker::{Tracker, Tracking};
use godwit_memory::{Error, Range, footprint, maps};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SIZE: u64 = 1 << 20;

/// Has a mapping, and room behind it. At the first line that it reads it moves another one there, which the kernel joins with it; at every line it writes all pages.
const JOINING: &str = "import ctypes, sys\n\
    libc = ctypes.CDLL(None)\n\
    libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p\n\
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)\n\
    libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)\n\
    size = 1 << 20\n\
    room = libc.mmap(None, 4 * size, 0, 0x22, -1, 0)\n\
    place = libc.mmap(room, size, 3, 0x32, -1, 0)\n\
    other = libc.mmap(room + 3 * size, size, 3, 0x32, -1, 0)\n\
    ctypes.memset(place, 1, size)\n\
    print(place, flush=True)\n\
    for number, line in enumerate(sys.stdin):\n\
    \x20   if number == 0:\n\
    \x20       libc.mremap(other, size, size, 3, place + size)\n\
    \x20   ctypes.memset(place, 2 + number, size)\n\
    \x20   print(number, flush=True)\n";

/// Handles SIGTRAP, and rests.
const TRAPPING: &str = "import signal, sys\n\
    signal.signal(signal.SIGTRAP, lambda *_: None)\n\
    print('ready', flush=True)\n\
    sys.stdin.read()\n";

/// Shares 16 MiB with a child, whose number it says, and rests. The child ends with it.
const SHARING: &str = "import os, sys\n\
    held = bytearray(b'x') * (16 << 20)\n\
    alive, own = os.pipe()\n\
    child = os.fork()\n\
    if child == 0:\n\
    \x20   os.close(own)\n\
    \x20   os.read(alive, 1)\n\
    \x20   os._exit(0)\n\
    print(child, flush=True)\n\
    sys.stdin.read()\n";

/// A program in Python. It is killed when the test is done with it.
struct Program {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    /// Started; and what it says first.
    fn start(text: &str) -> (Self, String) {
        let mut child = Command::new("python3").args(["-c", text]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut program = Self { child, stdin, stdout };
        let said = program.hear();
        (program, said)
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn hear(&mut self) -> String {
        let mut said = String::new();
        self.stdout.read_line(&mut said).unwrap();
        said.trim().to_owned()
    }

    /// Gives it a line, and returns when it has done what it does then.
    fn goes_on(&mut self) {
        writeln!(self.stdin).unwrap();
        self.hear();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_protected_here() -> bool {
    Support::probe().inspect_err(|error| eprintln!("skipped: {error}")).is_ok() && cfg!(target_arch = "x86_64")
}

fn take(tracker: &mut Tracker, ranges: &[Range], copy: &mut HashMap<u64, Vec<u8>>) {
    read::pages(tracker.pid, ranges, &mut tracker.index, |piece| {
        copy.extend(piece.ranges.iter().flat_map(Range::pages).zip(piece.data.chunks_exact(4096).map(<[u8]>::to_vec)));
        Ok(())
    })
    .unwrap();
}

#[test]
fn marks_of_an_earlier_tracking_are_not_believed() {
    if !is_protected_here() {
        return;
    }
    let (mut program, said) = Program::start(JOINING);
    let pid = program.pid();
    let start: u64 = said.parse().unwrap();
    let place = Range { start, end: start + SIZE };
    let mut copy = HashMap::new();

    let mut first = Tracker::attach(pid, Some(Tracking::Protection)).unwrap();
    let changed = first.round().unwrap();
    take(&mut first, &changed, &mut copy);
    assert!(matches!(Tracker::attach(pid, Some(Tracking::Protection)), Err(Error::Busy(busy)) if busy == pid), "nobody else may track it");
    program.goes_on();
    drop(first);
    copy.clear();
    let mut left = 0;
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).unwrap();
    Support::probe().unwrap().scan(&pagemap, place, Mode::Marked, |pages| left += pages.range.len()).unwrap();
    if left == 0 {
        eprintln!("this kernel has left no marks that could be mistaken");
    }

    let mut second = Tracker::attach(pid, Some(Tracking::Protection)).unwrap();
    let changed = second.round().unwrap();
    assert_eq!(subtract(&[place], &changed), [], "the first round finds everything; {left} bytes were marked");
    take(&mut second, &changed, &mut copy);
    program.goes_on();
    let changed = second.round().unwrap();
    assert_eq!(subtract(&[place], &changed), [], "what was written since is found");
    take(&mut second, &changed, &mut copy);
    program.goes_on();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    let last = second.last().unwrap();
    take(&mut second, &last.changed, &mut copy);
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    for at in place.pages() {
        let mut truth = vec![0; 4096];
        memory.read_exact_at(&mut truth, at).unwrap();
        assert_eq!(copy.get(&at), Some(&truth), "page {at:#x}");
    }
}

#[test]
fn a_process_keeps_its_signals() {
    if !is_protected_here() {
        return;
    }
    let (program, said) = Program::start(TRAPPING);
    assert_eq!(said, "ready");
    let signals = || -> Vec<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
        let names = ["SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:", "SigCgt:"];
        status.lines().filter(|line| names.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect()
    };
    let before = signals();
    assert_eq!(before.len(), 5, "{before:?}");
    drop(Tracker::attach(program.pid(), Some(Tracking::Protection)).unwrap());
    assert_eq!(signals(), before);
}

#[test]
fn forked_processes_go_on_sharing_what_is_read() {
    let (program, said) = Program::start(SHARING);
    let both = [program.pid(), said.parse().unwrap()];
    assert!(may_share(&both) && !may_share(&both[..1]));
    assert!(!may_share(&[both[0], std::process::id().cast_signed()]), "another program");
    let held: Vec<Range> = maps::of(both[0]).unwrap().iter().filter(|mapping| mapping.travels()).map(|mapping| mapping.range).collect();
    let before = footprint(&both);
    let mut bytes = 0;
    for pid in both {
        let count = |piece: read::Piece| {
            bytes += piece.data.len();
            Ok(())
        };
        read::shared_pages(pid, &held, &mut godwit_memory::index::Index::default(), || true, count).unwrap();
    }
    assert!(bytes >= 32 << 20, "{bytes} bytes were read");
    let after = footprint(&both);
    assert!(after.anon < before.anon + (4 << 20), "{before:?} became {after:?}");
}
