//! Entering a machine: its cgroups and namespaces, then a command.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::IntoRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::cgroups::Cgroups;

/// Namespaces that make up a machine.
pub fn all() -> CloneFlags {
    CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
}

fn join(pid: i32, flags: CloneFlags) -> Result<()> {
    let process = Pid::from_raw(pid).ok_or_else(|| anyhow!("{pid} is not a process id"))?;
    let handle = pidfd_open(process, PidfdFlags::empty()).with_context(|| format!("process {pid} is gone"))?;
    setns(handle, flags).with_context(|| format!("the namespaces of process {pid} are closed"))
}

/// Joins the network namespace of `pid`: this thread only.
pub fn join_network(pid: i32) -> Result<()> {
    join(pid, CloneFlags::CLONE_NEWNET)
}

/// Names the descriptor of the network from which somebody went into another one: it stays open in all that is started there.
const OUTSIDE: &str = "GODWIT_LAB_OUTSIDE";

/// Replaces this process by a command in the network namespace of `pid`; everything else stays this machine's.
pub fn exec_in_network(pid: i32, command: &mut Command) -> Result<()> {
    if std::env::var_os(OUTSIDE).is_none() {
        let here = File::open("/proc/self/ns/net").context("the network of this process is unknown")?;
        fcntl_setfd(&here, FdFlags::empty()).context("the network of this process cannot be kept")?;
        command.env(OUTSIDE, here.into_raw_fd().to_string());
    }
    join_network(pid)?;
    Err(command.exec()).context(format!("{:?} cannot be run", command.get_program()))
}

/// Joins the network from which this process, or one that started it, went into the lab's: this thread only.
pub fn join_outside() -> Result<()> {
    let Some(number) = std::env::var_os(OUTSIDE) else { return Ok(()) };
    let outside = File::open(Path::new("/proc/self/fd").join(number)).context("the network outside of the lab is not open any more")?;
    setns(outside, CloneFlags::CLONE_NEWNET).context("the network outside of the lab cannot be joined")
}

/// Runs a command inside a machine and returns its exit code (128 + signal if one ended it).
/// The command dies with this process.
pub fn run_inside(machine: &str, pid: i32, command: &[OsString]) -> Result<i32> {
    Cgroups::detect()?.join(machine)?;
    join(pid, all())?;
    std::env::set_current_dir("/").context("the machine has no root folder")?;
    let status = machine_command(command)
        .env("TERM", std::env::var_os("TERM").unwrap_or("dumb".into()))
        .status()
        .with_context(|| format!("{command:?} cannot be run in {machine}"))?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// A command in the machine in which this process is: a machine's environment, and it dies with the thread that starts it.
pub fn machine_command(words: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new("/usr/bin/setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .args(words)
        .env_clear()
        .env("PATH", "/opt/godwit-lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root");
    command
}
