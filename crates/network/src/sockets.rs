//! Ending the connections of an address at once, so that applications see an error now and reconnect, instead of waiting minutes for a time-out.
//!
//! `SOCK_DESTROY` (linux/sock_diag.h, CONFIG_INET_DIAG_DESTROY) makes the kernel abort a socket: a reader or writer gets ECONNABORTED at once. The RST that
//! the kernel sends to the peer does not leave a shut gate. Sockets that listen are left alone.
//!
//! ```text
//!   SOCK_DIAG_BY_FAMILY dump: {tcp, udp} x {IPv4, IPv6} ──▶ those whose local address is the one asked for ──▶ SOCK_DESTROY each
//! ```
//!
//! An IPv4 connection of a dual-stack socket appears as IPv6 with an IPv4-mapped address and is found too.

mod presence;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::Error;
use crate::netlink::{self, ACK, DUMP, Message, Socket, u32_at};
pub use presence::{Endpoint, Protocol, missing};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ESTABLISHED: u8 = 1;
const SYN_RECV: u8 = 3;
const FIN_WAIT1: u8 = 4;
const TIME_WAIT: u8 = 6;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;
const NEW_SYN_RECV: u8 = 12;
const LISTEN: u8 = 10;
const CLOSE: u8 = 7;
/// Length of `struct inet_diag_sockid`, which stands at offset 4 of the answer and 8 of the request.
const ID: usize = 48;
/// Where `struct inet_diag_msg` has the inode.
const INODE: usize = 4 + ID + 16;
const ENOENT: i32 = 2;

/// What was ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destroyed {
    /// TCP connections that were established.
    pub established: u32,
    /// TCP sockets in other states, and UDP sockets.
    pub other: u32,
}

/// Ends every TCP connection and every UDP socket whose local address is `local`.
///
/// # Errors
/// The namespace cannot be entered, or the kernel cannot destroy sockets (EOPNOTSUPP: built without CONFIG_INET_DIAG_DESTROY).
pub fn destroy(netns: &Path, local: IpAddr) -> Result<Destroyed, Error> {
    let socket = Socket::inside(netns, netlink::SOCK_DIAG)?;
    let mut destroyed = Destroyed::default();
    for entry in matching(&socket, local)? {
        let message = Message::new(SOCK_DESTROY, ACK, &entry.request(u32::MAX));
        match socket.transact("end a connection", vec![message], 0) {
            Ok(()) if entry.protocol == TCP && entry.state == ESTABLISHED => destroyed.established += 1,
            Ok(()) => destroyed.other += 1,
            Err(error) if error.errno() == Some(ENOENT) => {} // it ended by itself meanwhile
            Err(error) => return Err(error),
        }
    }
    Ok(destroyed)
}

