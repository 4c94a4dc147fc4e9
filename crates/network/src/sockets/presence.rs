//! Whether sockets are there that should be: those that a restore should have made.
//!
//! ```text
//!   TCP, listening: one list      UDP: one list      TCP, connected: a question each
//! ```
//! A list of connections would walk the whole table of the node, which takes milliseconds however few there are; this is asked while a pod stands still.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use super::{CLOSE, ENOENT, ESTABLISHED, Entry, ID, INET, INET6, LISTEN, SOCK_DIAG_BY_FAMILY, TCP, UDP, known};
use crate::Error;
use crate::netlink::{self, ACK, Message, Socket};

/// Connections that are asked for; of more only the first.
const MOST: usize = 256;

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A socket: a connection, or one that waits for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Protocol.
    pub protocol: Protocol,
    /// Its own address and port. IPv4-mapped ones are written as IPv4.
    pub local: SocketAddr,
    /// The other end; without it a TCP socket listens.
    pub remote: Option<SocketAddr>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(formatter, "{protocol} {}", self.local)?;
        match (self.protocol, self.remote) {
            (_, Some(remote)) => write!(formatter, " → {remote}"),
            (Protocol::Tcp, None) => formatter.write_str(" LISTEN"),
            (Protocol::Udp, None) => Ok(()),
        }
    }
}

/// Those of `wanted` that are not there. Two alike have to be there twice. What the kernel cannot tell of is taken to be there.
///
/// # Errors
/// The namespace cannot be entered or the kernel cannot be asked.
pub fn missing(netns: &Path, wanted: &[Endpoint]) -> Result<Vec<Endpoint>, Error> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let socket = Socket::inside(netns, netlink::SOCK_DIAG)?;
    let mut absent = Vec::new();
    for (protocol, number, states) in [(Protocol::Tcp, TCP, 1 << LISTEN), (Protocol::Udp, UDP, 1 << CLOSE | 1 << ESTABLISHED)] {
        let mut wanted = wanted.iter().filter(|endpoint| endpoint.protocol == protocol).peekable();
        if wanted.peek().is_none() {
            continue;
        }
        // Without the kernel's module for the protocol nothing can be told of its sockets.
        let Some(entries) = known(&socket, number, states)? else { continue };
        let mut there: Vec<Endpoint> = entries.iter().filter_map(|entry| endpoint(protocol, entry)).collect();
        let mut asked = 0;
        for endpoint in wanted {
            let found = if protocol == Protocol::Udp || endpoint.remote.is_none() {
                there.iter().position(|other| other == endpoint).map(|at| there.swap_remove(at)).is_some()
            } else {
                asked += 1;
                asked > MOST || connected(&socket, endpoint)?
            };
            if !found {
                absent.push(*endpoint);
            }
        }
    }
    Ok(absent)
}

/// Whether there is such a TCP connection.
fn connected(socket: &Socket, wanted: &Endpoint) -> Result<bool, Error> {
    let Some(remote) = wanted.remote else { return Ok(false) };
    let entry = Entry { family: if wanted.local.is_ipv4() { INET } else { INET6 }, protocol: TCP, state: 0, id: id(wanted.local, remote), inode: 0 };
    let request = Message::new(SOCK_DIAG_BY_FAMILY, ACK, &entry.request(u32::MAX));
    match socket.get("find a connection", request, SOCK_DIAG_BY_FAMILY) {
        // The kernel answers with whoever would be given the packets: a listener, when there is no connection.
        Ok(answers) => {
            Ok(answers.iter().filter_map(|payload| Entry::parse(TCP, payload)).any(|found| endpoint(Protocol::Tcp, &found).as_ref() == Some(wanted)))
        }
        Err(error) if error.errno() == Some(ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `struct inet_diag_sockid` (linux/inet_diag.h): ports and addresses big-endian, interface, and a cookie that means any.
fn id(local: SocketAddr, remote: SocketAddr) -> [u8; ID] {
    let mut id = [0; ID];
    let octets = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (ours, theirs) = (octets(local), octets(remote));
    id[0..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&remote.port().to_be_bytes());
    id[4..4 + ours.len()].copy_from_slice(&ours);
    id[20..20 + theirs.len()].copy_from_slice(&theirs);
    id[ID - 8..].fill(0xff);
    id
}

fn endpoint(protocol: Protocol, entry: &Entry) -> Option<Endpoint> {
    let port = |at: usize| Some(u16::from_be_bytes(entry.id.get(at..at + 2)?.try_into().ok()?));
    let local = SocketAddr::new(entry.address(4)?, port(0)?);
    let peer = port(2)?;
    let remote = if peer == 0 { None } else { Some(SocketAddr::new(entry.address(20)?, peer)) };
    Some(Endpoint { protocol, local, remote })
}
