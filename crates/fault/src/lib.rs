//! Named points at which a test can crash, delay or fail a process.
//!
//! A test writes an order into the directory that `GODWIT_FAULTS` names; the file is called like the point. Whoever passes the point takes the file away
//! and obeys. Each file fires once, in one process. Without the variable a point costs one comparison.
//!
//! ```text
//!   test ── writes ──▶ $GODWIT_FAULTS/controller.switching.outcome     crash | delay MS | fail
//!                                       │ removed when it fires
//!                                       ▼
//!   controller ── point("controller.switching.outcome") ──▶ SIGKILL to itself | sleeps | Err
//! ```
//!
//! A process that does work for several parties names the one that it is at work for ([`within`], e.g. a namespace): then an order in a file `NAME@PARTY` is for that party's
//! work only.
//!
//! `crash` is SIGKILL, so that nothing is flushed, no destructor runs and nobody is told: what a test sees is what a power cut of this process leaves.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Environment variable that names the directory of orders.
pub const VARIABLE: &str = "GODWIT_FAULTS";

tokio::task_local! {
    /// Whom the work is for.
    static PARTY: String;
}

/// Does work for a party, so that a test can order something for this party only.
pub async fn within<F: Future>(party: String, work: F) -> F::Output {
    PARTY.scope(party, work).await
}

/// A point was ordered to fail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fault injected at {point}")]
pub struct Injected {
    /// Name of the point.
    pub point: String,
}

/// What a file orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// SIGKILL to the own process.
    Crash,
    /// Sleep, then go on.
    Delay(Duration),
    /// Return [`Injected`].
    Fail,
}

impl Order {
    /// Reads an order; `None` for anything that is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let order = match words.next()? {
            "crash" => Self::Crash,
            "fail" => Self::Fail,
            "delay" => Self::Delay(Duration::from_millis(words.next()?.parse().ok()?)),
            _ => return None,
        };
        words.next().is_none().then_some(order)
    }
}

/// Passes the point `name`, e.g. `controller.preparing.pod-created`.
///
/// # Errors
/// [`Injected`] when a test ordered the point to fail.
pub async fn point(name: &str) -> Result<(), Injected> {
    match directory().and_then(|directory| take(directory, name)) {
        None => Ok(()),
        Some(Order::Delay(time)) => {
            tracing::warn!(point = name, ?time, "fault: delay");
            tokio::time::sleep(time).await;
            Ok(())
        }
        Some(order) => obey(order, name),
    }
}

/// [`point`] for code outside an async runtime.
///
/// # Errors
/// [`Injected`] when a test ordered the point to fail.
pub fn point_blocking(name: &str) -> Result<(), Injected> {
    match directory().and_then(|directory| take(directory, name)) {
        None => Ok(()),
        Some(Order::Delay(time)) => {
            tracing::warn!(point = name, ?time, "fault: delay");
            std::thread::sleep(time);
            Ok(())
        }
        Some(order) => obey(order, name),
    }
}

fn obey(order: Order, name: &str) -> Result<(), Injected> {
    match order {
        Order::Crash => {
            // Killing oneself cannot fail; if it did, the process would go on as if nothing had been ordered.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            Ok(())
        }
        Order::Fail => {
            tracing::warn!(point = name, "fault: fail");
            Err(Injected { point: name.to_owned() })
        }
        Order::Delay(_) => Ok(()),
    }
}

fn directory() -> Option<&'static Path> {
    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    DIRECTORY.get_or_init(|| std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)).as_deref()
}

/// The order for `name`: one for the party that the work is for, or one for everybody.
fn take(directory: &Path, name: &str) -> Option<Order> {
    let party = PARTY.try_with(|party| format!("{name}@{party}")).ok();
    party.and_then(|own| take_file(directory, &own)).or_else(|| take_file(directory, name))
}

/// Reads an order and takes it away. Of several that pass the point at once, one gets it.
fn take_file(directory: &Path, name: &str) -> Option<Order> {
    if name.contains('/') {
        return None;
    }
    let path = directory.join(name);
    let text = std::fs::read_to_string(&path).ok()?;
    std::fs::remove_file(&path).ok()?;
    let order = Order::parse(&text);
    if order.is_none() {
        tracing::warn!(point = name, text, "fault: not an order, ignored");
    }
    order
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn orders_are_read() {
        assert_eq!(Order::parse("crash\n"), Some(Order::Crash));
        assert_eq!(Order::parse("fail"), Some(Order::Fail));
        assert_eq!(Order::parse(" delay 250 "), Some(Order::Delay(Duration::from_millis(250))));
        for wrong in ["", "delay", "delay x", "crash now", "panic"] {
            assert_eq!(Order::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_file_fires_once() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.b"), "fail").unwrap();
        assert_eq!(take(directory.path(), "a.b"), Some(Order::Fail));
        assert_eq!(take(directory.path(), "a.b"), None);
        assert_eq!(take(directory.path(), "other"), None);
    }

    #[tokio::test]
    async fn an_order_for_a_party_is_for_its_work_only() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.b@shop"), "fail").unwrap();
        assert_eq!(take(directory.path(), "a.b"), None);
        assert_eq!(within("other".into(), async { take(directory.path(), "a.b") }).await, None);
        assert_eq!(within("shop".into(), async { take(directory.path(), "a.b") }).await, Some(Order::Fail));
    }

    #[test]
    fn without_the_variable_nothing_happens() {
        assert_eq!(point_blocking("any"), Ok(()));
    }

    #[test]
    fn failing_names_the_point() {
        let error = obey(Order::Fail, "x.y").unwrap_err();
        assert_eq!(error.to_string(), "fault injected at x.y");
    }
}
