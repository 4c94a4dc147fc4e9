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
//! A restore that fails after the gate has opened (its mark `resuming`) is not tried again, unless CRIU says that it has taken it back: it may have run. The agent is told that it
//! has, and the keeper exits like a crashed container.
//!
//! It is a subreaper, so the real init becomes its child when `runc restore` ends. The container runtime never learns of the change: it waits for the keeper.

mod accompany;
mod attempt;
mod conversation;
mod diagnosis;
mod ears;
mod family;
pub mod pager;
mod spawn;

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use self::{
    attempt::Attempt,
    ears::{Ears, Event},
    family::{bury, lower_oom_score, reap},
};
use crate::{
    cgroup,
    fate::Fate,
    layout::{Layout, write_atomically},
    process::Process,
    protocol::Request,
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
    Restore { images: PathBuf, criu: Vec<String>, store: Option<PathBuf> },
    Exit(i32),
    Signal(i32),
}

/// How an attempt ended.
enum Outcome {
    Runs {
        real: Process,
        ended: Option<i32>,
        pending: Vec<i32>,
        pager: Option<i32>,
    },
    Failed,
    Stopped(i32),
    /// It failed when it may already have run: this container is over.
    Lost(i32),
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
                Order::Restore { images, criu, store } => match self.restore(number, images, &criu, store.as_deref()) {
                    Outcome::Runs { real, ended, pending, pager } => return self.accompany(real, ended, &pending, pager),
                    Outcome::Stopped(signal) => return 128 + signal,
                    Outcome::Lost(code) => return code,
                    Outcome::Failed => {}
                },
            }
        }
        125
    }

    /// One `runc restore`, from its preparation to its report.
    fn restore(&self, number: u32, images: PathBuf, criu: &[String], store: Option<&Path>) -> Outcome {
        let attempt = Attempt::new(&self.layout, &self.record, number, images, store.is_some());
        cgroup::leave(&self.record.origin);
        let started = attempt.prepare(criu).and_then(|()| {
            let pager = store.map(|store| pager::spawn(&attempt.work(), store, &self.layout.id)).transpose()?;
            Ok((attempt.start(&self.oom)?, pager))
        });
        let (child, pager) = match started {
            Ok(started) => started,
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
                Event::Child => {
                    gone.extend(reap());
                    if pager::failed(&gone, pager) {
                        // Pages would be zeros that were something else.
                        bury(&mut gone, Some(child));
                    }
                }
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
            return self.failed(&attempt, 125, Some("CRIU did not ask at the gate; the processes were killed".into()));
        }
        let _ = self.layout.write("restored", &real);
        gone.extend(reap());
        let ended = gone.iter().find(|(pid, _)| *pid == real.pid).map(|(_, code)| *code);
        if pager::failed(&gone, pager) {
            let _ = sys::kill(real.pid, nix::libc::SIGKILL);
        }
        Outcome::Runs { real, ended, pending, pager }
    }

    /// Cleans up after a failed attempt, takes the container's place again and reports.
    fn failed(&self, attempt: &Attempt, code: i32, why: Option<String>) -> Outcome {
        bury(&mut Vec::new(), None);
        cgroup::empty(&self.record.cgroup, BURIAL);
        attempt.forget();
        let container = self.layout.id.clone();
        let output = [why, Some(attempt.diagnosis())].into_iter().flatten().collect::<Vec<_>>().join("\n");
        if let Some(real) = attempt.let_go() {
            // The agent must take this node for the owner: what may have run cannot go back to the source.
            let _ = self.ask(&Request::Resumed { container: container.clone(), init_pid: real.pid }, None);
            let _ = self.ask(&Request::Restored { container, code, output }, None);
            return Outcome::Lost(137);
        }
        let _ = Fate::reopen(&self.layout);
        let _ = cgroup::enter(&self.record.cgroup);
        let limit = matches!(Fate::read(&self.layout), Ok(Fate::Ended)).then_some(LAST_WORDS);
        match self.ask(&Request::Restored { container, code, output }, limit) {
            Err(signal) if signal > 0 => Outcome::Stopped(signal),
            _ => Outcome::Failed,
        }
    }
}
