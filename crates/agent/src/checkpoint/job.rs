//! A piece of work that goes on when nobody asks, and whose state can be asked for.

use std::{sync::Arc, time::Duration};

use godwit_rpc::v1::Failure;
use tokio::sync::watch;

/// How it stands.
#[derive(Clone, Debug, PartialEq)]
pub enum State<T> {
    /// The step that is being taken.
    Doing(&'static str),
    /// It ended well.
    Done(T),
    /// It ended.
    Failed(Failure),
}

/// A handle to it.
#[derive(Clone)]
pub struct Job<T> {
    state: Arc<watch::Sender<State<T>>>,
}

impl<T: Clone + Send + Sync + 'static> Job<T> {
    /// One that is in its first step.
    #[must_use]
    pub fn new(step: &'static str) -> Self {
        Self { state: Arc::new(watch::Sender::new(State::Doing(step))) }
    }

    /// The next step, unless it has ended.
    pub fn step(&self, step: &'static str) {
        self.state.send_if_modified(|state| {
            let goes_on = matches!(state, State::Doing(_));
            if goes_on {
                *state = State::Doing(step);
            }
            goes_on
        });
    }

    /// Its end.
    pub fn end(&self, outcome: Result<T, Failure>) {
        self.state.send_replace(match outcome {
            Ok(done) => State::Done(done),
            Err(why) => State::Failed(why),
        });
    }

    /// How it stands now.
    #[must_use]
    pub fn state(&self) -> State<T> {
        self.state.borrow().clone()
    }

    /// Whether it has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        !matches!(*self.state.borrow(), State::Doing(_))
    }

    /// How it stands when it has ended, or after `patience`.
    pub async fn wait(&self, patience: Duration) -> State<T> {
        let mut state = self.state.subscribe();
        let _ = tokio::time::timeout(patience, state.wait_for(|state| !matches!(state, State::Doing(_)))).await;
        self.state()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::failure;

    #[tokio::test]
    async fn an_end_is_an_end() {
        let job = Job::new("first");
        job.step("second");
        assert_eq!(job.wait(Duration::from_millis(1)).await, State::Doing("second"));
        job.end(Ok(7));
        job.step("third");
        assert!(job.ended());
        assert_eq!(job.wait(Duration::from_secs(60)).await, State::Done(7));
        let other: Job<u32> = Job::new("first");
        other.end(Err(failure("NodeError", "x", "y")));
        assert!(matches!(other.state(), State::Failed(why) if why.reason == "NodeError"));
    }
}
