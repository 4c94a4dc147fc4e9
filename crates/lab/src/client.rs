//! Talking to the cluster from outside its nodes: kubectl, helm and other commands in the clients' network.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::machine::Machine;
use crate::settings::Settings;
use crate::topology::SWITCH;

/// A command in the clients' network, with KUBECONFIG and PATH set.
pub fn command(settings: &Settings, program: &OsStr) -> Result<Command> {
    let machine = Machine::find(settings, SWITCH).ok_or_else(|| anyhow!("the lab is not up; start it with: godwit-lab up"))?;
    let mut command = Command::new(std::env::current_exe()?);
    let mut path = settings.client_path();
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    command
        .args(["in-network", &machine.pid.to_string(), "--"])
        .arg(program)
        .env("KUBECONFIG", settings.kubeconfig())
        .env("GODWIT_LAB", &settings.state)
        .env("GODWIT_CACHE", &settings.cache)
        .env("PATH", std::env::join_paths(path)?);
    Ok(command)
}

/// Runs kubectl and returns what it printed.
pub fn kubectl(settings: &Settings, arguments: &[&str]) -> Result<String> {
    let output = command(settings, "kubectl".as_ref())?.args(arguments).stdin(Stdio::null()).output().context("kubectl cannot be run")?;
    if !output.status.success() {
        bail!("kubectl: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Applies manifests given as text.
pub fn apply(settings: &Settings, manifests: &str) -> Result<()> {
    let mut child = command(settings, "kubectl".as_ref())?
        .args(["apply", "--server-side", "--force-conflicts", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("kubectl cannot be run")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(manifests.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Waits for something that is done elsewhere; `otherwise` is what to say if it does not happen.
pub fn wait_until(seconds: u64, otherwise: &str, done: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !done() {
        if Instant::now() > deadline {
            bail!("{otherwise} (waited {seconds} s)");
        }
        sleep(Duration::from_millis(100));
    }
    Ok(())
}
