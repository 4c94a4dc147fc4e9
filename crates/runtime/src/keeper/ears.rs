//! Waiting for signals and for one descriptor at once. All signals are blocked and read from a signalfd(2), so none can come at a wrong moment.

use std::{io, os::fd::AsFd, os::fd::BorrowedFd, time::Duration};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::SigSet,
        signalfd::{SfdFlags, SignalFd},
    },
};

use crate::sys;

/// Signals that do not mean "end": job control, timers of nobody, broken pipes.
const NO_ORDER: &[i32] =
    &[nix::libc::SIGPIPE, nix::libc::SIGCONT, nix::libc::SIGTSTP, nix::libc::SIGTTIN, nix::libc::SIGTTOU, nix::libc::SIGURG, nix::libc::SIGWINCH];

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A signal of this number.
    Signal(i32),
    /// A child has changed.
    Child,
    /// The descriptor can be read, or is broken.
    Readable,
    /// Nothing in time.
    Timeout,
}

/// The keeper's signals.
pub struct Ears {
    signals: SignalFd,
    code: Vec<(usize, usize)>,
}

impl Ears {
    /// Blocks all signals from now on.
    pub fn new() -> io::Result<Self> {
        let all = SigSet::all();
        all.thread_block()?;
        Ok(Self { signals: SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?, code: sys::code() })
    }

    /// Waits for the first of them.
    pub fn wait(&self, other: Option<BorrowedFd<'_>>, timeout: Option<Duration>) -> Event {
        loop {
            if let Ok(Some(info)) = self.signals.read_signal() {
                match i32::try_from(info.ssi_signo).unwrap_or_default() {
                    nix::libc::SIGCHLD => return Event::Child,
                    signal if NO_ORDER.contains(&signal) => continue,
                    signal => return Event::Signal(signal),
                }
            }
            // Whole milliseconds, rounded up, so that a short rest is not spun away.
            let timeout = timeout.map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX));
            let mut descriptors = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            descriptors.extend(other.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            if timeout == PollTimeout::NONE {
                // This may take hours.
                sys::release(&self.code);
            }
            match poll(&mut descriptors, timeout) {
                Ok(0) => return Event::Timeout,
                Ok(_) if descriptors.first().is_some_and(|signals| signals.any() == Some(true)) => {}
                Ok(_) => return Event::Readable,
                Err(Errno::EINTR) => {}
                Err(_) => return Event::Timeout,
            }
        }
    }
}
