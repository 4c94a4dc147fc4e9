//! Room: /run for images, memory for the pod.

use super::{Check, State};
use crate::Host;
use crate::facts::Facts;

const AREA: &str = "room";
/// What a small pod needs.
const LITTLE: u64 = 256 << 20;
/// `TMPFS_MAGIC` (linux/magic.h).
const TMPFS: i64 = 0x0102_1994;

/// All of it.
pub fn all(host: &Host, facts: &Facts) -> Vec<Check> {
    let kind = rustix::fs::statfs(host.path("/run")).map(|stat| stat.f_type).ok();
    vec![run(kind == Some(TMPFS), facts.run_free), memory(facts.memory_available)]
}

fn run(tmpfs: bool, free: u64) -> Check {
    let found = format!("{} MiB free", free >> 20);
    match (tmpfs, free) {
        (false, _) => Check::bad(AREA, "/run", State::Warning, format!("{found}, no tmpfs: memory images would touch a disk"), "mount a tmpfs at /run"),
        (true, free) if free < LITTLE => Check::bad(
            AREA,
            "/run",
            State::Warning,
            found,
            "mount -o remount,size=50% /run (and in /etc/fstab): memory images of pods that come or leave lie there",
        ),
        (true, _) => Check::ok(AREA, "/run", found),
    }
}

fn memory(available: u64) -> Check {
    let found = format!("{} MiB available", available >> 20);
    if available < 2 * LITTLE {
        return Check::bad(AREA, "memory", State::Warning, found, "make room: a pod that comes needs its memory twice for a moment");
    }
    Check::ok(AREA, "memory", found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_judged() {
        assert_eq!([run(true, 1 << 30).state, run(true, 1 << 20).state, run(false, 1 << 30).state], [State::Ok, State::Warning, State::Warning]);
        assert_eq!([memory(4 << 30).state, memory(1 << 20).state], [State::Ok, State::Warning]);
    }
}
