//! Commands with a time limit: nothing that is started here can hang its caller.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; 128 + signal if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that must succeed.
    ///
    /// # Errors
    /// When its exit code is not 0: command, code and what it said.
    pub fn success(self) -> Result<String> {
        if self.code != 0 {
            let said = format!("{}\n{}", self.stdout.trim(), self.stderr.trim());
            bail!("`{}` exited with {}: {}", self.command, self.code, said.trim());
        }
        Ok(self.stdout)
    }
}

/// Runs a command to its end, at most for `limit`.
///
/// # Errors
/// When it cannot be started or is not done in time; it is killed then.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S], input: Option<&str>, limit: Duration) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments);
    if program == "kubectl" {
        // It has ended before its garbage would matter, and collecting costs a third of its time.
        command.env("GOGC", "off");
    }
    finish(command, input, limit)
}

/// Runs a prepared command to its end, at most for `limit`.
///
/// # Errors
/// As [`run`].
pub fn finish(mut command: Command, input: Option<&str>, limit: Duration) -> Result<Output> {
    let line = describe(&command);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| format!("`{line}` cannot be started"))?;
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        // A command that does not read all of it says so by its exit code.
        let _ = pipe.write_all(text.as_bytes());
    }
    let status = wait(&mut child, limit)?;
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (stdout, stderr) = (collect(stdout), collect(stderr));
    let Some(status) = status else {
        bail!("`{line}` was not done after {} s: {}", limit.as_secs(), format!("{stdout}\n{stderr}").trim());
    };
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Output { command: line, code, stdout, stderr })
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > end {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn collect(reader: JoinHandle<String>) -> String {
    reader.join().unwrap_or_default()
}

/// The command line, long arguments cut.
fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let text = argument.to_string_lossy();
        line.push(' ');
        line.extend(text.chars().take(120));
    }
    line
}

/// Asks again and again until the answer is there.
///
/// # Errors
/// When `limit` passes: `what`, and the last reason why not.
pub fn wait_until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let answer = look();
        if let Ok(Some(found)) = answer {
            return Ok(found);
        }
        if Instant::now() > end {
            let why = answer.err().map_or_else(String::new, |error| format!(": {error:#}"));
            bail!("{what}: not within {} s{why}", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn codes_and_both_streams_are_kept() {
        let output = run("sh", &["-c", "cat; echo bad >&2; exit 3"], Some("in"), SECOND).unwrap();
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (3, "in", "bad\n"));
        assert!(output.success().unwrap_err().to_string().contains("exited with 3: in\nbad"));
    }

    #[test]
    fn nothing_hangs() {
        let error = run("sleep", &["9"], None, Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().starts_with("`sleep 9` was not done"), "{error}");
        let error = wait_until("never", Duration::ZERO, || anyhow::Ok(None::<()>)).unwrap_err();
        assert_eq!(error.to_string(), "never: not within 0 s");
    }
}
