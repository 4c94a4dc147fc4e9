//! CRIU started beforehand, and what it and the runtime below say to each other.
//!
//! CRIU opens the folders that a request names by number as `/proc/PID/fd/N` of the process that made its socket (criu/cr-service.c, `setup_opts_from_req`; the pid
//! is SO_PEERCRED's). That is this process here, so it has runc's folders open under runc's numbers.

use std::{
    ffi::{OsStr, OsString},
    fs::OpenOptions,
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        signal::Signal,
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, getsockopt, recv, recvmsg, sendmsg, socketpair,
            sockopt::PeerCredentials,
        },
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{
    gate::Gate,
    rpc::{self, Request, Word},
    runc, sys,
};

/// Own descriptors have numbers from here on; runc's, and so those of its folders, are smaller.
const OWN: RawFd = 512;
/// So many descriptors come with one packet at most; CRIU sends one.
const DESCRIPTORS: usize = 8;

/// A started CRIU, and the runtime that waits for it.
#[derive(Debug)]
pub struct Relay {
    runtime: OwnedFd,
    criu: OwnedFd,
    child: Pid,
}

impl Relay {
    /// Starts CRIU with `arguments`, among which `socket` is the number of its socket. That of this process, on which runc is heard, goes over to the relay.
    ///
    /// # Errors
    /// When the kernel refuses, or runc's `folders` cannot be opened.
    pub fn start(program: &Path, arguments: &[OsString], socket: RawFd, folders: &[RawFd]) -> io::Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let Some(child) = sys::fork()? else {
            let error = match sys::move_descriptor(theirs.as_raw_fd(), socket) {
                Ok(()) => runc::become_program(program, OsStr::new("criu"), arguments).text(),
                Err(errno) => errno.to_string(),
            };
            eprintln!("{error}");
            std::process::exit(126);
        };
        drop(theirs);
        let high = |fd: &OwnedFd| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(OWN)).map(sys::own);
        let (runtime, criu) = (high(&sys::own(socket))?, high(&ours)?);
        drop(ours);
        let relay = Self { runtime, criu, child: Pid::from_raw(child) };
        sys::close_below(OWN);
        relay.open(folders).inspect_err(|_| relay.kill())?;
        Ok(relay)
    }

    /// Opens runc's folders under runc's numbers.
    fn open(&self, folders: &[RawFd]) -> io::Result<()> {
        let runc = getsockopt(&self.runtime, PeerCredentials)?.pid();
        for fd in folders {
            let path = format!("/proc/{runc}/fd/{fd}");
            if *fd >= OWN {
                return Err(io::Error::other(format!("{path}: the number is too large")));
            }
            let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(&path);
            let low = opened.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
            // The kernel may have given it the very number that it is to have.
            let high = sys::own(fcntl(&low, FcntlArg::F_DUPFD_CLOEXEC(OWN))?);
            drop(low);
            sys::move_descriptor(high.as_raw_fd(), *fd)?;
        }
        Ok(())
    }

    /// Passes on what both say until CRIU has ended; `gate` decides about each stage once runc has had its turn. Gives CRIU's exit code.
    #[must_use]
    pub fn run(self, mut gate: Gate) -> i32 {
        let passed = self.pass_all(&mut gate);
        // Who has gone is missed by the other.
        let Self { runtime, criu, child } = self;
        drop((runtime, criu));
        let code = ended(child);
        if let Err(error) = passed {
            gate.say(&format!("what the runtime below and CRIU say is not passed on any more: {error}; CRIU ended with {code}"));
        }
        code
    }

    fn pass_all(&self, gate: &mut Gate) -> io::Result<()> {
        let Some(request) = Packet::take(&self.runtime)? else { return Ok(()) };
        request.give(&self.criu)?;
        while let Some(packet) = Packet::take(&self.criu)? {
            match rpc::read(&packet.bytes).ok_or_else(|| io::Error::other("a word of CRIU's is not understood"))? {
                Word::Other => packet.give(&self.runtime)?,
                Word::Failed => {
                    gate.failed();
                    packet.give(&self.runtime)?;
                }
                Word::Stage(stage) => {
                    let answer = self.ask_runtime(&packet).inspect_err(|_| gate.forsaken(&stage))?;
                    let refused = Request::read(&answer.bytes).is_some_and(|answer| answer.refuses());
                    let answer = if refused || gate.lets_pass(&stage) { answer } else { Packet { bytes: rpc::answer(false), descriptors: Vec::new() } };
                    answer.give(&self.criu)?;
                }
            }
        }
        Ok(())
    }

    /// What the runtime below answers to a stage.
    fn ask_runtime(&self, stage: &Packet) -> io::Result<Packet> {
        stage.give(&self.runtime)?;
        Packet::take(&self.runtime)?.ok_or_else(|| io::Error::other("the runtime below has gone"))
    }

    /// Ends CRIU, which has got no word. Gives an exit code for runc.
    #[must_use]
    pub fn stop(self) -> i32 {
        self.kill();
        1
    }

    fn kill(&self) {
        let _ = sys::kill(self.child.as_raw(), Signal::SIGKILL as i32);
        ended(self.child);
    }
}

/// Waits for the end of a child and gives its exit code, 128 + n for a signal.
fn ended(child: Pid) -> i32 {
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return 1,
        }
    }
}

/// One message with the descriptors that come with it.
struct Packet {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Packet {
    /// Waits for the next; `None` at the end.
    fn take(socket: &OwnedFd) -> io::Result<Option<Self>> {
        let mut bytes = vec![0; length(socket.as_raw_fd())?];
        let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        // It is there, so that no signal interrupts a wait.
        let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let count = message.bytes;
        let descriptors =
            message.cmsgs()?.flat_map(|part| if let ControlMessageOwned::ScmRights(all) = part { all } else { Vec::new() }).map(sys::own).collect();
        bytes.truncate(count);
        Ok((count > 0).then_some(Self { bytes, descriptors }))
    }

    fn give(&self, socket: &OwnedFd) -> io::Result<()> {
        let numbers: Vec<RawFd> = self.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control: &[ControlMessage<'_>] = if numbers.is_empty() { &[] } else { &rights };
        again(|| sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(&self.bytes)], control, MsgFlags::MSG_NOSIGNAL, None))?;
        Ok(())
    }
}

/// Waits for a packet and gives its length in bytes without taking it; 0 at the end.
///
/// # Errors
/// What recv(2) says.
pub fn length(socket: RawFd) -> Result<usize, Errno> {
    // unix(7): with MSG_TRUNC the real length is told, however short the buffer.
    again(|| recv(socket, &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC))
}

/// Calls again what a signal has interrupted.
pub fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            outcome => return outcome,
        }
    }
}
