//! The gate of a container that the container runtime itself restores from a checkpoint image, with no wrapper and no stand-in for CRIU: CRIU's action script (criu(8),
//! `--action-script`), named in the configuration file that the agent has written for this one restore.
//!
//! ```text
//!   FOLDER/id          the container's id, written by the agent when CRIU waits for its images; without it nothing passes
//!   FOLDER/gate        this program
//!     post-restore ──▶ agent: Gate ──▶ Go ──▶ FOLDER/passed ──▶ 0      everything is restored, nothing has run
//!                                  └ Abort ─────────────────▶ 1      CRIU kills what it has restored
//!     post-resume ───▶ FOLDER/resumed, agent: Resumed
//! ```
//! CRIU calls it only after the runtime below has answered for the same stage (criu/action-scripts.c, `run_scripts`): a stage may be missed, but `post-restore`, at which CRIU
//! gives up then. It may be called twice for one stage, because CRIU reads the file twice.

use std::{fs, io, path::Path, time::Duration};

use crate::{
    client::{self, Question},
    process::Process,
    protocol::{Reply, Request},
};

/// `argv[0]` of the program, and the script's name in its folder.
pub const SCRIPT: &str = "gate";
/// The container's id.
pub const ID: &str = "id";
/// The gate was passed: the first process, as [`Process`].
pub const PASSED: &str = "passed";
/// The processes run; likewise.
pub const RESUMED: &str = "resumed";

/// How long CRIU is held for the agent's thanks after the processes run; the agent looks for the mark, too.
const COURTESY: Duration = Duration::from_secs(1);

/// Runs the script, which was called as `script`, and gives its exit code.
#[must_use]
pub fn run(script: &Path) -> i32 {
    let stage = std::env::var("CRTOOLS_SCRIPT_ACTION").unwrap_or_default();
    let pid = std::env::var("CRTOOLS_INIT_PID").ok().and_then(|pid| pid.parse().ok());
    let folder = script.parent().unwrap_or(Path::new("."));
    match (stage.as_str(), pid) {
        ("post-restore", Some(pid)) => hold(folder, pid).map_or_else(refuse, |()| 0),
        ("post-restore", None) => refuse("CRIU does not say which process it has restored".to_owned()),
        ("post-resume", Some(pid)) => {
            resumed(folder, pid);
            0
        }
        _ => 0,
    }
}

/// Standard error is CRIU's, which the runtime keeps with its own log.
fn refuse(why: String) -> i32 {
    eprintln!("godwit: nothing runs here: {why}");
    1
}

/// Holds CRIU until the agent has decided.
fn hold(folder: &Path, init_pid: i32) -> Result<(), String> {
    let container = id(folder).map_err(|error| format!("the agent has not said which container this is: {error}"))?;
    client::permission(&Request::Gate { container, init_pid })?;
    mark(folder, PASSED, init_pid).map_err(|error| format!("that it passes the gate cannot be noted: {error}"))
}

/// The processes run.
fn resumed(folder: &Path, init_pid: i32) {
    let _ = mark(folder, RESUMED, init_pid);
    if let Ok(container) = id(folder) {
        let _ = Question::send(&Request::Resumed { container, init_pid }).and_then(|question| question.wait(Some(COURTESY))).map(|reply| reply == Reply::Ok);
    }
}

fn id(folder: &Path) -> io::Result<String> {
    fs::read_to_string(folder.join(ID)).map(|id| id.trim().to_owned())
}

fn mark(folder: &Path, name: &str, pid: i32) -> io::Result<()> {
    let process = Process::of(pid).unwrap_or(Process { pid, start: 0 });
    crate::layout::write_atomically(&folder.join(name), &serde_json::to_vec(&process)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn without_an_id_nothing_passes() {
        let folder = tempfile::tempdir().unwrap();
        assert!(hold(folder.path(), 1).unwrap_err().contains("which container"));
        assert!(!folder.path().join(PASSED).exists());
    }

    #[test]
    fn that_it_runs_is_noted_though_nobody_listens() {
        let folder = tempfile::tempdir().unwrap();
        resumed(folder.path(), i32::try_from(std::process::id()).unwrap());
        let process: Process = serde_json::from_slice(&fs::read(folder.path().join(RESUMED)).unwrap()).unwrap();
        assert!(process.alive());
    }
}
