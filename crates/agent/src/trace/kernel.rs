//! The kernel's messages about tasks of the pod, from `/dev/kmsg`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use godwit_node::host::Host;
use godwit_trace::read::kernel;
use rustix::time::{ClockId, clock_gettime};

use super::Listener;
use crate::clock::now_us;

/// Longest message (`PRINTK_MESSAGE_MAX` and its keys).
const MESSAGE: usize = 8192;
const LOOK: Duration = Duration::from_millis(200);
/// Number of the first pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h): in it, pids are the kernel's own.
const FIRST: &str = "pid:[4026531836]";

/// Whether pids that the kernel tells are those that we see.
#[must_use]
pub fn pids_are_ours() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == FIRST)
}

/// When a clock of the kernel was 0, in microseconds since the epoch.
#[must_use]
pub fn zero_of(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now_us().saturating_sub(now.tv_sec.saturating_mul(1_000_000)).saturating_sub(now.tv_nsec / 1000)
}

fn open() -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open("/dev/kmsg")
}

/// Tells what the kernel still has.
pub async fn past(_: &Host, listener: &Listener) {
    let listener = listener.clone();
    let _ = tokio::task::spawn_blocking(move || match open() {
        Ok(mut file) => read(&mut file, &listener),
        Err(error) => listener.explain_blocking(&format!("no messages of the kernel: /dev/kmsg: {error}")),
    })
    .await;
}

/// Tells what comes, until nobody listens.
pub fn follow(_: &Host, listener: &Listener) {
    let Ok(mut file) = open() else { return };
    if file.seek(SeekFrom::End(0)).is_err() {
        return;
    }
    while !listener.gone() {
        read(&mut file, listener);
        std::thread::sleep(LOOK);
    }
}

fn read(file: &mut File, listener: &Listener) {
    let (zero, ours) = (zero_of(ClockId::Monotonic), pids_are_ours());
    let mut buffer = vec![0; MESSAGE];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                let text = String::from_utf8_lossy(&buffer[..length]);
                let about = listener.concerns(&text) || (ours && kernel::pids(&text).any(|pid| listener.interest().has_pid(pid)));
                if about && let Some(line) = kernel::line(&text, zero) {
                    listener.tell_blocking(line);
                }
            }
            // Messages were overwritten before they were read: the next read goes on behind them.
            Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) || error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
