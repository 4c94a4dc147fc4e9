//! Internet sockets of a dump that a restore makes again as they were: listening and connected TCP, bound UDP.
//!
//! TCP in any other state is left out: CRIU brings it there by sending, which ends only when the network is open. So are sockets of network namespaces that processes of the container have made
//! for themselves, and connections that are bound to an interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{FILES, INVENTORY, Set};
use crate::images::schema::View;

/// A socket in the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// TCP; else UDP.
    pub tcp: bool,
    /// Its own address and port. IPv4-mapped ones are written as IPv4.
    pub local: SocketAddr,
    /// The other end; without it a TCP socket listens.
    pub remote: Option<SocketAddr>,
}

const INET: u64 = 2;
const INET6: u64 = 10;
const STREAM: u64 = 1;
const DATAGRAM: u64 = 2;
const TCP: u64 = 6;
const UDP: u64 = 17;
const ESTABLISHED: u64 = 1;
const LISTEN: u64 = 10;

/// All of them.
pub fn all(set: &Set) -> Vec<Endpoint> {
    let closing = set.first(INVENTORY).is_ok_and(|inventory| inventory.flag("tcp_close"));
    let own = namespace(set);
    let files = set.images.get(FILES).into_iter().flat_map(|image| image.views());
    let sockets = files.filter_map(|file| file.view("isk")).filter(|socket| own.is_none() || socket.number("ns_id").is_none_or(|id| Some(id) == own));
    sockets.filter_map(|socket| endpoint(&socket)).filter(|endpoint| !closing || !endpoint.tcp || endpoint.remote.is_none()).collect()
}

/// The number of the init's network namespace.
fn namespace(set: &Set) -> Option<u64> {
    let init = set.first("pstree.img").ok()?.number("pid")?;
    let core = set.first(&format!("core-{init}.img")).ok()?;
    let ids = core.view("ids").or_else(|| set.first(&format!("ids-{init}.img")).ok())?;
    ids.number("net_ns_id")
}

fn endpoint(socket: &View<'_>) -> Option<Endpoint> {
    let number = |field| socket.number(field);
    if !matches!(number("family"), Some(INET | INET6)) {
        return None;
    }
    let (local, remote) = (end(socket, "src_addr", "src_port")?, end(socket, "dst_addr", "dst_port").filter(|remote| remote.port() != 0));
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (local, remote) = (plain(local), remote.map(plain));
    let bound = socket.text("ifname").is_some_and(|name| !name.is_empty());
    let scoped = |address: SocketAddr| matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    match (number("type"), number("proto"), number("state")) {
        (Some(STREAM), Some(TCP), Some(ESTABLISHED)) if bound || scoped(local) => None,
        (Some(STREAM), Some(TCP), Some(LISTEN)) => Some(Endpoint { tcp: true, local, remote: None }),
        (Some(STREAM), Some(TCP), Some(ESTABLISHED)) if remote.is_some() => Some(Endpoint { tcp: true, local, remote }),
        (Some(DATAGRAM), Some(UDP), _) if local.port() != 0 => Some(Endpoint { tcp: false, local, remote }),
        _ => None,
    }
}

/// Address and port. CRIU keeps addresses as the words that the kernel has in memory.
pub fn end(socket: &View<'_>, address: &str, port: &str) -> Option<SocketAddr> {
    let words = socket.numbers(address).into_iter().map(|word| u32::try_from(word & 0xffff_ffff).unwrap_or_default());
    let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    let address = match (<[u8; 4]>::try_from(bytes.as_slice()), <[u8; 16]>::try_from(bytes.as_slice())) {
        (Ok(four), _) => IpAddr::V4(Ipv4Addr::from(four)),
        (_, Ok(sixteen)) => IpAddr::V6(Ipv6Addr::from(sixteen)),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::try_from(socket.number(port).unwrap_or(0)).ok()?))
}
