//! The keeper's children, and its own standing with the kernel.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::BURIAL;
use crate::{process, sys};

/// Takes the status of every child that has ended: pid and exit code, 128 + n for a signal.
pub fn reap() -> Vec<(i32, i32)> {
    let mut gone = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => gone.push((pid.as_raw(), code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => gone.push((pid.as_raw(), 128 + signal as i32)),
            Ok(WaitStatus::StillAlive) | Err(_) => return gone,
            Ok(_) => {}
        }
    }
}

/// Kills every child, and every child that is left to us thereby, until there is none. `first` dies first, so that it starts nothing any more.
pub fn bury(gone: &mut Vec<(i32, i32)>, first: Option<i32>) {
    let end = Instant::now() + BURIAL;
    if let Some(pid) = first {
        let _ = sys::kill(pid, nix::libc::SIGKILL);
    }
    loop {
        gone.extend(reap());
        let rest = process::children();
        if rest.is_empty() || Instant::now() > end {
            return;
        }
        for pid in rest {
            let _ = sys::kill(pid, nix::libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Lowers the own oom_score_adj as far as the kernel lets us (below the present value it takes CAP_SYS_RESOURCE) and gives what it was.
pub fn lower_oom_score() -> String {
    const FILE: &str = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(FILE).unwrap_or_else(|_| "0".into()).trim().to_owned();
    let present: i32 = before.parse().unwrap_or_default();
    for score in [-1000, -999, -900, -500, 0].into_iter().filter(|score| *score < present) {
        if fs::write(FILE, score.to_string()).is_ok() {
            break;
        }
    }
    before
}
