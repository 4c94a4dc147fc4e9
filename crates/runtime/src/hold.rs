//! The hold: a `criu dump` that is started before the freeze, and waits.
//!
//! It is asked for as of CRIU's service for one client (`criu swrk`), which has a socket for its standard input, and tells what stage of its work it has come to. The first one, `pre-dump`,
//! is when it has loaded and knows the kernel, and before it looks at the first task (criu/cr-dump.c, `cr_dump_tasks`). It goes on when it is answered. With action scripts, which do the
//! same, something would be exec'ed in the freeze: they are run again when the dump has ended.
//!
//! ```text
//!   agent   Hold::ask ─▶ socket, request                        go ─▶ answer ─▶ CRIU dumps; further stages are answered at once
//!   CRIU    starts with it, reads the request, says pre-dump    agent gone, or Hold dropped ─▶ end of the socket ─▶ CRIU ends
//! ```
//! An agent that goes while CRIU dumps is no worse than a dump that fails: CRIU lets go of the tasks, which are frozen as before.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair},
};

use crate::rpc::{self, Word};

/// What `criu` is called with, before its options: its service, with standard input for a socket. It takes options as `criu dump` does (criu/crtools.c, `main`), but for those that
/// the request has.
pub const WORDS: [&str; 2] = ["swrk", "0"];
/// Bytes of the longest message: a stage has a name, and the end an error in words.
const LONGEST: usize = 64 << 10;

/// The agent's end.
#[derive(Debug)]
pub struct Hold(OwnedFd);

impl Hold {
    /// Asks for a dump of the processes below `pid` into the directory `images`, both as CRIU names them. What is returned with it is to be CRIU's standard input, and nobody else's.
    ///
    /// # Errors
    /// When there can be no such socket.
    pub fn ask(pid: i32, images: &Path) -> io::Result<(Self, OwnedFd)> {
        // Each message one packet.
        let (own, criu) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        send(own.as_raw_fd(), &rpc::dump(pid, &images.to_string_lossy()), MsgFlags::MSG_NOSIGNAL)?;
        Ok((Self(own), criu))
    }

    /// Lets CRIU begin, and go on at every stage. Blocks until it has ended; how, its exit code tells.
    ///
    /// # Errors
    /// When it cannot be answered.
    pub fn go(self) -> io::Result<()> {
        let mut packet = vec![0; LONGEST];
        loop {
            let length = match recv(self.0.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                // It ended without reading everything.
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(()),
                other => other?,
            };
            if let Some(Word::Stage(_)) = packet.get(..length).and_then(rpc::read) {
                match send(self.0.as_raw_fd(), &rpc::answer(true), MsgFlags::MSG_NOSIGNAL) {
                    Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// CRIU's end: waits for the request, says the stages, and returns whether it was let through all of them.
    fn criu(socket: &OwnedFd, stages: &[&str]) -> bool {
        let mut packet = [0; 1024];
        let length = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
        assert_eq!(packet[..length], rpc::dump(7, "/images"));
        stages.iter().all(|stage| {
            send(socket.as_raw_fd(), &rpc::stage(stage), MsgFlags::MSG_NOSIGNAL).is_ok()
                && recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()).is_ok_and(|length| packet[..length] == rpc::answer(true))
        })
    }

    #[test]
    fn it_waits_until_it_may_go() {
        let (hold, socket) = Hold::ask(7, Path::new("/images")).unwrap();
        let waiting = std::thread::spawn(move || criu(&socket, &["pre-dump", "query-ext-files", "post-dump"]));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!waiting.is_finished());
        hold.go().unwrap();
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn without_anybody_who_lets_it_go_it_ends() {
        let (hold, socket) = Hold::ask(7, Path::new("/images")).unwrap();
        let waiting = std::thread::spawn(move || criu(&socket, &["pre-dump"]));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(hold);
        assert!(!waiting.join().unwrap());
    }
}
