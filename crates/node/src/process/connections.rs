//! The TCP and UDP sockets of a network namespace, told apart by where the other end is.
//!
//! Read from `/proc/PID/net/{tcp,tcp6,udp,udp6}` (proc_net_tcp in the kernel's documentation); the namespace's own addresses come from `fib_trie` and `if_inet6` beside them.
//!
//! ```text
//!   127.0.0.1:5 ─ 127.0.0.1:6      inside: both ends are this pod's, they survive a move
//!   pod IP:5 ─ other:443           outside: ends with the old address, unless the address is kept
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::directory;

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A connection (a connected socket for UDP).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Protocol.
    pub protocol: Protocol,
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The kernel's number of the TCP state: 1 is established.
    pub state: u8,
    /// The socket's inode; 0 when no process has it open any more.
    pub inode: u64,
}

/// A listening TCP socket, or a UDP socket that is bound and not connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Protocol.
    pub protocol: Protocol,
    /// Address and port.
    pub local: SocketAddr,
    /// The socket's inode.
    pub inode: u64,
}

/// All of a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Both ends are addresses of this namespace.
    pub inside: Vec<Connection>,
    /// The other end is somewhere else.
    pub outside: Vec<Connection>,
    /// Waiting for somebody.
    pub listening: Vec<Listener>,
    /// The namespace's own addresses, loopback included.
    pub addresses: BTreeSet<IpAddr>,
}

const ESTABLISHED: u8 = 1;
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

impl Connections {
    /// How many TCP connections to outside the pod are established.
    #[must_use]
    pub fn established_outside(&self) -> usize {
        self.outside.iter().filter(|connection| connection.protocol == Protocol::Tcp && connection.state == ESTABLISHED).count()
    }
}

/// The connections of the network namespace that process `pid` is in.
///
/// # Errors
/// The process has ended.
pub fn connections(pid: i32) -> io::Result<Connections> {
    let net = directory(pid).join("net");
    let addresses = local_addresses(&fs::read_to_string(net.join("fib_trie"))?, &fs::read_to_string(net.join("if_inet6")).unwrap_or_default());
    let mut found = Connections { addresses, ..Connections::default() };
    for (file, protocol) in [("tcp", Protocol::Tcp), ("tcp6", Protocol::Tcp), ("udp", Protocol::Udp), ("udp6", Protocol::Udp)] {
        // The files of IPv6 are absent where IPv6 is.
        for connection in fs::read_to_string(net.join(file)).unwrap_or_default().lines().skip(1).filter_map(|line| parse(protocol, line)) {
            found.sort_in(connection);
        }
    }
    Ok(found)
}

impl Connections {
    fn sort_in(&mut self, connection: Connection) {
        let Connection { protocol, local, inode, .. } = connection;
        let unconnected = connection.remote.ip().is_unspecified() && connection.remote.port() == 0;
        match (protocol, connection.state) {
            (Protocol::Tcp, LISTEN) => self.listening.push(Listener { protocol, local, inode }),
            (Protocol::Tcp, TIME_WAIT | CLOSE) => {}
            (Protocol::Udp, _) if unconnected => self.listening.push(Listener { protocol, local, inode }),
            _ if self.is_local(connection.remote.ip()) => self.inside.push(connection),
            _ => self.outside.push(connection),
        }
    }

    /// Whether an address is this namespace's own.
    #[must_use]
    pub fn is_local(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || self.addresses.contains(&ip)
    }
}

/// Columns: `sl local remote state queues timer retransmits uid timeout inode …`.
fn parse(protocol: Protocol, line: &str) -> Option<Connection> {
    let mut columns = line.split_whitespace();
    let local = address(columns.nth(1)?)?;
    let remote = address(columns.next()?)?;
    let state = u8::from_str_radix(columns.next()?, 16).ok()?;
    let inode = columns.nth(5)?.parse().ok()?;
    Some(Connection { protocol, local, remote, state, inode })
}

/// `0100007F:1F90`: groups of 32 bits printed as native numbers, the port as a number. IPv4-mapped addresses become IPv4.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let mut bytes = Vec::with_capacity(16);
    for start in (0..ip.len()).step_by(8) {
        bytes.extend_from_slice(&u32::from_str_radix(ip.get(start..start + 8)?, 16).ok()?.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// `fib_trie` lists an address on a line `|-- 10.0.0.1` that is followed by `/32 host LOCAL`; `if_inet6` starts each line with the address in hexadecimal.
fn local_addresses(fib_trie: &str, if_inet6: &str) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    let mut last = None;
    for line in fib_trie.lines() {
        if let Some((_, ip)) = line.split_once("|-- ") {
            last = ip.trim().parse::<Ipv4Addr>().ok();
        } else if line.trim() == "/32 host LOCAL" {
            found.extend(last.map(IpAddr::from));
        }
    }
    let six = |line: &str| Some(IpAddr::from(Ipv6Addr::from(u128::from_str_radix(line.get(..32)?, 16).ok()?)));
    found.extend(if_inet6.lines().filter_map(six));
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn own_sockets_are_found_and_sorted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let dual = TcpListener::bind("[::]:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = connections(std::process::id().cast_signed()).unwrap();
        let inside = found.inside.iter().find(|connection| connection.local == stream.local_addr().unwrap()).unwrap();
        assert_eq!((inside.remote, inside.state), (listener.local_addr().unwrap(), 1));
        assert!(inside.inode > 0);
        for (protocol, local) in
            [(Protocol::Tcp, listener.local_addr().unwrap()), (Protocol::Tcp, dual.local_addr().unwrap()), (Protocol::Udp, udp.local_addr().unwrap())]
        {
            assert!(found.listening.iter().any(|listener| (listener.protocol, listener.local) == (protocol, local)), "{protocol:?} {local}");
        }
        assert!(found.addresses.contains(&"127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn outside_and_mapped_addresses() {
        let addresses = local_addresses(
            "Local:\n  |-- 10.0.0.2\n     /32 host LOCAL\n  |-- 10.0.0.255\n     /32 link BROADCAST\n",
            "fd990000000000000000000000000002 02 40 00 80 eth0\n",
        );
        assert_eq!(addresses, ["10.0.0.2".parse().unwrap(), "fd99::2".parse().unwrap()].into());
        let mut found = Connections { addresses, ..Connections::default() };
        for line in [
            "0: 0200000A:1F90 0100000A:C350 01 00000000:00000000 00:00000000 00000000 0 0 77 1",
            "1: 0000000000000000FFFF00000200000A:1F90 0000000000000000FFFF00000200000A:C350 01 0:0 00:0 0 0 0 78 1",
            "2: 0200000A:1F91 0100000A:C350 06 00000000:00000000 00:00000000 00000000 0 0 0 3",
        ] {
            found.sort_in(parse(Protocol::Tcp, line).unwrap());
        }
        assert_eq!((found.outside.len(), found.inside.len(), found.established_outside()), (1, 1, 1));
        assert_eq!(found.outside[0].remote, "10.0.0.1:50000".parse().unwrap());
    }
}
