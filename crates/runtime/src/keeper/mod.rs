//! The keeper: a tiny process in the place of a container's init, from `create` until the container ends.
//!
//! ```text
//!           agent: Exit / SIGTERM…                      runc restore failed: Restored(code), fresh attempt directory
//!        ┌───────────────────────▶ exit  ◀──────┐   ┌──────────────┐
//!        │                                       │   ▼              │
//!   [waiting: in the container's cgroup] ── Restore ──▶ [restoring: runc restore as a child]
//!                                                                   │ exit 0: Restored(0)
//!                                                                   ▼
//!                                                    [accompanying: waits for the real init] ──▶ exits with its status
//! ```
//!
//! It is a subreaper, so the real init becomes its child when `runc restore` ends. The container runtime never learns of the change: it waits for the keeper.

mod attempt;
mod ears;
mod spawn;

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use self::{
    attempt::Attempt,
    ears::{Ears, Event},
};
use crate::{
    cgroup,
    client::{PAUSE, Question},
    fate::Fate,
    layout::{Layout, write_atomically},
    process::{self, Process},
    protocol::{Reply, Request},
    record::Record,
    sys,
};

pub use self::spawn::spawn;

/// How long a keeper that is ending tries to tell the agent why.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the remains of a failed restore may take to die.
const BURIAL: Duration = Duration::from_secs(10);

/// Runs the keeper; `arguments` is the container's id.
#[must_use]
pub fn run(arguments: &[OsString]) -> i32 {
    let started = spawn::status_pipe();
    let layout = arguments.first().and_then(|id| id.to_str()).and_then(Layout::existing);
    let Some(layout) = layout else { return 125 };
    let keeper = match Keeper::start(layout.clone()) {
        Ok(keeper) => keeper,
        Err(error) => {
            spawn::tell(started, &error.to_string());
            return 125;
        }
    };
    spawn::tell(started, spawn::UP);
    let code = keeper.live();
    let _ = write_atomically(&layout.file("exited"), code.to_string().as_bytes());
    code
}

/// What the agent or a signal wants.
enum Order {
    Restore { images: PathBuf, criu: Vec<String> },
    Exit(i32),
    Signal(i32),
}

/// How an attempt ended.
enum Outcome {
    Runs { real: Process, ended: Option<i32>, pending: Vec<i32> },
    Failed,
    Stopped(i32),
}

/// The keeper's own state.
struct Keeper {
    layout: Layout,
    record: Record,
    ears: Ears,
    /// oom_score_adj before the keeper lowered it; what it starts gets it back.
    oom: String,
}

impl Keeper {
    /// Takes the container's place: cgroup, oom score, pid file.
    fn start(layout: Layout) -> io::Result<Self> {
        let record: Record = layout.read("record.json")?;
        sys::reset_child_signal();
        nix::sys::prctl::set_child_subreaper(true)?;
        let _ = nix::sys::prctl::set_name(c"godwit-keeper");
        let ears = Ears::new()?;
        std::env::set_current_dir("/")?;
        let oom = lower_oom_score();
        cgroup::enter(&record.cgroup)?;
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        layout.write("keeper", &Process::of(pid).ok_or(io::ErrorKind::NotFound)?)?;
        if let Some(file) = &record.pid_file {
            write_atomically(file, pid.to_string().as_bytes())?;
        }
        Ok(Self { layout, record, ears, oom })
    }

    /// From the first question to the exit code.
    fn live(&self) -> i32 {
        for number in 1.. {
            match self.await_order() {
                Order::Exit(code) => return self.exit(code),
                Order::Signal(signal) => return 128 + signal,
                Order::Restore { images, criu } => match self.restore(number, images, &criu) {
                    Outcome::Runs { real, ended, pending } => return self.accompany(real, ended, &pending),
                    Outcome::Stopped(signal) => return 128 + signal,
                    Outcome::Failed => {}
                },
            }
        }
        125
    }

    /// Asks the agent what to do, for ever.
    fn await_order(&self) -> Order {
        let request = Request::Keeper { container: self.layout.id.clone() };
        loop {
            match self.ask(&request, None) {
                Ok(Reply::Restore { images, criu }) => return Order::Restore { images, criu },
                Ok(Reply::Exit { code }) => return Order::Exit(code),
                Ok(_) => std::thread::sleep(PAUSE),
                Err(signal) => return Order::Signal(signal),
            }
        }
    }

