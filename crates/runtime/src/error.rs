//! What can go wrong in the wrapper, and how the caller is told.
//!
//! containerd's shim and conmon read an error of the runtime from the file given with `--log`, the last entry of level `error`; with `--log-format json` one
//! object a line with `level`, `msg` and `time` (RFC 3339), as runc's logger writes it. People read standard error.

use std::{fs::OpenOptions, io::Write, path::PathBuf};

use crate::arguments::Invocation;

/// A failure of the wrapper itself. Failures of the runtime below are passed on as they are.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No runtime to call.
    #[error("no OCI runtime was found (looked for {looked}); install runc or name it in {config} as {{\"runtime\": \"/path\"}}")]
    NoRuntime {
        /// Where it was looked for.
        looked: String,
        /// The configuration file.
        config: String,
    },
    /// A program could not be executed.
    #[error("cannot execute {program}; check that it exists and is executable")]
    Execute {
        /// Its path.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The pod names a migration, but the bundle lacks what identifies it.
    #[error("container {container} names a migration, but its annotations have no {missing}; the runtime handler must be used with CRI-O or containerd")]
    Unnamed {
        /// The container's id.
        container: String,
        /// What is missing.
        missing: &'static str,
    },
    /// The agent did not answer.
    #[error(
        "container {container} waits for migration {migration}, and the godwit agent of this node does not answer on {socket}; it is tried again once the agent is back"
    )]
    AgentAway {
        /// The container's name.
        container: String,
        /// The migration's UID.
        migration: String,
        /// The socket.
        socket: String,
        /// Why.
        source: std::io::Error,
    },
    /// The agent refused.
    #[error("container {container} of migration {migration} cannot be created: {why}")]
    Refused {
        /// The container's name.
        container: String,
        /// The migration's UID.
        migration: String,
        /// The agent's words.
        why: String,
    },
    /// A terminal was asked for.
    #[error("container {container} has a terminal (tty: true), which a live migration does not carry yet; delete the target pod, the source is untouched")]
    Terminal {
        /// The container's id.
        container: String,
    },
    /// The keeper did not come up.
    #[error("the keeper of container {container} did not start: {why}")]
    Keeper {
        /// The container's id.
        container: String,
        /// Why.
        why: String,
    },
    /// A file could not be read or written.
    #[error("{action} {path}")]
    File {
        /// What was tried, e.g. `cannot write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Text that runtimes use and callers look for, e.g. `container not running`.
    #[error("{0}")]
    Runtime(String),
}

impl Error {
    /// A file error.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// One word for the log.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoRuntime { .. } => "NoRuntime",
            Self::Execute { .. } => "CannotExecute",
            Self::Unnamed { .. } => "PodNotNamed",
            Self::AgentAway { .. } => "AgentAway",
            Self::Refused { .. } => "MigrationRefused",
            Self::Terminal { .. } => "Terminal",
            Self::Keeper { .. } => "KeeperFailed",
            Self::File { .. } => "FileError",
            Self::Runtime(_) => "Runtime",
        }
    }

    /// The migration that it is about, if it says so.
    #[must_use]
    pub fn migration(&self) -> Option<&str> {
        match self {
            Self::AgentAway { migration, .. } | Self::Refused { migration, .. } => Some(migration),
            _ => None,
        }
    }

    /// The whole text, sources included.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = match self {
            Self::Runtime(text) => return text.clone(),
            other => format!("godwit: {}: {other}", other.reason()),
        };
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }

    /// Tells the caller as runc would, with the UID of the migration that the container belongs to, and gives the exit code.
    pub fn report(&self, invocation: &Invocation, migration: Option<&str>) -> i32 {
        let text = self.text();
        if let Some(path) = &invocation.log
            && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path)
        {
            let _ = file.write_all(entry(&text, migration, invocation.log_json, &now()).as_bytes());
        }
        let _ = writeln!(std::io::stderr(), "{text}");
        1
    }
}

/// One entry of runc's log. The migration that the container belongs to is a field of its own: callers read `msg` and pass others over.
fn entry(text: &str, migration: Option<&str>, json: bool, time: &str) -> String {
    if json {
        let mut entry = serde_json::json!({"level": "error", "msg": text, "time": time});
        if let Some(uid) = migration {
            entry["migration"] = uid.into();
        }
        return format!("{entry}\n");
    }
    let migration = migration.map(|uid| format!(" migration={uid}")).unwrap_or_default();
    format!("time=\"{time}\" level=error msg={text:?}{migration}\n")
}

/// The present moment in RFC 3339, UTC, whole seconds.
#[must_use]
pub fn now() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    rfc3339(seconds)
}

/// Seconds since 1970 in RFC 3339, UTC. The calendar part is the usual "days from civil" arithmetic on 400-year eras that begin on 1 March.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_474_435), "2026-11-23T22:53:55Z");
    }

    #[test]
    fn an_entry_is_one_object_a_line() {
        let line = entry("a \"b\"\nc", Some("uid"), true, "1970-01-01T00:00:00Z");
        assert!(entry("a", Some("uid"), false, "t").ends_with(" migration=uid\n"));
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["msg"], "a \"b\"\nc");
        assert_eq!(value["level"], "error");
    }

    #[test]
    fn sources_are_told_once() {
        let error = Error::file("cannot read", "/x")(std::io::Error::other("no such thing"));
        assert_eq!(error.text(), "godwit: FileError: cannot read /x: no such thing");
        assert_eq!(Error::Runtime("container not running".into()).text(), "container not running");
    }
}
