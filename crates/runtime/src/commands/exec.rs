//! `exec` before the switch: probes and postStart hooks. They are answered with success and without running: the container that they ask about runs in the
//! source pod, where its own kubelet probes it and where its hooks have run.

use std::time::Duration;

use crate::{arguments::Invocation, error::Error, layout::Layout, layout::write_atomically, sys};

/// How long the process that stands for the command lives, so that its parent sees it come before it sees it go.
const LIFE: Duration = Duration::from_millis(50);

/// Answers with success. Detached: a short-lived process whose pid goes to the pid file, as callers wait for that one.
pub fn exec(invocation: &Invocation, layout: &Layout) -> Result<i32, Error> {
    if !layout.keeper().is_some_and(|keeper| keeper.alive()) {
        return Err(Error::Runtime("cannot exec in a stopped container".into()));
    }
    let terminal = invocation.has(&["tty", "t"]) || invocation.value(&["console-socket"]).is_some_and(|path| !path.is_empty());
    if terminal {
        return Err(Error::Runtime(format!("container {} has not arrived yet: its processes still run in the source pod; exec there", layout.id)));
    }
    let detached = invocation.has(&["detach", "d"]);
    let pid_file = invocation.value(&["pid-file"]);
    if !detached && pid_file.is_none() {
        return Ok(0);
    }
    let failed = |errno: nix::errno::Errno| Error::Runtime(format!("cannot fork: {errno}"));
    let Some(pid) = sys::fork().map_err(failed)? else {
        let _ = nix::unistd::setsid();
        std::thread::sleep(LIFE);
        std::process::exit(0);
    };
    if let Some(file) = pid_file {
        write_atomically(file.as_ref(), pid.to_string().as_bytes()).map_err(Error::file("cannot write", file))?;
    }
    if !detached {
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
    }
    Ok(0)
}
