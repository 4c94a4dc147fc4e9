//! The agent's own heap (glibc's): memory of a moving pod passes through it in pieces of a MiB, which it keeps for the next piece instead of returning each to the kernel, who would have to clear
//! the same pages again: that took a third of all the processor time of a copy. One arena for all threads: of no other does malloc_trim(3) give back what lies at its end.
#![allow(unsafe_code)]

use std::time::Duration;

use nix::libc;

/// Larger blocks are mapped and unmapped each by itself, in bytes.
const LARGE: i32 = 32 << 20;
/// So much stays at the end of the heap for the next piece, in bytes.
const KEPT: i32 = 16 << 20;
/// By so much it grows at least, in bytes.
const STEP: i32 = 1 << 20;
/// Between two times that it is given back.
const PAUSE: Duration = Duration::from_secs(20);

/// From now on freed blocks are kept; to be called before there are other threads. See mallopt(3), which refuses only what is out of range.
pub fn keep() {
    for (parameter, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, KEPT), (libc::M_TOP_PAD, STEP)] {
        // SAFETY: takes two numbers and changes only how the allocator asks the kernel for memory; glibc takes its own lock.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives to the kernel what is free, every now and then, unless the agent is busy.
pub async fn give_back(is_busy: impl Fn() -> bool + Send) {
    loop {
        tokio::time::sleep(PAUSE).await;
        if !is_busy() {
            // SAFETY: takes a number; only pages that no block uses are given back, under the allocator's own lock. See malloc_trim(3).
            let _ = crate::task::spawn_blocking(|| unsafe { libc::malloc_trim(0) }).await;
        }
    }
}
