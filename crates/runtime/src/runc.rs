//! Calling the runtime below.

use std::{
    ffi::{CString, OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::{arguments::Invocation, config::Config, error::Error, layout, record::Record};

/// Becomes the runtime below, with the arguments, descriptors, environment, signals and working directory of this process. Returns only to say why not.
#[must_use]
pub fn become_runtime(config: &Config, arguments: &[OsString]) -> Error {
    match config.runtime() {
        Ok(runtime) => become_program(&runtime, runtime.as_os_str(), arguments),
        Err(error) => error,
    }
}

/// Becomes another program. Returns only to say why not.
#[must_use]
pub fn become_program(program: &Path, name: &OsStr, arguments: &[OsString]) -> Error {
    let failed = |source: std::io::Error| Error::Execute { program: program.into(), source };
    let text = |word: &OsStr| CString::new(word.as_bytes()).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error));
    let path = match text(program.as_os_str()) {
        Ok(path) => path,
        Err(error) => return failed(error),
    };
    let argv: Result<Vec<CString>, _> = std::iter::once(name).chain(arguments.iter().map(OsString::as_os_str)).map(text).collect();
    match argv {
        Ok(argv) => match nix::unistd::execv(&path, &argv) {
            Err(errno) => failed(errno.into()),
        },
        Err(error) => failed(error),
    }
}

/// Runs a command of the runtime below for a container that a keeper holds, with the global flags of its `create`, and takes what it prints.
///
/// # Errors
/// [`Error::Execute`].
pub fn capture(record: &Record, arguments: &[&str]) -> Result<Output, Error> {
    Command::new(&record.runtime)
        .args(&record.globals)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Execute { program: record.runtime.clone(), source })
}

/// Deletes the container in the runtime below, running or not, if that knows it.
///
/// # Errors
/// [`Error::Runtime`] with what it said, or [`Error::Execute`].
pub fn delete(record: &Record) -> Result<(), Error> {
    // runc binds the root file system to `criu-root` in its state directory for a restore, and a runc that was killed leaves that behind, early on without
    // knowing the container.
    let state = state_directory(record);
    layout::unmount_below(&state);
    if !knows(record) {
        for empty in [&state.join("criu-root"), &state] {
            let _ = fs::remove_dir(empty);
        }
        return Ok(());
    }
    let output = capture(record, &["delete", "--force", &record.id])?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Runtime(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Where the runtime below keeps the container's state: `--root`, by default `/run/runc`.
fn state_directory(record: &Record) -> PathBuf {
    let words: Vec<OsString> = record.globals.iter().map(OsString::from).collect();
    Invocation::parse(&words).root.unwrap_or_else(|| "/run/runc".into()).join(&record.id)
}

/// Whether the runtime below knows the container.
#[must_use]
pub fn knows(record: &Record) -> bool {
    capture(record, &["state", &record.id]).is_ok_and(|output| output.status.success())
}
