//! Just enough netlink: building messages with attributes, sending them, reading answers.
//!
//! Wire format: `struct nlmsghdr` and `struct nlattr` of linux/netlink.h: native byte order, everything padded to four bytes. Attribute *values* of nf_tables
//! are big-endian; that is the caller's business.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with, sockopt};

use crate::{Error, netns};

/// `NLM_F_REQUEST`: every request carries it.
pub const REQUEST: u16 = 0x001;
/// `NLM_F_ACK`: answer even when all is well.
pub const ACK: u16 = 0x004;
/// `NLM_F_DUMP`: list everything.
pub const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_EXCL`.
pub const EXCL: u16 = 0x200;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = 0x800;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// Links, addresses and routes: protocol 0.
pub const ROUTE: Option<Protocol> = None;
/// nf_tables and its relatives.
pub const NETFILTER: Option<Protocol> = Some(rustix::net::netlink::NETFILTER);
/// Families of their own, such as WireGuard's.
pub const GENERIC: Option<Protocol> = Some(rustix::net::netlink::GENERIC);
/// Sockets.
pub const SOCK_DIAG: Option<Protocol> = Some(rustix::net::netlink::SOCK_DIAG);

const NOOP: u16 = 1;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
/// The kernel answers at once; what takes longer than this is broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// One message under construction.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Starts a message of `kind` whose fixed part is `body`.
    pub fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// Adds flags to those that it was made with.
    pub fn add_flags(&mut self, flags: u16) {
        let with = u16_at(&self.bytes, 6).unwrap_or(REQUEST) | flags;
        self.bytes[6..8].copy_from_slice(&with.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Appends an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a piece that is no attribute: the fixed part of what is nested.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends a string attribute with its terminating zero.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends a big-endian number, as nf_tables wants it.
    #[must_use]
    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends an attribute that holds attributes.
    #[must_use]
    pub fn nested(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let mut message = inside(self);
        let length = u16::try_from(message.bytes.len() - start).unwrap_or(u16::MAX);
        message.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        message.bytes[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        message
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// The attributes in a piece of a message: `(kind without flags, value)`.
pub fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        let length = usize::from(length);
        let Some(value) = bytes.get(4..length) else {
            break;
        };
        found.push((kind & 0x3fff, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The native-order 16-bit number at `offset`.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

/// The native-order 32-bit number at `offset`.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

/// A netlink socket in some network namespace.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: Cell<u32>,
}

impl Socket {
    /// Opens a socket of a netlink protocol inside the namespace named by the file `netns`.
    pub fn inside(netns: &Path, protocol: Option<Protocol>) -> Result<Self, Error> {
        netns::inside(netns, || Self::here(protocol))
    }

    /// Opens a socket in the namespace of the calling thread: for the agent, its node's.
    pub fn here(protocol: Option<Protocol>) -> Result<Self, Error> {
        let failed = |what| move |errno: rustix::io::Errno| Error::Socket { what, source: errno.into() };
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol).map_err(failed("open a socket"))?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(PATIENCE)).map_err(failed("set a time limit"))?;
        bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(failed("bind a socket"))?;
        Ok(Self { fd, sequence: Cell::new(1) })
    }

    fn next(&self) -> u32 {
        self.sequence.set(self.sequence.get().wrapping_add(1));
        self.sequence.get()
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Error> {
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.fd, bytes, SendFlags::empty(), &kernel).map_err(|errno| Error::Socket { what: "send a request", source: errno.into() })?;
        Ok(())
    }

    /// Sends messages in one datagram and waits until the kernel has acknowledged the one at `last` (which must carry [`ACK`]). The first error ends the
    /// wait; for nf_tables, an error undoes the whole batch.
    pub fn transact(&self, what: &str, messages: Vec<Message>, last: usize) -> Result<(), Error> {
        let mut bytes = Vec::new();
        let (mut first_sequence, mut awaited) = (None, 0);
        for (index, message) in messages.into_iter().enumerate() {
            let sequence = self.next();
            first_sequence.get_or_insert(sequence);
            if index == last {
                awaited = sequence;
            }
            bytes.extend(message.finish(sequence));
        }
        self.send(&bytes)?;
        let first = first_sequence.unwrap_or(awaited);
        let mut done = false;
        while !done {
            self.receive(what, |kind, sequence, payload| {
                if kind != ERROR || sequence < first {
                    return Ok(()); // an answer to something older
                }
                check(what, payload)?;
                done |= sequence == awaited;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Sends one request (which must carry [`ACK`]) and returns the payloads of its answers of type `kind`.
    pub fn get(&self, what: &str, message: Message, kind: u16) -> Result<Vec<Vec<u8>>, Error> {
        // An acknowledgement ends it as the end of a list does.
        self.dump(what, message, kind)
    }

    /// Sends one dump request and returns the payloads of all answers of type `kind`.
    pub fn dump(&self, what: &str, message: Message, kind: u16) -> Result<Vec<Vec<u8>>, Error> {
        let wanted = self.next();
        self.send(&message.finish(wanted))?;
        let (mut found, mut done) = (Vec::new(), false);
        while !done {
            self.receive(what, |answer, sequence, payload| {
                if sequence != wanted {
                    return Ok(());
                }
                match answer {
                    DONE => done = true,
                    ERROR => {
                        check(what, payload)?;
                        done = true;
                    }
                    _ if answer == kind => found.push(payload.to_vec()),
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Reads one datagram and shows its messages: type, sequence number, payload.
    fn receive(&self, what: &str, mut show: impl FnMut(u16, u32, &[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let mut buffer = vec![0; 64 * 1024];
        let (length, _) = loop {
            match recv(&self.fd, buffer.as_mut_slice(), RecvFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::Socket { what: "read an answer", source: errno.into() });
                }
                Ok(received) => break received,
            }
        };
        let malformed = || Error::Malformed { what: what.to_owned() };
        let mut rest = buffer.get(..length).ok_or_else(malformed)?;
        while !rest.is_empty() {
            let size = u32_at(rest, 0).and_then(|size| usize::try_from(size).ok()).ok_or_else(malformed)?;
            let (kind, sequence) = (u16_at(rest, 4).ok_or_else(malformed)?, u32_at(rest, 8).ok_or_else(malformed)?);
            let payload = rest.get(HEADER..size).ok_or_else(malformed)?;
            if kind != NOOP {
                show(kind, sequence, payload)?;
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Reads `struct nlmsgerr`: zero is an acknowledgement.
fn check(what: &str, payload: &[u8]) -> Result<(), Error> {
    match u32_at(payload, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(Error::Refused { what: what.to_owned(), source: io::Error::from_raw_os_error(-code) }),
        None => Err(Error::Malformed { what: what.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_round_trip_with_padding() {
        let message = Message::new(7, 0, &[1, 2, 3, 4]).text(1, "abc").attribute(2, &[9]).nested(3, |m| m.be32(1, 5)).finish(42);
        assert_eq!(message.len(), HEADER + 4 + 8 + 8 + 12);
        assert_eq!(u32_at(&message, 0), Some(40 + 8));
        let found = attributes(&message[HEADER + 4..]);
        assert_eq!(found, vec![(1, &b"abc\0"[..]), (2, &[9][..]), (3, &[8, 0, 1, 0, 0, 0, 0, 5][..])]);
    }

    #[test]
    fn attributes_of_garbage_end_quietly() {
        assert!(attributes(&[0, 0, 0, 0]).is_empty() || attributes(&[0, 0, 0, 0]).len() == 1);
        assert!(attributes(&[255, 255, 1, 0, 1]).is_empty());
    }
}
