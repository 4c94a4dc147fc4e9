//! What concerns sockets.
//!
//! The protocol of a socket stands in the extended attribute `system.sockprotoname` of its descriptor (net/socket.c). The peers of unix sockets come from the kernel's `unix_diag`
//! (linux/unix_diag.h), asked inside the pod's network namespace:
//!
//! ```text
//!   unix_diag: inode ─▶ peer's inode      peer open in the same container: moves along
//!                                         anywhere else: each container is a dump of its own, nothing outside can be restored
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto, socket_with};

use super::collect::{Collector, who};
use super::{Subject, View};
use crate::cri::Container;
use crate::process::{self, Connections, FdKind, Process, Protocol, directory};

/// What CRIU dumps (`dump_socket`, `can_dump_ipproto`), as the kernel names them; unix sockets are `UNIX` or `UNIX-STREAM`.
const DUMPABLE: [&str; 11] = ["TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "PING", "PINGv6", "NETLINK"];

/// How often a connection to somebody else is looked at once more, and after which time.
const LOOKS: u32 = 2;
const BETWEEN: Duration = Duration::from_millis(20);

pub(super) fn inspect(subject: &Subject<'_>, views: &[View<'_>], found: &mut Collector) {
    for view in views {
        let members = view.members();
        let mut unix: BTreeMap<u64, (&Process, i32)> = BTreeMap::new();
        for process in members {
            for fd in &process.fds {
                let FdKind::Socket { inode } = fd.kind else { continue };
                let name = protocol(process.pid, fd.fd);
                if name.as_deref().is_some_and(|name| name.starts_with("UNIX")) {
                    unix.insert(inode, (process, fd.fd));
                } else if let Some(name) = name {
                    check(view.container, process, fd.fd, &name, found);
                }
            }
        }
        peers(view, views, &unix, found);
    }
    bound_to_pod(subject, views, found);
}

fn protocol(pid: i32, fd: i32) -> Option<String> {
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(directory(pid).join("fd").join(fd.to_string()), "system.sockprotoname", value.as_mut_slice()).ok()?;
    Some(String::from_utf8_lossy(value.get(..length)?).trim_end_matches('\0').to_owned())
}

fn check(container: &Container, process: &Process, fd: i32, name: &str, found: &mut Collector) {
    match name {
        "MPTCP" | "MPTCPv6" => found.block_process(
            "Mptcp",
            container,
            process,
            format!("fd {fd} is a Multipath TCP socket"),
            "CRIU cannot dump Multipath TCP. Go programs listen with it by default: start the pod with GODEBUG=multipathtcp=0, or set net.mptcp.enabled=0.",
        ),
        "PACKET" | "RAW" | "RAWv6" => {
            found.warn(format!("{}: fd {fd} is a {name} socket; filters and addresses that it holds are those of the old pod", who(container, process)))
        }
        _ if DUMPABLE.contains(&name) => {}
        _ => found.block_process(
            "UnsupportedSocket",
            container,
            process,
            format!("fd {fd} is a socket of protocol {name}"),
            "CRIU cannot dump sockets of this protocol. Start the application without the feature that uses it.",
        ),
    }
}

fn peers(view: &View<'_>, views: &[View<'_>], unix: &BTreeMap<u64, (&Process, i32)>, found: &mut Collector) {
    if unix.is_empty() {
        return;
    }
    let pairs = match unix_pairs(directory(view.container.pid).join("ns/net")) {
        Ok(pairs) => pairs,
        Err(error) => {
            found.warn(format!("unix sockets of container {} could not be looked at: {error}", view.container.name));
            return;
        }
    };
    let open_elsewhere = |inode: u64| {
        let has = |other: &&View<'_>| other.processes.iter().flat_map(|process| &process.fds).any(|fd| fd.kind == FdKind::Socket { inode });
        views.iter().find(has).map(|other| other.container.name.as_str())
    };
    let mut strange: BTreeMap<u64, u64> = unix.keys().filter_map(|inode| Some((*inode, stranger(&pairs, *inode, |peer| unix.contains_key(&peer))?))).collect();
    // Programs connect and close all the time, and what was seen first is of another moment than what was seen last: only what stays is meant.
    for _ in 0..LOOKS {
        if strange.is_empty() {
            return;
        }
        thread::sleep(BETWEEN);
        let own: BTreeSet<u64> = view.members().iter().flat_map(|process| sockets_of(process.pid)).collect();
        let Ok(pairs) = unix_pairs(directory(view.container.pid).join("ns/net")) else { break };
        strange.retain(|inode, _| own.contains(inode) && stranger(&pairs, *inode, |peer| own.contains(&peer)).is_some());
    }
    for (inode, peer) in strange {
        let Some((process, fd)) = unix.get(&inode) else { continue };
        let other = open_elsewhere(peer).map_or_else(
            || "a process outside the pod".to_owned(),
            |name| if name == view.container.name { "a kubectl exec session".to_owned() } else { format!("container {name}") },
        );
        found.block_process(
            "UnixSocketToElsewhere",
            view.container,
            process,
            format!("fd {fd} is a unix socket connected to {other}"),
            "A unix socket can move only together with both its ends, in one container. Close the connection, or use TCP.",
        );
    }
}

/// The peer of a socket, if it is not one's `own`. A peer without an inode has not been accepted yet, or is closed.
fn stranger(pairs: &BTreeMap<u64, u64>, inode: u64, own: impl Fn(u64) -> bool) -> Option<u64> {
    pairs.get(&inode).copied().filter(|peer| *peer != 0 && !own(*peer))
}

