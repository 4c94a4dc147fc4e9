//! A small agent for the tests of this crate: it answers as told, holds what it is not told about, and notes every question.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use godwit_runtime::protocol::{Reply, Request, SOCKET};

/// A question with the moment at which it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub at: Instant,
    pub request: Request,
}

#[derive(Default)]
struct State {
    answers: HashMap<(String, &'static str), Reply>,
    held: Vec<(Request, UnixStream)>,
    asked: Vec<Asked>,
    answered: Vec<(Instant, Request)>,
    open: bool,
}

#[derive(Clone, Default)]
pub struct Agent(Arc<Mutex<State>>);

fn key(request: &Request) -> (String, &'static str) {
    let (container, kind) = match request {
        Request::Create { container, .. } => (container, "create"),
        Request::Keeper { container } => (container, "keeper"),
        Request::Images { container } => (container, "images"),
        Request::Gate { container, .. } => (container, "gate"),
        Request::Resumed { container, .. } => (container, "resumed"),
        Request::Restored { container, .. } => (container, "restored"),
    };
    (container.clone(), kind)
}

impl Agent {
    /// A scenario that failed while it looked must not spoil the others.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves until [`Agent::close`].
    pub fn open(&self) {
        fs::create_dir_all(Path::new(SOCKET).parent().unwrap()).unwrap();
        let _ = fs::remove_file(SOCKET);
        let listener = UnixListener::bind(SOCKET).unwrap();
        self.state().open = true;
        let agent = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if !agent.state().open {
                    return;
                }
                let agent = agent.clone();
                thread::spawn(move || agent.serve(stream.unwrap()));
            }
        });
    }

    /// Goes away: the socket refuses, all connections break.
    pub fn close(&self) {
        {
            let mut state = self.state();
            state.open = false;
            state.held.clear();
        }
        let _ = UnixStream::connect(SOCKET);
        thread::sleep(Duration::from_millis(50));
        fs::remove_file(SOCKET).unwrap();
    }

    fn serve(&self, mut stream: UnixStream) {
        let mut line = String::new();
        if BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).is_err() || line.is_empty() {
            return;
        }
        let request: Request = serde_json::from_str(&line).unwrap();
        let mut state = self.state();
        state.asked.push(Asked { at: Instant::now(), request: request.clone() });
        let reply = state.answers.get(&key(&request)).cloned().or(match request {
            Request::Resumed { .. } | Request::Restored { .. } => Some(Reply::Ok),
            Request::Create { .. } => Some(Reply::Keep),
            _ => None,
        });
        match reply {
            Some(reply) => {
                state.answered.push((Instant::now(), request));
                let _ = writeln!(stream, "{}", serde_json::to_string(&reply).unwrap());
            }
            None => state.held.push((request, stream)),
        }
    }

    /// Answers a kind of question of a container from now on, those that are held included.
    pub fn answer(&self, container: &str, kind: &'static str, reply: Reply) {
        let mut state = self.state();
        let wanted = (container.to_owned(), kind);
        let (now, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut state.held).into_iter().partition(|(request, _)| key(request) == wanted);
        state.held = rest;
        for (request, mut stream) in now {
            state.answered.push((Instant::now(), request));
            let _ = writeln!(stream, "{}", serde_json::to_string(&reply).unwrap());
        }
        state.answers.insert(wanted, reply);
    }

    /// Answers only what is held now; what comes later is held again.
    pub fn answer_once(&self, container: &str, kind: &'static str, reply: Reply) {
        self.answer(container, kind, reply);
        self.state().answers.remove(&(container.to_owned(), kind));
    }

    /// The questions of a kind so far.
    pub fn asked(&self, container: &str, kind: &str) -> Vec<Asked> {
        self.0
            .lock()
            .unwrap()
            .asked
            .iter()
            .filter(|asked| key(&asked.request) == (container.to_owned(), key(&asked.request).1) && key(&asked.request).1 == kind)
            .cloned()
            .collect()
    }

    /// When the last question of a kind was answered.
    pub fn answered_at(&self, container: &str, kind: &str) -> Instant {
        let state = self.state();
        state.answered.iter().rev().find(|(_, request)| key(request).0 == container && key(request).1 == kind).map(|(at, _)| *at).unwrap()
    }

    /// Waits for the `count`th question of a kind.
    pub fn wait(&self, container: &str, kind: &str, count: usize) -> Asked {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(asked) = self.asked(container, kind).get(count - 1) {
                return asked.clone();
            }
            assert!(Instant::now() < end, "{container}: no question {kind:?} number {count}; asked: {:?}", self.state().asked);
            thread::sleep(Duration::from_millis(1));
        }
    }
}
