//! The gate: CRIU tells of each stage of a restore (see [`standin`](crate::standin)), waits, and takes the restore back when it is refused.
//!
//! ```text
//!   pre-restore … post-restore ──▶ agent: Gate ──▶ Go ──▶ fate open → passed ──▶ on    the tasks will run
//!                                                │          └─ ended, or keeper gone ──▶ refused    nothing has run
//!                                                └ Abort ──────────────────────────▶ refused
//!   pre-resume ──────────────────▶ mark `resuming`: until here a failed restore has run nothing, from here on it may have
//!   post-resume ─────────────────▶ mark `resumed`, tell the agent
//! ```
//!
//! At `post-restore` everything is restored and nothing has run, and it can stay so for ever: the gate never decides by itself.

use std::{env, io, time::Duration};

use crate::{
    client::{self, Question},
    fate::Fate,
    layout::{ENV_ATTEMPT, ENV_CONTAINER, Layout},
    process::Process,
    protocol::{Reply, Request},
    standin::rpc::Stage,
};

/// How long CRIU is held for the agent's thanks after the processes run. The keeper repeats what was not heard.
const COURTESY: Duration = Duration::from_secs(1);

/// The gate of one restore.
#[derive(Debug)]
pub struct Gate {
    layout: Layout,
    attempt: u32,
    /// Pid of the restored init process, once it is known.
    init_pid: Option<i32>,
}

impl Gate {
    /// The gate of the restore that this process belongs to. `None` when nothing says which.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let layout = env::var(ENV_CONTAINER).ok().and_then(|id| Layout::existing(&id))?;
        let attempt = env::var(ENV_ATTEMPT).ok()?.parse().ok()?;
        Some(Self { layout, attempt, init_pid: None })
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
            ("pre-resume", Some(init_pid)) => self.mark("resuming", init_pid).is_ok(),
            ("post-resume", Some(init_pid)) => {
                self.resumed(init_pid);
                true
            }
            ("post-restore" | "pre-resume" | "post-resume", None) => {
                eprintln!("godwit: CRIU does not say which process it has restored; nothing is let through");
                false
            }
            _ => true,
        }
    }

    /// Notes the real init under a name.
    fn mark(&self, name: &str, init_pid: i32) -> io::Result<()> {
        self.layout.write(name, &Process::of(init_pid).unwrap_or(Process { pid: init_pid, start: 0 }))
    }

    /// Holds CRIU until the agent has decided.
    fn hold(&self, init_pid: i32) -> bool {
        let request = Request::Gate { container: self.layout.id.clone(), init_pid };
        let stopped = client::insist(&request, |reply| match reply {
            Reply::Go => Some(None),
            Reply::Abort { why } => Some(Some(why)),
            _ => None,
        });
        if let Some(why) = stopped {
            eprintln!("godwit: nothing runs here: {why}");
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
            Ok(Fate::Passed(number)) if number == self.attempt => true,
            Ok(_) | Err(_) => {
                eprintln!("godwit: the container was stopped while it waited at the gate; nothing has run");
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
