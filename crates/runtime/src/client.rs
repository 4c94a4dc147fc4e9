//! Asking the agent. One connection a question, see [`crate::protocol`].

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};

use crate::protocol::{Reply, Request, SOCKET};

/// Between two attempts to reach an agent that is away.
pub const PAUSE: Duration = Duration::from_millis(100);

/// A question that was sent and is not answered yet.
#[derive(Debug)]
pub struct Question {
    stream: UnixStream,
    answer: Vec<u8>,
}

impl Question {
    /// Connects and sends.
    ///
    /// # Errors
    /// When the agent is away.
    pub fn send(request: &Request) -> io::Result<Self> {
        let stream = UnixStream::connect(SOCKET)?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match send(stream.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(Self { stream, answer: Vec::new() })
    }

    /// Readable when there is something to [`Question::read`].
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Reads what is there. `None`: not the whole answer yet.
    ///
    /// # Errors
    /// When the connection broke, or what came is no answer of this protocol.
    pub fn read(&mut self) -> io::Result<Option<Reply>> {
        let mut buffer = [0u8; 4096];
        match recv(self.stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.answer.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        match self.answer.iter().position(|byte| *byte == b'\n') {
            Some(end) => Ok(Some(serde_json::from_slice(self.answer.get(..end).unwrap_or_default())?)),
            None => Ok(None),
        }
    }

    /// Waits for the answer, until `limit` if there is one.
    ///
    /// # Errors
    /// As [`Question::read`]; [`io::ErrorKind::TimedOut`].
    pub fn wait(mut self, limit: Option<Duration>) -> io::Result<Reply> {
        let end = limit.map(|limit| Instant::now() + limit);
        loop {
            let timeout = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Err(io::ErrorKind::TimedOut.into()),
                Some(left) => PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            };
            match poll(&mut [PollFd::new(self.descriptor(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if let Some(reply) = self.read()? {
                return Ok(reply);
            }
        }
    }
}

/// Asks once, without a limit to the answer.
///
/// # Errors
/// When the agent is away or the connection breaks.
pub fn ask(request: &Request) -> io::Result<Reply> {
    Question::send(request)?.wait(None)
}

/// Asks until the agent says whether to go on.
///
/// # Errors
/// Why not, when it says no; never because it is away.
pub fn permission(request: &Request) -> Result<(), String> {
    insist(request, |reply| match reply {
        Reply::Go => Some(Ok(())),
        Reply::Abort { why } => Some(Err(why)),
        _ => None,
    })
}

/// Asks until there is an answer that `accept` takes: for ever, for nobody here may decide alone.
pub fn insist<T>(request: &Request, accept: impl Fn(Reply) -> Option<T>) -> T {
    loop {
        if let Some(answer) = ask(request).ok().and_then(&accept) {
            return answer;
        }
        std::thread::sleep(PAUSE);
    }
}
