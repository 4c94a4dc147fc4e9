//! Steps of the timeline, by this node's clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use godwit_rpc::v1::Step;

/// A step that is being taken.
pub struct Timer {
    name: &'static str,
    who: &'static str,
    wall_us: i64,
    start: Instant,
}

/// Microseconds since the epoch.
#[must_use]
pub fn now_us() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(i64::MAX)
}

impl Timer {
    /// Starts a step of the phase `Switching`.
    #[must_use]
    pub fn start(who: &'static str, name: &'static str) -> Self {
        Self { name, who, wall_us: now_us(), start: Instant::now() }
    }

    /// Ends the step.
    #[must_use]
    pub fn stop(self) -> Step {
        Step {
            phase: "Switching".into(),
            step: self.name.into(),
            who: self.who.into(),
            start_us: self.wall_us,
            duration_us: i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX),
        }
    }
}
