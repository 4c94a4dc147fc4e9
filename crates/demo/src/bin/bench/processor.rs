//! Time of a processor.

use anyhow::{Context, Result};

/// Of the calling thread, which never waits for it: the first figure in `schedstat` (the kernel's Documentation/scheduler/sched-stats.rst).
const COUNT: &str = "/proc/thread-self/schedstat";

/// Seconds that the calling thread has had of a processor, in user and kernel mode.
///
/// # Errors
/// When the kernel does not count (`CONFIG_SCHED_INFO`).
pub fn spent() -> Result<f64> {
    let text = std::fs::read_to_string(COUNT).with_context(|| format!("{COUNT} cannot be read: this kernel counts no processor time of threads"))?;
    let nanoseconds: f64 = text.split(' ').next().and_then(|word| word.parse().ok()).with_context(|| format!("{COUNT} is not understood: {text}"))?;
    Ok(nanoseconds / 1e9)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn work_takes_time() {
        let before = spent().unwrap();
        std::hint::black_box((0..20_000_000_u64).map(std::hint::black_box).fold(0, u64::wrapping_add));
        assert!(spent().unwrap() > before);
    }
}
