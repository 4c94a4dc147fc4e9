//! The gate: CRIU tells of each stage of a restore (see [`standin`](crate::standin)) and waits. Up to `post-restore` it takes the restore back when it is refused or hears
//! nothing more; later it goes on all the same (criu/cr-restore.c, `restore_root_task`).
//!
//! ```text
//!   pre-restore … post-restore ──▶ agent: Gate ──▶ Go ──▶ fate open → passed ──▶ mark `resuming` ──▶ on
//!                                                │          └─ ended, or keeper gone ──▶ refused    nothing has run
//!                                                └ Abort ──────────────────────────▶ refused
//!   CRIU fails before pre-resume ▶ the mark goes: nothing has run
//!   post-resume ─────────────────▶ mark `resumed`, tell the agent
//! ```
//!
//! At `post-restore` everything is restored and nothing has run, and it can stay so for ever: the gate never decides by itself. With the mark the processes count as having
//! run, whoever dies from then on.

use std::{env, fs, fs::OpenOptions, io, io::Write, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    client::{self, Question},
    fate::Fate,
    layout::{ENV_ATTEMPT, ENV_CONTAINER, Layout},
    process::Process,
    protocol::{Reply, Request},
    rpc::Stage,
    sys,
};

/// What the gate and the stand-in have to say of an attempt, in its directory. (Their standard error is the container's log.)
pub const LOG: &str = "standin.log";

/// How long CRIU is held for the agent's thanks after the processes run. The keeper repeats what was not heard.
const COURTESY: Duration = Duration::from_secs(1);

/// The gate of one restore.
#[derive(Debug)]
pub struct Gate {
    layout: Layout,
    attempt: u32,
    /// Pid of the restored init process, once it is known.
    init_pid: Option<i32>,
    /// CRIU has come to let the processes go.
    resuming: bool,
}

impl Gate {
    /// The gate of the restore that this process belongs to. `None` when nothing says which.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let layout = env::var(ENV_CONTAINER).ok().and_then(|id| Layout::existing(&id))?;
        let attempt = env::var(ENV_ATTEMPT).ok()?.parse().ok()?;
        Some(Self { layout, attempt, init_pid: None, resuming: false })
    }

    /// The container that is restored.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether CRIU may go on from this stage; it may take for ever to say so.
    pub fn lets_pass(&mut self, stage: &Stage) -> bool {
        self.init_pid = stage.init_pid.or(self.init_pid);
        match (stage.name.as_str(), self.init_pid) {
            ("post-restore", Some(init_pid)) => self.hold(init_pid),
            ("post-restore", None) => {
                self.say("CRIU does not say which process it has restored; nothing is let through");
                false
            }
            ("pre-resume", _) => {
                self.resuming = true;
                true
            }
            ("post-resume", Some(init_pid)) => {
                self.resumed(init_pid);
                true
            }
            _ => true,
        }
    }

    /// The runtime below has gone when CRIU came to this stage, at which CRIU will not take the restore back. (At earlier ones it does, when nobody answers.)
    pub fn forsaken(&self, stage: &Stage) {
        match (stage.name.as_str(), self.init_pid) {
            // Stopped as it is, it has run nothing. Nobody would hold the container, and the kubelet would start another one beside.
            ("pre-resume", Some(init_pid)) => {
                let _ = sys::kill(init_pid, Signal::SIGKILL as i32);
            }
            ("post-resume", Some(init_pid)) => self.resumed(init_pid),
            _ => {}
        }
    }

    /// CRIU has failed, and killed what it had restored.
    pub fn failed(&self) {
        if !self.resuming {
            let _ = fs::remove_file(self.layout.file("resuming"));
        }
    }

    /// Writes a line into the attempt's log.
    pub fn say(&self, text: &str) {
        let path = self.layout.attempt(self.attempt).join(LOG);
        if let Ok(mut log) = OpenOptions::new().append(true).create(true).open(path) {
            let _ = writeln!(log, "{text}");
        }
    }

    /// Notes the real init under a name.
    fn mark(&self, name: &str, init_pid: i32) -> io::Result<()> {
        self.layout.write(name, &Process::of(init_pid).unwrap_or(Process { pid: init_pid, start: 0 }))
    }

    /// Holds CRIU until the agent has decided.
    fn hold(&self, init_pid: i32) -> bool {
        let request = Request::Gate { container: self.layout.id.clone(), init_pid };
        if let Err(why) = client::permission(&request) {
            self.say(&format!("nothing runs here: {why}"));
            return false;
        }
        // Without its keeper the container counts as dead, and the kubelet would start another one beside the restored.
        if !self.layout.keeper().is_some_and(|keeper| keeper.alive()) {
            let lost = Request::Restored {
                container: self.layout.id.clone(),
                code: 1,
                output: "the keeper has gone; the restore was stopped at the gate, nothing has run".into(),
            };
            client::insist(&lost, Some);
            return false;
        }
        match Fate::pass(&self.layout, self.attempt) {
            Ok(Fate::Passed(number)) if number == self.attempt => {
                let marked = self.mark("resuming", init_pid);
                marked.inspect_err(|error| self.say(&format!("nothing runs here: that it runs cannot be noted: {error}"))).is_ok()
            }
            Ok(_) | Err(_) => {
                self.say("the container was stopped while it waited at the gate; nothing has run");
                false
            }
        }
    }

    /// The processes run: leaves the mark for keeper and wrapper, and tells the agent.
    fn resumed(&self, init_pid: i32) {
        let _ = self.mark("resumed", init_pid);
        let request = Request::Resumed { container: self.layout.id.clone(), init_pid };
        if let Ok(Reply::Ok) = Question::send(&request).and_then(|question| question.wait(Some(COURTESY))) {
            let _ = self.layout.mark("told");
        }
    }
}
