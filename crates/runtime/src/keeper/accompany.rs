//! After the switch: the keeper follows the real init to its end.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Keeper, LAST_WORDS, attempt, ears::Event, family::reap, pager, spawn};
use crate::{
    client::{PAUSE, Question},
    process::Process,
    protocol::Request,
    sys,
};

impl Keeper {
    /// Waits for the real init, telling the agent meanwhile, and gives its status.
    pub(super) fn accompany(&self, real: Process, mut ended: Option<i32>, pending: &[i32], pager: Option<i32>) -> i32 {
        spawn::drop_standard_descriptors();
        for signal in pending {
            let _ = sys::kill(real.pid, *signal);
        }
        attempt::apply_updates(&self.layout, &self.record);
        let container = self.layout.id.clone();
        let mut reports = VecDeque::from([Request::Restored { container: container.clone(), code: 0, output: String::new() }]);
        if !self.layout.has("told") {
            reports.push_front(Request::Resumed { container, init_pid: real.pid });
        }
        let mut question: Option<Question> = None;
        let mut end = None;
        loop {
            if let Some(code) = ended {
                let end = *end.get_or_insert_with(|| Instant::now() + LAST_WORDS);
                if reports.is_empty() || Instant::now() > end {
                    return code;
                }
            }
            if question.is_none() {
                question = reports.front().and_then(|request| Question::send(request).ok());
            }
            let timeout = (ended.is_some() || (question.is_none() && !reports.is_empty())).then_some(PAUSE);
            match self.ears.wait(question.as_ref().map(Question::descriptor), timeout) {
                Event::Child => {
                    let gone = reap();
                    if pager::failed(&gone, pager) {
                        let _ = sys::kill(real.pid, nix::libc::SIGKILL);
                    }
                    if let Some((_, code)) = gone.into_iter().find(|(pid, _)| *pid == real.pid) {
                        ended = Some(code);
                    }
                }
                Event::Signal(signal) => drop(sys::kill(real.pid, signal)),
                Event::Readable => match question.as_mut().map(Question::read) {
                    Some(Ok(Some(_))) => {
                        reports.pop_front();
                        question = None;
                        if reports.len() == 1 {
                            let _ = self.layout.mark("told");
                        }
                    }
                    Some(Err(_)) => {
                        question = None;
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    _ => {}
                },
                Event::Timeout => {}
            }
        }
    }
}
