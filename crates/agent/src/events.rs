//! What happened so far, for everybody who listens: whoever attaches later hears it from the start.

use std::sync::{Arc, Mutex, PoisonError};

use futures::Stream;
use tokio::sync::watch;

/// A log that can be followed.
pub struct Events<T> {
    entries: Mutex<Vec<T>>,
    grown: watch::Sender<usize>,
}

impl<T: Clone + Send + 'static> Events<T> {
    /// An empty log.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { entries: Mutex::default(), grown: watch::Sender::default() })
    }

    /// Adds an entry.
    pub fn push(&self, entry: T) {
        let length = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.push(entry);
            entries.len()
        };
        self.grown.send_replace(length);
    }

    /// Every entry from the first on, up to and with the first that `last` accepts.
    pub fn follow(self: &Arc<Self>, last: impl Fn(&T) -> bool + Send + 'static) -> impl Stream<Item = T> + Send + 'static {
        let log = self.clone();
        async_stream::stream! {
            let mut grown = log.grown.subscribe();
            let mut next = 0;
            loop {
                grown.borrow_and_update();
                loop {
                    let entry = log.entries.lock().unwrap_or_else(PoisonError::into_inner).get(next).cloned();
                    let Some(entry) = entry else { break };
                    next += 1;
                    let end = last(&entry);
                    yield entry;
                    if end {
                        return;
                    }
                }
                if grown.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn late_listeners_hear_everything() {
        let events = Events::new();
        events.push(1);
        let early = events.follow(|entry| *entry == 3);
        events.push(2);
        let pushing = events.clone();
        tokio::spawn(async move { pushing.push(3) });
        assert_eq!(early.collect::<Vec<_>>().await, [1, 2, 3]);
        assert_eq!(events.follow(|entry| *entry == 2).collect::<Vec<_>>().await, [1, 2]);
    }
}
