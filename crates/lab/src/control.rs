//! The wire between `godwit-lab` and a machine's PID 1: one JSON line each way over a Unix socket.
//!
//! ```text
//!   godwit-lab ──Request──▶ /proc/<pid 1>/root/run/godwit-lab/init.sock ──Reply──▶ godwit-lab
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Folder of the control socket inside a machine.
pub const FOLDER: &str = "/run/godwit-lab";
/// Path of the control socket inside a machine.
pub const SOCKET: &str = "/run/godwit-lab/init.sock";

/// A program that a machine keeps running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, also of its log.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Files (sockets) that must be there before it starts.
    pub after: Vec<PathBuf>,
}

/// What PID 1 is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Run this service from now on; it is restarted whenever it ends.
    Start(Service),
    /// End it by SIGTERM; it starts again.
    Restart(String),
    /// End it by SIGTERM and leave it stopped.
    Stop(String),
    /// Start it again after [`Request::Stop`].
    Resume(String),
    /// Only report.
    Status,
}

/// State of one service.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServiceState {
    /// Its name.
    pub name: String,
    /// Its process in the machine's PID namespace; none while it is down.
    pub pid: Option<i32>,
    /// How often it has been started.
    pub starts: u32,
    /// Whether it is meant to run.
    pub wanted: bool,
}

/// What PID 1 answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// Why the request was refused.
    pub error: Option<String>,
    /// All services, by name.
    pub services: Vec<ServiceState>,
}

/// Asks the PID 1 whose process id on this machine is `pid`.
pub fn ask(pid: i32, request: &Request) -> Result<Vec<ServiceState>> {
    let path = Path::new("/proc").join(pid.to_string()).join(format!("root{SOCKET}"));
    let stream = UnixStream::connect(&path).with_context(|| format!("{} does not answer", path.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    (&stream).write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    let reply: Reply = serde_json::from_str(&answer).context("PID 1 gave no whole answer")?;
    match reply.error {
        Some(error) => bail!(error),
        None => Ok(reply.services),
    }
}

/// Writes a file, its folders too, at once or not at all.
pub fn write_file(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    fs::create_dir_all(path.parent().unwrap_or(path))
        .and_then(|()| fs::write(&temporary, content))
        .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("{} cannot be written", path.display()))
}
