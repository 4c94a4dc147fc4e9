//! The pager of a container whose memory travelled before: a process of its own that fills the restored processes while they run.
//!
//! ```text
//!   keeper ── listens at work/lazy-pages.socket, fork, exec ──▶ pager ── every page is there: exit 0
//!      │                                                          ▲  └── one cannot be filled: kills the container, waits until it is dead, exit 1
//!      └── runc restore --lazy-pages ── CRIU ── userfaultfds ─────┘
//! ```
//! It does not end with the keeper, the agent or the runtime: as long as a page is missing, it is needed. If it is killed itself, the keeper kills the container: what has
//! not been filled would read as zeros.

use std::{
    ffi::{CString, OsString},
    fs,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::{ffi::OsStrExt, net::UnixListener},
    },
    path::Path,
    time::{Duration, Instant},
};

use godwit_memory::pager;
use nix::poll::{PollFd, PollFlags, poll};

use crate::{entry, layout::Layout, process::Process, sys};

/// Number of the listening socket in the pager.
const SOCKET: RawFd = 3;
/// CRIU's name for it, in its work directory.
const NAME: &str = "lazy-pages.socket";
/// How long killed processes may take to go.
const DYING: Duration = Duration::from_secs(20);

/// Starts the pager and gives its pid. `work` is CRIU's work directory, `store` the page store's.
pub fn spawn(work: &Path, store: &Path, id: &str) -> io::Result<i32> {
    // The path may be longer than the name of a socket.
    let directory = fs::File::open(work)?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()))?;
    let log = fs::File::create(work.join("pager.log"))?;
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let argv: Vec<CString> =
        [entry::PAGER.as_bytes(), store.as_os_str().as_bytes(), id.as_bytes()].into_iter().filter_map(|word| CString::new(word).ok()).collect();
    if let Some(child) = sys::fork()? {
        return Ok(child);
    }
    // In the child: the container's log pipes are not the pager's.
    let _ = nix::unistd::setsid();
    for (from, to) in [(null.as_raw_fd(), 0), (null.as_raw_fd(), 1), (log.as_raw_fd(), 2), (listener.as_raw_fd(), SOCKET)] {
        if from == to {
            let _ = nix::fcntl::fcntl(&listener, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()));
        } else if sys::move_descriptor(from, to).is_err() {
            std::process::exit(126);
        }
    }
    sys::close_inherited(Some(SOCKET));
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
    let _ = nix::unistd::execv(c"/proc/self/exe", &argv);
    std::process::exit(126);
}

/// Whether the pager is among those that have ended, and not because it had finished.
pub fn failed(gone: &[(i32, i32)], pager: Option<i32>) -> bool {
    gone.iter().any(|(pid, code)| Some(*pid) == pager && *code != 0)
}

/// The pager itself; arguments: the store's directory and the container's id.
#[must_use]
pub fn run(arguments: &[OsString]) -> i32 {
    let [store, id] = arguments else { return 125 };
    let _ = nix::sys::prctl::set_name(c"godwit-pager");
    let listener = UnixListener::from(sys::own(SOCKET));
    if !await_criu(&listener) {
        return 0;
    }
    match pager::serve(&listener, Path::new(store)) {
        Ok(filled) => {
            let _ = writeln!(io::stderr(), "filled {} bytes, {} faults", filled.bytes, filled.faults);
            0
        }
        Err((error, unfilled)) => {
            let _ = writeln!(io::stderr(), "{error}");
            if let Some(layout) = id.to_str().and_then(Layout::existing) {
                end(&layout);
            }
            // Only now: whoever waits for a page goes on when this is dropped.
            drop(unfilled);
            1
        }
    }
}

/// Waits for CRIU; `false` when the keeper has gone before it came.
fn await_criu(listener: &UnixListener) -> bool {
    let keeper = nix::unistd::getppid();
    loop {
        let mut polled = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, 1000u16) {
            Ok(1) => return true,
            _ if nix::unistd::getppid() != keeper => return false,
            _ => {}
        }
    }
}

/// Kills the container if its processes may run already. Before that they are CRIU's, which ends with the keeper's attempt.
fn end(layout: &Layout) {
    let end = Instant::now() + DYING;
    let Ok(real) = layout.read::<Process>("resuming") else { return };
    while Instant::now() < end && Process::of(real.pid).is_some_and(|now| now == real) {
        let _ = sys::kill(real.pid, nix::libc::SIGKILL);
        std::thread::sleep(Duration::from_millis(5));
    }
}
