//! The gate: CRIU's action script (criu(8), `--action-script`). CRIU waits for it at every stage and fails the restore if it fails.
//!
//! ```text
//!   pre-restore … post-restore ──▶ agent: Gate ──▶ Go ──▶ fate open → passed ──▶ 0    the tasks will run
//!                                                │          └─ ended, or keeper gone ──▶ 1    nothing has run
//!                                                └ Abort ──────────────────────────▶ 1
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
};

/// How long CRIU is held for the agent's thanks after the processes run. The keeper repeats what was not heard.
const COURTESY: Duration = Duration::from_secs(1);

/// Runs the gate and gives its exit code.
#[must_use]
pub fn run() -> i32 {
    let stage = env::var("CRTOOLS_SCRIPT_ACTION").unwrap_or_default();
    if !matches!(stage.as_str(), "post-restore" | "pre-resume" | "post-resume") {
        return 0;
    }
    let number = |name| env::var(name).ok().and_then(|text| text.parse().ok());
    let layout = env::var(ENV_CONTAINER).ok().and_then(|id| Layout::existing(&id));
    let (Some(layout), Some(init_pid), Some(attempt)) = (layout, number("CRTOOLS_INIT_PID"), number(ENV_ATTEMPT)) else {
        eprintln!("godwit: the gate does not know which container it holds; nothing is let through");
        return 1;
    };
    match stage.as_str() {
        "post-restore" => hold(&layout, init_pid, u32::try_from(attempt).unwrap_or(u32::MAX)),
        "pre-resume" => i32::from(mark(&layout, "resuming", init_pid).is_err()),
        _ => {
            resumed(&layout, init_pid);
            0
        }
    }
}

/// Notes the real init under a name.
fn mark(layout: &Layout, name: &str, init_pid: i32) -> io::Result<()> {
    layout.write(name, &Process::of(init_pid).unwrap_or(Process { pid: init_pid, start: 0 }))
}

/// Holds CRIU until the agent has decided.
fn hold(layout: &Layout, init_pid: i32, attempt: u32) -> i32 {
    let request = Request::Gate { container: layout.id.clone(), init_pid };
    let stopped = client::insist(&request, |reply| match reply {
        Reply::Go => Some(None),
        Reply::Abort { why } => Some(Some(why)),
        _ => None,
    });
    if let Some(why) = stopped {
        eprintln!("godwit: nothing runs here: {why}");
        return 1;
    }
    // Without its keeper the container counts as dead, and the kubelet would start another one beside the restored.
    if !layout.keeper().is_some_and(|keeper| keeper.alive()) {
        let lost = Request::Restored {
            container: layout.id.clone(),
            code: 1,
            output: "the keeper has gone; the restore was stopped at the gate, nothing has run".into(),
        };
        client::insist(&lost, Some);
        return 1;
    }
    match Fate::pass(layout, attempt) {
        Ok(Fate::Passed(number)) if number == attempt => 0,
        Ok(_) | Err(_) => {
            eprintln!("godwit: the container was stopped while it waited at the gate; nothing has run");
            1
        }
    }
}

/// The processes run: leaves the mark for keeper and wrapper, and tells the agent.
fn resumed(layout: &Layout, init_pid: i32) {
    let _ = mark(layout, "resumed", init_pid);
    let request = Request::Resumed { container: layout.id.clone(), init_pid };
    if let Ok(Reply::Ok) = Question::send(&request).and_then(|question| question.wait(Some(COURTESY))) {
        let _ = layout.mark("told");
    }
}
