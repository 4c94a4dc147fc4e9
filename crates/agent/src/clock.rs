//! Steps of the timeline, by this node's clock.
//!
//! Inside the freeze nothing may stay unexplained, so steps that follow each other are taken by a [`Relay`]: where one ends, the next has begun.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use godwit_rpc::v1::Step;

/// How long ago a step may have ended for the next one to begin there.
const RECENT: Duration = Duration::from_millis(200);

/// A step that is being taken.
pub struct Timer {
    name: &'static str,
    who: &'static str,
    detail: String,
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
        Self { name, who, detail: String::new(), wall_us: now_us(), start: Instant::now() }
    }

    /// The same about something, e.g. a container.
    #[must_use]
    pub fn about(mut self, detail: &str) -> Self {
        detail.clone_into(&mut self.detail);
        self
    }

    /// Ends the step.
    #[must_use]
    pub fn stop(self) -> Step {
        self.end(Instant::now())
    }

    fn end(self, now: Instant) -> Step {
        let took = now.saturating_duration_since(self.start);
        crate::METRICS.step(self.who, self.name, took);
        Step {
            phase: "Switching".into(),
            step: self.name.into(),
            who: self.who.into(),
            start_us: self.wall_us,
            duration_us: i64::try_from(took.as_micros()).unwrap_or(i64::MAX),
            detail: self.detail,
        }
    }
}

/// Steps one after the other: the end of one is the start of the next.
pub struct Relay {
    who: &'static str,
    running: Option<Timer>,
    ended: Option<Instant>,
}

impl Relay {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(who: &'static str) -> Self {
        Self { who, running: None, ended: None }
    }

    /// Whether a step is under way.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// The next step begins; gives the one that ends with it. One that follows closely begins where the last one ended.
    pub fn next(&mut self, name: &'static str) -> Option<Step> {
        let now = Instant::now();
        let ended = self.running.take().map(|timer| timer.end(now));
        let since = if ended.is_some() { now } else { self.ended.take().filter(|end| now.saturating_duration_since(*end) < RECENT).unwrap_or(now) };
        let late = i64::try_from(now.saturating_duration_since(since).as_micros()).unwrap_or_default();
        self.running = Some(Timer { name, who: self.who, detail: String::new(), wall_us: now_us().saturating_sub(late), start: since });
        ended
    }

    /// The step ends, and nothing follows for now.
    pub fn stop(&mut self) -> Option<Step> {
        let now = Instant::now();
        let step = self.running.take()?.end(now);
        self.ended = Some(now);
        Some(step)
    }

    /// Somebody else's step ended at this moment: what follows begins there.
    pub fn follow(&mut self, end: Instant) {
        self.ended = Some(end);
    }
}

/// Steps noted by several hands, for whoever reports them.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Vec<Step>>>);

impl Notes {
    /// Notes a step.
    pub fn push(&self, step: Step) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// All steps so far, which are then forgotten.
    #[must_use]
    pub fn take(&self) -> Vec<Step> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_relay_leaves_no_gap() {
        let mut relay = Relay::new("source");
        assert!(relay.next("one").is_none());
        let one = relay.next("two").unwrap();
        let two = relay.stop().unwrap();
        assert!((one.start_us + one.duration_us - two.start_us).abs() < 1000);
        std::thread::sleep(Duration::from_millis(5));
        relay.next("three");
        let three = relay.stop().unwrap();
        assert!((two.start_us + two.duration_us - three.start_us).abs() < 1000 && three.duration_us >= 5000, "{three:?}");
    }
}
