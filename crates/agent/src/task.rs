//! Tasks that go on about the same migration: what they log names it, as what the task that started them logs does (`godwit_rpc::logs`).

use tokio::task::JoinHandle;
use tracing::{Instrument, Span};

/// As `tokio::spawn`.
pub fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work.in_current_span())
}

/// As `tokio::task::spawn_blocking`.
pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
}
