//! The hold: CRIU's action script (criu(8), `--action-script`) of a `criu dump` that was started before the freeze.
//!
//! CRIU runs its scripts with `CRTOOLS_SCRIPT_ACTION=pre-dump` when it has loaded and knows the kernel, and before it looks at the first task (criu/cr-dump.c,
//! `cr_dump_tasks`). It goes on when the script succeeds, and ends when it fails.
//!
//! ```text
//!   agent   Hold::make ─▶ WORK/hold (this program), WORK/hold.go (a pipe)      release ─▶ one byte ─▶ 0: CRIU dumps
//!   CRIU                  runs WORK/hold, which reads the pipe                 agent gone, or Hold dropped ─▶ end of file ─▶ 1: CRIU ends
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::Path,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::stat::Mode,
    unistd::mkfifo,
};

/// Name of the script in CRIU's work directory, and `argv[0]` of this program.
pub const SCRIPT: &str = "hold";
/// What the pipe is called: the script with this at its end.
const PIPE: &str = ".go";

/// The agent's end.
#[derive(Debug)]
pub struct Hold(File);

impl Hold {
    /// Makes script and pipe in CRIU's work directory, as seen from here; `program` is the static binary as CRIU sees it.
    ///
    /// # Errors
    /// When the directory cannot be written, or has them already.
    pub fn make(work: &Path, program: &str) -> io::Result<Self> {
        let pipe = work.join(format!("{SCRIPT}{PIPE}"));
        for old in [work.join(SCRIPT), pipe.clone()] {
            match fs::remove_file(old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        symlink(program, work.join(SCRIPT))?;
        mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // fifo(7): open for both, Linux waits for nobody. While this is open the script waits; when it is closed, also by the end of this process, it reads the end.
        Ok(Self(OpenOptions::new().read(true).write(true).open(pipe)?))
    }

    /// Lets CRIU begin.
    ///
    /// # Errors
    /// When the pipe cannot be written.
    pub fn release(&self) -> io::Result<()> {
        (&self.0).write_all(b"g")
    }
}

/// Runs the script, which was called as `script`, and gives its exit code.
#[must_use]
pub fn run(script: &Path) -> i32 {
    if std::env::var("CRTOOLS_SCRIPT_ACTION").is_ok_and(|stage| stage != "pre-dump") {
        return 0;
    }
    let mut pipe = script.as_os_str().to_owned();
    pipe.push(PIPE);
    match wait(Path::new(&pipe)) {
        Ok(true) => 0,
        _ => 1,
    }
}

/// Whether a byte came. fifo(7): an open that waits would wait for ever if the agent had gone before; a read that waits does not, without a writer.
fn wait(pipe: &Path) -> io::Result<bool> {
    let mut pipe = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(pipe)?;
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(pipe.read(&mut [0])? == 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_byte_lets_go_and_the_end_does_not() {
        let work = tempfile::tempdir().unwrap();
        let script = work.path().join(SCRIPT);
        for (released, code) in [(true, 0), (false, 1)] {
            let hold = Hold::make(work.path(), "/bin/true").unwrap();
            let script = script.clone();
            let waiting = std::thread::spawn(move || run(&script));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!waiting.is_finished());
            if released {
                hold.release().unwrap();
            }
            drop(hold);
            assert_eq!(waiting.join().unwrap(), code);
        }
    }

    #[test]
    fn an_agent_that_has_gone_before_is_not_waited_for() {
        let work = tempfile::tempdir().unwrap();
        drop(Hold::make(work.path(), "/bin/true").unwrap());
        assert_eq!(run(&work.path().join(SCRIPT)), 1);
    }
}
