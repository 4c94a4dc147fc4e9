//! Before the switch: questions to the agent that no restart of it loses, and that a signal ends.

use std::time::{Duration, Instant};

use super::{Keeper, Order, ears::Event, family::reap};
use crate::{
    client::{PAUSE, Question},
    fate::Fate,
    protocol::{Reply, Request},
};

impl Keeper {
    /// Asks the agent what to do, for ever.
    pub(super) fn await_order(&self) -> Order {
        let request = Request::Keeper { container: self.layout.id.clone() };
        loop {
            match self.ask(&request, None) {
                Ok(Reply::Restore { images, criu, store }) => return Order::Restore { images, criu, store },
                Ok(Reply::Exit { code }) => return Order::Exit(code),
                Ok(_) => std::thread::sleep(PAUSE),
                Err(signal) => return Order::Signal(signal),
            }
        }
    }

    /// Ends as the agent said, but not before the OCI `start`: a container that ends sooner cannot be started, and that is an error to some callers.
    pub(super) fn exit(&self, code: i32) -> i32 {
        while !self.layout.has("started") {
            if let Event::Signal(signal) = self.ears.wait(None, Some(Duration::from_millis(50)))
                && self.stops()
            {
                return 128 + signal;
            }
        }
        code
    }

    /// One question, asked again whenever the connection breaks. `Err`: a signal that ends the container came first; `limit` gives up with signal 0.
    pub(super) fn ask(&self, request: &Request, limit: Option<Duration>) -> Result<Reply, i32> {
        let end = limit.map(|limit| Instant::now() + limit);
        let mut question: Option<Question> = None;
        loop {
            if question.is_none() {
                question = Question::send(request).ok();
            }
            let pause = if question.is_some() { None } else { Some(PAUSE) };
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(0);
            }
            let timeout = [pause, left].into_iter().flatten().min();
            match self.ears.wait(question.as_ref().map(Question::descriptor), timeout) {
                Event::Signal(signal) if self.stops() => return Err(signal),
                Event::Child => drop(reap()),
                Event::Readable => match question.as_mut().map(Question::read) {
                    Some(Ok(Some(reply))) => return Ok(reply),
                    Some(Ok(None)) | None => {}
                    Some(Err(_)) => {
                        question = None;
                        std::thread::sleep(Duration::from_millis(20));
                    }
                },
                Event::Signal(_) | Event::Timeout => {}
            }
        }
    }

    /// Whether the container is stopped for good now.
    pub(super) fn stops(&self) -> bool {
        !matches!(Fate::end(&self.layout), Ok(Fate::Passed(_)))
    }
}