/// How many TCP connections of `local` are established.
///
/// # Errors
/// The namespace cannot be entered or the kernel cannot be asked.
pub fn established(netns: &Path, local: IpAddr) -> Result<u32, Error> {
    let socket = Socket::inside(netns, netlink::SOCK_DIAG)?;
    let count = matching(&socket, local)?.iter().filter(|entry| entry.protocol == TCP && entry.state == ESTABLISHED).count();
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// How many TCP connections of `local` to elsewhere there are, in whatever state but TIME_WAIT.
///
/// # Errors
/// The namespace cannot be entered or the kernel cannot be asked.
pub fn connections(netns: &Path, local: IpAddr) -> Result<u32, Error> {
    let socket = Socket::inside(netns, netlink::SOCK_DIAG)?;
    let count = matching(&socket, local)?.iter().filter(|entry| entry.protocol == TCP && entry.state != TIME_WAIT && entry.address(20) != Some(local)).count();
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// UDP sockets that take datagrams to whatever address: their answers come from the one that the routing table gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takers {
    /// There is one. Over IPv4, unless it is for IPv6 only, which the kernel's list does not tell.
    pub any: bool,
    /// There is one that takes datagrams over IPv6.
    pub six: bool,
}

/// Whether there are such sockets.
///
/// # Errors
/// The namespace cannot be entered or the kernel cannot be asked.
pub fn takes_datagrams(netns: &Path) -> Result<Takers, Error> {
    let socket = Socket::inside(netns, netlink::SOCK_DIAG)?;
    let all = list(&socket, UDP, 1 << CLOSE)?;
    let mut takers = all.iter().filter(|entry| entry.local().is_some_and(|ip| ip.is_unspecified())).peekable();
    Ok(Takers { any: takers.peek().is_some(), six: takers.any(|entry| entry.family == INET6) })
}

/// A TCP connection that no program has taken in (accept(2)) yet.
#[derive(Debug)]
pub struct Untaken {
    /// This end.
    pub ours: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    entry: Entry,
}

/// Connections of some addresses that no program has taken in yet. They are in no program's hands, so they do not move with one.
///
/// # Errors
/// The namespace cannot be entered or the kernel cannot be asked.
pub fn untaken(netns: &Path, locals: &[IpAddr]) -> Result<Vec<Untaken>, Error> {
    let socket = Socket::inside(netns, netlink::SOCK_DIAG)?;
    let established = list(&socket, TCP, (1 << ESTABLISHED) | (1 << CLOSE_WAIT))?;
    Ok(established.into_iter().filter(|entry| entry.inode == 0).filter_map(Untaken::of).filter(|connection| locals.contains(&connection.ours.ip())).collect())
}

/// Ends connections that no program has taken in, with a reset to their peers.
///
/// # Errors
/// The namespace cannot be entered, or the kernel cannot destroy sockets.
pub fn refuse(netns: &Path, connections: &[Untaken]) -> Result<(), Error> {
    let socket = Socket::inside(netns, netlink::SOCK_DIAG)?;
    for connection in connections {
        match socket.transact("end a connection", vec![Message::new(SOCK_DESTROY, ACK, &connection.entry.request(u32::MAX))], 0) {
            Err(error) if error.errno() == Some(ENOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Ends of a connection: ours, and the other one.
pub type Ends = (SocketAddr, SocketAddr);

/// TCP connections that are in no program's hands: not taken in yet, or closed and not yet done with.
///
/// # Errors
/// The namespace cannot be entered or the kernel cannot be asked.
pub fn unsettled(netns: &Path) -> Result<HashSet<Ends>, Error> {
    let states = [ESTABLISHED, SYN_RECV, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING, NEW_SYN_RECV].iter().fold(0_u32, |all, state| all | 1 << state);
    let socket = Socket::inside(netns, netlink::SOCK_DIAG)?;
    Ok(list(&socket, TCP, states)?.iter().filter(|entry| entry.inode == 0).filter_map(Entry::ends).collect())
}

impl Untaken {
    fn of(entry: Entry) -> Option<Self> {
        entry.ends().map(|(ours, peer)| Self { ours, peer, entry })
    }
}

/// One socket as the kernel describes it.
#[derive(Debug)]
struct Entry {
    family: u8,
    protocol: u8,
    state: u8,
    id: [u8; ID],
    /// 0: no program has it.
    inode: u32,
}

impl Entry {
    /// `struct inet_diag_req_v2`.
    fn request(&self, states: u32) -> Vec<u8> {
        let mut bytes = vec![self.family, self.protocol, 0, 0];
        bytes.extend_from_slice(&states.to_ne_bytes());
        bytes.extend_from_slice(&self.id);
        bytes
    }

    fn parse(protocol: u8, payload: &[u8]) -> Option<Self> {
        Some(Self {
            family: *payload.first()?,
            protocol,
            state: *payload.get(1)?,
            id: payload.get(4..4 + ID)?.try_into().ok()?,
            inode: u32_at(payload, INODE)?,
        })
    }

    fn local(&self) -> Option<IpAddr> {
        self.address(4)
    }

    fn ends(&self) -> Option<Ends> {
        // `struct inet_diag_sockid` begins with both ports, big-endian.
        let port = |offset| Some(u16::from_be_bytes(self.id.get(offset..offset + 2)?.try_into().ok()?));
        Some((SocketAddr::new(self.address(4)?, port(0)?), SocketAddr::new(self.address(20)?, port(2)?)))
    }

    /// The address at an offset of the id: 4 is ours, 20 the peer's.
    fn address(&self, offset: usize) -> Option<IpAddr> {
        let source = self.id.get(offset..offset + 16)?;
        Some(match self.family {
            INET => <[u8; 4]>::try_from(source.get(..4)?).ok()?.into(),
            _ => Ipv6Addr::from(<[u8; 16]>::try_from(source).ok()?).to_canonical(),
        })
    }
}

fn matching(socket: &Socket, local: IpAddr) -> Result<Vec<Entry>, Error> {
    let mut found = Vec::new();
    for protocol in [TCP, UDP] {
        // An unconnected UDP socket is in state CLOSE; a TCP socket there is not bound to anything that could be destroyed.
        let states = if protocol == TCP { !((1 << LISTEN) | (1 << CLOSE)) } else { u32::MAX };
        found.extend(list(socket, protocol, states)?.into_iter().filter(|entry| entry.local() == Some(local)));
    }
    Ok(found)
}

/// Sockets of a protocol in some states; none where the kernel knows no such sockets at all (udp_diag is a module of its own).
fn list(socket: &Socket, protocol: u8, states: u32) -> Result<Vec<Entry>, Error> {
    Ok(known(socket, protocol, states)?.unwrap_or_default())
}

/// Sockets of a protocol in some states; `None` if the kernel cannot tell.
fn known(socket: &Socket, protocol: u8, states: u32) -> Result<Option<Vec<Entry>>, Error> {
    let mut found = None;
    for family in [INET, INET6] {
        let all = Entry { family, protocol, state: 0, id: [0; ID], inode: 0 };
        let request = Message::new(SOCK_DIAG_BY_FAMILY, DUMP, &all.request(states));
        match socket.dump("list sockets", request, SOCK_DIAG_BY_FAMILY) {
            Ok(answers) => found.get_or_insert_with(Vec::new).extend(answers.iter().filter_map(|payload| Entry::parse(protocol, payload))),
            Err(error) if error.errno() == Some(ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