    /// Ends as the agent said, but not before the OCI `start`: a container that ends sooner cannot be started, and that is an error to some callers.
    fn exit(&self, code: i32) -> i32 {
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
    fn ask(&self, request: &Request, limit: Option<Duration>) -> Result<Reply, i32> {
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
    fn stops(&self) -> bool {
        !matches!(Fate::end(&self.layout), Ok(Fate::Passed(_)))
    }

    /// One `runc restore`, from its preparation to its report.
    fn restore(&self, number: u32, images: PathBuf, criu: &[String]) -> Outcome {
        let attempt = Attempt::new(&self.layout, &self.record, number, images);
        cgroup::leave(&self.record.origin);
        let child = match attempt.prepare(criu).and_then(|()| attempt.start(&self.oom)) {
            Ok(child) => child,
            Err(error) => {
                return self.failed(&attempt, 126, Some(format!("runc restore could not be started: {error}")));
            }
        };
        let (mut gone, mut pending, mut stopped) = (Vec::new(), Vec::new(), None);
        let status = loop {
            if let Some((_, code)) = gone.iter().find(|(pid, _)| *pid == child) {
                break *code;
            }
            match self.ears.wait(None, None) {
                Event::Child => gone.extend(reap()),
                Event::Signal(signal) if stopped.is_none() => {
                    if self.stops() {
                        stopped = Some(signal);
                        bury(&mut gone, Some(child));
                    } else {
                        pending.push(signal);
                    }
                }
                _ => {}
            }
        };
        if let Some(signal) = stopped {
            let code = if status == 0 { 128 + signal } else { status };
            let _ = self.failed(&attempt, code, Some("the container was stopped before the switch".into()));
            return Outcome::Stopped(signal);
        }
        let real = attempt.real().filter(|_| status == 0);
        let Some(real) = real else {
            return self.failed(&attempt, if status == 0 { 125 } else { status }, None);
        };
        if Fate::read(&self.layout).ok() != Some(Fate::Passed(number)) {
            // CRIU let the processes run without asking. They must not: nobody has decided that this node owns them.
            let _ = sys::kill(real.pid, nix::libc::SIGKILL);
            return self.failed(&attempt, 125, Some("CRIU did not run the gate (action-script in $HOME/.criu/default.conf); the processes were killed".into()));
        }
        let _ = self.layout.write("restored", &real);
        gone.extend(reap());
        let ended = gone.iter().find(|(pid, _)| *pid == real.pid).map(|(_, code)| *code);
        Outcome::Runs { real, ended, pending }
    }

    /// Cleans up after a failed attempt, takes the container's place again and reports.
    fn failed(&self, attempt: &Attempt, code: i32, why: Option<String>) -> Outcome {
        bury(&mut Vec::new(), None);
        cgroup::empty(&self.record.cgroup, BURIAL);
        attempt.forget();
        let _ = Fate::reopen(&self.layout);
        let _ = cgroup::enter(&self.record.cgroup);
        let output = [why, Some(attempt.diagnosis())].into_iter().flatten().collect::<Vec<_>>().join("\n");
        let request = Request::Restored { container: self.layout.id.clone(), code, output };
        let limit = matches!(Fate::read(&self.layout), Ok(Fate::Ended)).then_some(LAST_WORDS);
        match self.ask(&request, limit) {
            Err(signal) if signal > 0 => Outcome::Stopped(signal),
            _ => Outcome::Failed,
        }
    }

    /// Waits for the real init, telling the agent meanwhile, and gives its status.
    fn accompany(&self, real: Process, mut ended: Option<i32>, pending: &[i32]) -> i32 {
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
                    if let Some((_, code)) = reap().into_iter().find(|(pid, _)| *pid == real.pid) {
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

/// Takes the status of every child that has ended: pid and exit code, 128 + n for a signal.
fn reap() -> Vec<(i32, i32)> {
    let mut gone = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => gone.push((pid.as_raw(), code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => gone.push((pid.as_raw(), 128 + signal as i32)),
            Ok(WaitStatus::StillAlive) | Err(_) => return gone,
            Ok(_) => {}
        }
    }
}

/// Kills every child, and every child that is left to us thereby, until there is none. `first` dies first, so that it starts nothing any more.
fn bury(gone: &mut Vec<(i32, i32)>, first: Option<i32>) {
    let end = Instant::now() + BURIAL;
    if let Some(pid) = first {
        let _ = sys::kill(pid, nix::libc::SIGKILL);
    }
    loop {
        gone.extend(reap());
        let rest = process::children();
        if rest.is_empty() || Instant::now() > end {
            return;
        }
        for pid in rest {
            let _ = sys::kill(pid, nix::libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Lowers the own oom_score_adj as far as the kernel lets us (below the present value it takes CAP_SYS_RESOURCE) and gives what it was.
fn lower_oom_score() -> String {
    const FILE: &str = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(FILE).unwrap_or_else(|_| "0".into()).trim().to_owned();
    let present: i32 = before.parse().unwrap_or_default();
    for score in [-1000, -999, -900, -500, 0].into_iter().filter(|score| *score < present) {
        if fs::write(FILE, score.to_string()).is_ok() {
            break;
        }
    }
    before
}
