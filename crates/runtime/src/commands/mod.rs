//! The OCI commands on a container that a keeper holds.
//!
//! | command | before the switch | after it |
//! |---|---|---|
//! | state | created, running or stopped, with the keeper's pid | runc's answer, `created` until start; stopped if the keeper is gone |
//! | start | noted | noted |
//! | kill | to the keeper, which ends with 128 + n | runc |
//! | exec | success without running (probes, postStart hooks ran in the source) | runc |
//! | update | kept and applied after the switch | runc |
//! | pause, resume, ps, events | answered for the keeper | runc |
//! | delete | keeper, cgroup and directory go | runc, then the same |
//!
//! Between the opening of the gate and the end of `runc restore`, a few milliseconds, commands wait.

mod delete;
mod exec;
mod kill;
mod small;
mod state;

use std::time::{Duration, Instant};

use crate::{arguments::Invocation, error::Error, fate::Fate, layout::Layout, record::Record};

/// How long a command waits for a restore that has passed the gate.
const SWITCHING: Duration = Duration::from_secs(10);

/// Runs a command. Gives the exit code, or `None`: the runtime below shall do it.
///
/// # Errors
/// What the caller is told.
pub fn run(invocation: &Invocation, layout: &Layout) -> Result<Option<i32>, Error> {
    let Ok(record) = layout.read::<Record>("record.json") else {
        return Ok(None);
    };
    let command = invocation.command.as_str();
    match command {
        "state" => return state::state(layout, &record).map(Some),
        "start" => return small::start(layout).map(Some),
        "delete" => return delete::delete(invocation, layout, &record).map(Some),
        _ => {}
    }
    if switched(layout) {
        return Ok(None);
    }
    match command {
        "kill" => kill::kill(invocation, layout, &record).map(Some),
        "exec" => exec::exec(invocation, layout).map(Some),
        "update" => small::update(invocation, layout).map(Some),
        "pause" | "resume" => Ok(Some(0)),
        "ps" => small::ps(invocation, layout).map(Some),
        "events" => small::events(layout).map(Some),
        "checkpoint" => Err(Error::Runtime(format!("container {} has not arrived yet: there is nothing to checkpoint", layout.id))),
        _ => Ok(None),
    }
}

/// Whether the real container is here. Waits while a restore is between its gate and its end.
fn switched(layout: &Layout) -> bool {
    let end = Instant::now() + SWITCHING;
    loop {
        if layout.has("restored") {
            return true;
        }
        let passed = matches!(Fate::read(layout), Ok(Fate::Passed(_)));
        if !passed || Instant::now() > end || !layout.keeper().is_some_and(|keeper| keeper.alive()) {
            return layout.has("restored");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
