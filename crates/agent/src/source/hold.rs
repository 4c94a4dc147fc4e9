//! The hold: a `criu dump` that is started before the freeze, and waits.
//!
//! It is asked for as of CRIU's service for one client (`criu swrk`), which has a socket for its standard input, and tells what stage of its work it has come to. The first one, `pre-dump`,
//! is when it has loaded and knows the kernel, and before it looks at the first task (criu/cr-dump.c, `cr_dump_tasks`). It goes on when it is answered. With action scripts, which do the
//! same, something would be exec'ed in the freeze: they are run again when the dump has ended.
//!
//! ```text
//!   agent   Hold::ask ─▶ socket, request                 go ─▶ answer ─▶ CRIU dumps; further stages are answered at once
//!   CRIU    starts with it, reads the request, says pre-dump      agent gone, or Hold dropped ─▶ end of the socket ─▶ CRIU ends
//! ```
//! An agent that goes while CRIU dumps is no worse than a dump that fails: CRIU lets go of the tasks, which are frozen as before.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use godwit_runtime::rpc::{self, Word};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair},
};

/// What `criu` is called with, before its options: its service, with standard input for a socket. It takes the options of `criu dump` (criu/crtools.c, `main`), but for what the request
/// says.
pub const WORDS: [&str; 2] = ["swrk", "0"];
/// Bytes of the longest message: a stage has a name, and the end an error in words.
const LONGEST: usize = 64 << 10;

/// How far CRIU has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It loads.
    Starting,
    /// It waits.
    Waiting,
    /// It will not dump anything.
    Ended,
}

/// The agent's end.
#[derive(Debug)]
pub struct Hold(OwnedFd);

impl Hold {
    /// Asks for a dump of the processes below `pid` into the directory behind the symbolic link `images`, both as CRIU names them. (Before version 4.2 CRIU reads it as a link, for its
    /// title: criu/cr-service.c, `setup_opts_from_req`.) What is returned with it is to be CRIU's standard input, and nobody else's.
    ///
    /// # Errors
    /// When there can be no such socket.
    pub fn ask(pid: i32, images: &Path) -> io::Result<(Self, OwnedFd)> {
        // Each message one packet.
        let (own, criu) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        send(own.as_raw_fd(), &rpc::dump(pid, &images.to_string_lossy()), MsgFlags::MSG_NOSIGNAL)?;
        Ok((Self(own), criu))
    }

    /// How far it has come; does not block.
    ///
    /// # Errors
    /// When the socket cannot be read.
    pub fn state(&self) -> io::Result<State> {
        Ok(match self.next(MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(Some(Word::Stage(_))) => State::Waiting,
            Ok(_) => State::Ended,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => State::Starting,
            Err(error) => return Err(error),
        })
    }

    /// Lets CRIU begin, and go on at every stage. Blocks until it has ended; how, its exit code tells.
    ///
    /// # Errors
    /// When it cannot be answered.
    pub fn go(self) -> io::Result<()> {
        while let Some(word) = self.next(MsgFlags::empty())? {
            if let Word::Stage(_) = word {
                match send(self.0.as_raw_fd(), &rpc::answer(true), MsgFlags::MSG_NOSIGNAL) {
                    Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// The next word of CRIU's; `None` when it has ended.
    fn next(&self, flags: MsgFlags) -> io::Result<Option<Word>> {
        let mut packet = vec![0; LONGEST];
        loop {
            return match recv(self.0.as_raw_fd(), &mut packet, flags) {
                Err(Errno::EINTR) => continue,
                // ECONNRESET: it ended without reading everything.
                Ok(0) | Err(Errno::ECONNRESET) => Ok(None),
                Ok(length) => Ok(Some(packet.get(..length).and_then(rpc::read).unwrap_or(Word::Other))),
                Err(error) => Err(error.into()),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `criu_resp`: type = NOTIFY, success = 1, notify = { script }.
    fn stage(name: &str) -> Vec<u8> {
        let length = u8::try_from(name.len()).unwrap();
        [&[0x08, 6, 0x10, 1, 0x2a, length + 2, 0x0a, length], name.as_bytes()].concat()
    }

    /// CRIU's end: waits for the request, says the stages, and returns whether it was let through all of them.
    fn criu(socket: &OwnedFd, stages: &[&str]) -> bool {
        let mut packet = [0; 1024];
        let length = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
        assert_eq!(packet[..length], rpc::dump(7, "/images"));
        stages.iter().all(|name| {
            send(socket.as_raw_fd(), &stage(name), MsgFlags::MSG_NOSIGNAL).is_ok()
                && recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()).is_ok_and(|length| packet[..length] == rpc::answer(true))
        })
    }

    fn becomes(hold: &Hold, wanted: State) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while hold.state().unwrap() != wanted {
            assert!(std::time::Instant::now() < end, "{:?}", hold.state());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn it_waits_until_it_may_go() {
        let (hold, socket) = Hold::ask(7, Path::new("/images")).unwrap();
        assert_eq!(hold.state().unwrap(), State::Starting);
        let waiting = std::thread::spawn(move || criu(&socket, &["pre-dump", "query-ext-files", "post-dump"]));
        becomes(&hold, State::Waiting);
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!waiting.is_finished());
        hold.go().unwrap();
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn without_anybody_who_lets_it_go_it_ends() {
        let (hold, socket) = Hold::ask(7, Path::new("/images")).unwrap();
        let waiting = std::thread::spawn(move || criu(&socket, &["pre-dump"]));
        becomes(&hold, State::Waiting);
        drop(hold);
        assert!(!waiting.join().unwrap());
    }

    #[test]
    fn one_that_cannot_dump_is_seen() {
        let (hold, socket) = Hold::ask(7, Path::new("/images")).unwrap();
        drop(socket);
        assert_eq!(hold.state().unwrap(), State::Ended);
        let (hold, socket) = Hold::ask(7, Path::new("/images")).unwrap();
        // type = DUMP, success = 0
        send(socket.as_raw_fd(), &[0x08, 1, 0x10, 0], MsgFlags::MSG_NOSIGNAL).unwrap();
        assert_eq!(hold.state().unwrap(), State::Ended);
        drop(socket);
        hold.go().unwrap();
    }
}
