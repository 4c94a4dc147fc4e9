//! How `create` leaves a keeper behind.
//!
//! ```text
//!   wrapper ── fork ──▶ child: new session, only descriptors 0-2 and the status pipe (3) ── exec itself as godwit-keeper
//!      │                                                                                       │ cgroup, pid file
//!      └◀──────────────────────────── status pipe: "up", or why not ───────────────────────────┘
//! ```

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use crate::{entry, error::Error, layout::Layout, sys};

/// The keeper's word that it stands.
pub const UP: &str = "up";
/// Number of the status pipe in the keeper.
const STATUS: RawFd = 3;

/// Leaves a keeper and returns when it stands: in the container's cgroup, its pid in the pid file.
///
/// # Errors
/// [`Error::Keeper`].
pub fn spawn(layout: &Layout) -> Result<(), Error> {
    let failed = |why: String| Error::Keeper { container: layout.id.clone(), why };
    let os = |errno: nix::errno::Errno| failed(errno.to_string());
    let argv: Vec<CString> = [entry::KEEPER, &layout.id].into_iter().filter_map(|word| CString::new(word).ok()).collect();
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(os)?;
    if sys::fork().map_err(os)?.is_none() {
        let why = become_keeper(&write, &argv);
        tell(Some(File::from(write)), &why.to_string());
        std::process::exit(125);
    }
    drop(write);
    let mut word = String::new();
    File::from(read).read_to_string(&mut word).map_err(|error| failed(error.to_string()))?;
    match word.as_str() {
        UP => Ok(()),
        "" => Err(failed("it ended at once".into())),
        why => Err(failed(why.into())),
    }
}

/// In the child. Returns only to say why not.
fn become_keeper(status: &OwnedFd, argv: &[CString]) -> nix::errno::Errno {
    let _ = nix::unistd::setsid();
    let kept = if status.as_raw_fd() == STATUS {
        fcntl(status, FcntlArg::F_SETFD(FdFlag::empty())).map(drop)
    } else {
        sys::move_descriptor(status.as_raw_fd(), STATUS)
    };
    if let Err(errno) = kept {
        return errno;
    }
    sys::close_inherited(Some(STATUS));
    match nix::unistd::execv(c"/proc/self/exe", argv) {
        Err(errno) => errno,
    }
}

/// In the keeper: the status pipe. `None` when it was started by hand.
pub fn status_pipe() -> Option<File> {
    let file = std::fs::read_link(format!("/proc/self/fd/{STATUS}")).ok()?;
    file.to_string_lossy().starts_with("pipe:").then(|| File::from(sys::own(STATUS)))
}

/// Says one thing to the wrapper and hangs up.
pub fn tell(pipe: Option<File>, word: &str) {
    if let Some(mut pipe) = pipe {
        let _ = pipe.write_all(word.as_bytes());
    }
}

/// Lets go of the container's log pipes: they must end when the container ends them.
pub fn drop_standard_descriptors() {
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        for number in 0..3 {
            let _ = sys::move_descriptor(null.as_raw_fd(), number);
        }
    }
}
