//! What wrappers, keepers and stand-ins ask, in plain words; and who started whom down to them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use godwit_runtime::protocol::{Reply, Request};
use godwit_trace::{Level, Source};

use super::criu::Followed;
use super::{criu, exec, note};

/// Restores whose logs are followed, by container.
static RESTORES: LazyLock<Mutex<HashMap<String, Followed>>> = LazyLock::new(Mutex::default);

/// A question was asked by the process with this pid.
pub fn asked(request: &Request, pid: Option<i32>) {
    let (source, text) = match request {
        Request::Create { name, container, .. } => {
            (Source::Wrapper, format!("create of container {name} ({}): the agent is asked what it is", short(container)))
        }
        Request::Keeper { container } => (Source::Wrapper, format!("the keeper of {} waits", short(container))),
        Request::Images { container } => {
            (Source::Oci, format!("runc restore of {} has come to the stand-in for criu, which waits for the images", short(container)))
        }
        Request::Gate { container, init_pid } => {
            (Source::Gate, format!("CRIU has restored {} (pid {init_pid}) and stands at the gate: nothing has run", short(container)))
        }
        Request::Resumed { container, init_pid } => (Source::Gate, format!("{} (pid {init_pid}) runs", short(container))),
        Request::Restored { container, code, .. } => (Source::Oci, format!("runc restore of {} ended with {code}", short(container))),
    };
    let level = if matches!(request, Request::Restored { code, .. } if *code != 0) { Level::Error } else { Level::Info };
    let about = about(request);
    note(source, level, &about, &text);
    // Whoever asks waits for the answer, so the chain above it stands still; but nobody waits for this look.
    if let Some(pid) = pid
        && !matches!(request, Request::Resumed { .. } | Request::Restored { .. })
    {
        tokio::task::spawn_blocking(move || {
            if let Some(chain) = exec::chain(pid) {
                note(Source::Exec, Level::Info, &about, &chain);
            }
        });
    }
}

/// It was answered.
pub fn answered(request: &Request, reply: &Reply) {
    let (source, level, text) = match (request, reply) {
        (_, Reply::Fail { why } | Reply::Abort { why }) => (Source::Wrapper, Level::Warning, format!("refused: {why}")),
        (Request::Create { container, .. }, Reply::Keep) => (Source::Wrapper, Level::Info, format!("{} gets a keeper instead of a process", short(container))),
        (Request::Create { container, .. }, _) => (Source::Wrapper, Level::Info, format!("{} is created afresh", short(container))),
        (Request::Keeper { container }, Reply::Restore { .. }) => {
            (Source::Wrapper, Level::Info, format!("the keeper of {} starts runc restore", short(container)))
        }
        (Request::Keeper { container }, Reply::Exit { code }) => (Source::Wrapper, Level::Info, format!("the keeper of {} ends with {code}", short(container))),
        (Request::Images { container }, _) => (Source::Criu, Level::Info, format!("criu of {} may read the images", short(container))),
        (Request::Gate { container, .. }, _) => (Source::Gate, Level::Info, format!("the gate of {} opens", short(container))),
        _ => return,
    };
    note(source, level, &about(request), &text);
}

/// The names that a question is about.
fn about(request: &Request) -> String {
    match request {
        Request::Create { container, pod_uid, migration, source_uid, .. } => format!("{container} {pod_uid} {migration} {source_uid}"),
        Request::Keeper { container }
        | Request::Images { container }
        | Request::Gate { container, .. }
        | Request::Resumed { container, .. }
        | Request::Restored { container, .. } => container.clone(),
    }
}

/// The logs of a restore are followed from when it waits for its images until it has ended.
pub fn follow_restore(request: &Request, containers: &Path) {
    let mut restores = RESTORES.lock().unwrap_or_else(PoisonError::into_inner);
    match request {
        Request::Images { container } => {
            let directory = containers.join(container);
            restores.entry(container.clone()).or_insert_with(|| criu::follow(move || logs(&directory), container));
        }
        Request::Restored { container, .. } => drop(restores.remove(container)),
        _ => {}
    }
}

/// CRIU's and runc's logs of every attempt (`godwit_runtime::layout`).
fn logs(directory: &Path) -> Vec<(PathBuf, Source)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let attempts = entries.map(|entry| entry.path()).filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("attempt-")));
    attempts.flat_map(|attempt| [(attempt.join("work/restore.log"), Source::Criu), (attempt.join("runc.log"), Source::Oci)]).collect()
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
