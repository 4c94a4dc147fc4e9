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

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use crate::Error;
use crate::netlink::{self, ACK, DUMP, Message, Socket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ESTABLISHED: u8 = 1;
const TIME_WAIT: u8 = 6;
const LISTEN: u8 = 10;
const CLOSE: u8 = 7;
/// Length of `struct inet_diag_sockid`, which stands at offset 4 of the answer and 8 of the request.
const ID: usize = 48;
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

/// Whether there is a UDP socket that takes datagrams to whatever IPv4 address: its answers come from the one that the routing table gives.
///
/// # Errors
/// The namespace cannot be entered or the kernel cannot be asked.
pub fn any_takes_datagrams(netns: &Path) -> Result<bool, Error> {
    let socket = Socket::inside(netns, netlink::SOCK_DIAG)?;
    Ok(list(&socket, UDP, 1 << CLOSE)?.iter().any(|entry| entry.local().is_some_and(|ip| ip.is_unspecified())))
}

/// One socket as the kernel describes it.
struct Entry {
    family: u8,
    protocol: u8,
    state: u8,
    id: [u8; ID],
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
        Some(Self { family: *payload.first()?, protocol, state: *payload.get(1)?, id: payload.get(4..4 + ID)?.try_into().ok()? })
    }

    fn local(&self) -> Option<IpAddr> {
        self.address(4)
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

/// Sockets of a protocol in some states.
fn list(socket: &Socket, protocol: u8, states: u32) -> Result<Vec<Entry>, Error> {
    let mut found = Vec::new();
    for family in [INET, INET6] {
        let all = Entry { family, protocol, state: 0, id: [0; ID] };
        let request = Message::new(SOCK_DIAG_BY_FAMILY, DUMP, &all.request(states));
        match socket.dump("list sockets", request, SOCK_DIAG_BY_FAMILY) {
            Ok(answers) => found.extend(answers.iter().filter_map(|payload| Entry::parse(protocol, payload))),
            Err(error) if error.errno() == Some(ENOENT) => {} // this kernel has no such sockets at all (udp_diag is a module of its own)
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