/// Inodes of the sockets that a process has open now.
fn sockets_of(pid: i32) -> Vec<u64> {
    let links = std::fs::read_dir(directory(pid).join("fd")).into_iter().flatten().flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect()
}

/// Inode of each unix socket of a network namespace and its peer's.
fn unix_pairs(netns: PathBuf) -> io::Result<BTreeMap<u64, u64>> {
    let file = File::open(netns)?;
    let worker = thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        ask()
    });
    worker.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the pod's network namespace ended abnormally")))
}

fn ask() -> io::Result<BTreeMap<u64, u64>> {
    const DONE: u16 = 3;
    const ERROR: u16 = 2;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(Duration::from_secs(5)))?;
    // struct nlmsghdr {length, SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, sequence, pid}, struct unix_diag_req {family, protocol, pad, states, inode, UDIAG_SHOW_PEER, cookie}
    let mut request = Vec::with_capacity(40);
    request.extend_from_slice(&40_u32.to_ne_bytes());
    request.extend_from_slice(&20_u16.to_ne_bytes());
    request.extend_from_slice(&0x301_u16.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[1, 0, 0, 0]);
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend_from_slice(&0_u32.to_ne_bytes());
    request.extend_from_slice(&4_u32.to_ne_bytes());
    request.extend_from_slice(&[0xff; 8]);
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let (mut pairs, mut buffer) = (BTreeMap::new(), vec![0; 64 << 10]);
    loop {
        let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, payload, next)) = split(rest) {
            match kind {
                DONE => return Ok(pairs),
                ERROR => return Err(io::Error::from_raw_os_error(number(payload, 0).map_or(0, |code| -code.cast_signed()))),
                _ => pairs.extend(pair(payload)),
            }
            rest = next;
        }
    }
}

/// Type and payload of the first message, and what follows.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(number(bytes, 0)?).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    Some((kind, bytes.get(16..length)?, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// `struct unix_diag_msg` of 16 bytes with the inode at 4, then attributes, of which UNIX_DIAG_PEER (2) is an inode.
fn pair(payload: &[u8]) -> Option<(u64, u64)> {
    let inode = number(payload, 4)?;
    let mut rest = payload.get(16..)?;
    while let Some(head) = number(rest, 0) {
        let (length, kind) = (usize::try_from(head & 0xffff).ok()?, head >> 16);
        if kind == 2 {
            return Some((inode.into(), number(rest, 4)?.into()));
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
    Some((inode.into(), 0))
}

fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn bound_to_pod(subject: &Subject<'_>, views: &[View<'_>], found: &mut Collector) {
    let Some(connections) = views.first().and_then(|view| process::connections(view.container.pid).ok()) else { return };
    let owners: BTreeMap<u64, (&Container, &Process)> = views
        .iter()
        .flat_map(|view| {
            view.processes.iter().flat_map(move |process| {
                process.fds.iter().filter_map(move |fd| if let FdKind::Socket { inode } = fd.kind { Some((inode, (view.container, process))) } else { None })
            })
        })
        .collect();
    let own: BTreeSet<_> = subject.sandbox.ips.iter().copied().collect();
    for listener in connections.listening.iter().filter(|listener| own.contains(&listener.local.ip())) {
        let Some((container, process)) = owners.get(&listener.inode) else { continue };
        let protocol = if listener.protocol == Protocol::Tcp { "TCP" } else { "UDP" };
        found.block_process(
            "BoundToPodAddress",
            container,
            process,
            format!("a {protocol} socket is bound to {}, the pod's own address", listener.local),
            "The pod's address changes with the move. Let the application listen on 0.0.0.0 or [::] (or on loopback).",
        );
    }
    for (what, local, inode) in on_the_wire(&connections) {
        let Some((container, process)) = owners.get(&inode) else { continue };
        found.block_process(
            "LinkLocalAddress",
            container,
            process,
            format!("{what} uses {}, an address of the wire that the pod leaves", local.ip()),
            "Nobody can reach a link-local address from another node. Let the application use another address, or move the pod when this socket is closed.",
        );
    }
}

/// Sockets with a link-local address of IPv6.
fn on_the_wire(connections: &Connections) -> impl Iterator<Item = (String, SocketAddr, u64)> {
    let name = |protocol| if protocol == Protocol::Tcp { "TCP" } else { "UDP" };
    let listening = connections.listening.iter().map(move |one| (format!("a {} socket", name(one.protocol)), one.local, one.inode));
    let connected = connections.inside.iter().chain(&connections.outside);
    let connected = connected.map(move |one| (format!("a {} connection to {}", name(one.protocol), one.remote), one.local, one.inode));
    listening.chain(connected).filter(|(_, local, _)| matches!(local.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::process::{Connection, Listener};

    #[test]
    fn sockets_with_an_address_of_the_wire_are_told() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let connection = |local: &str, remote: &str| Connection { protocol: Protocol::Tcp, local: address(local), remote: address(remote), state: 1, inode: 7 };
        let connections = Connections {
            outside: vec![connection("[fd88::2:10]:80", "[fd88::1]:5"), connection("[fe80::2]:80", "[fe80::1]:5"), connection("10.0.0.2:80", "10.0.0.1:5")],
            listening: vec![
                Listener { protocol: Protocol::Udp, local: address("[fe80::2]:546"), inode: 8 },
                Listener { protocol: Protocol::Udp, local: address("[::]:53"), inode: 9 },
            ],
            ..Connections::default()
        };
        let told: Vec<String> = on_the_wire(&connections).map(|(what, local, inode)| format!("{what} {} {inode}", local.ip())).collect();
        assert_eq!(told, ["a UDP socket fe80::2 8", "a TCP connection to [fe80::1]:5 fe80::2 7"]);
    }
}
