//! The encrypted way between nodes: one WireGuard interface in the node's own network namespace, and tunnels of anchors inside it.
//!
//! ```text
//!   node A                                                                       node B
//!   old pod's netns                                                              new pod's netns
//!     anc0 ── VXLAN, UDP port 4792 ─┐                                   ┌───────── old0
//!   node's own netns                ▼                                   ▼
//!     godwit0  fdb6:4f1a:6c1d:90d7:‹A›  ══ WireGuard, UDP port 51840 ══  godwit0  fdb6:4f1a:6c1d:90d7:‹B›
//!     table inet wireguard-godwit0  in:      to port 4792 by another interface, or by this one to anything else: drop
//!                                   forward: by this interface: drop
//! ```
//!
//! ‹A› is the beginning of A's public key, so whoever has the key knows the address. The private key is made here, given to the kernel and kept nowhere else: a node that
//! boots has a new one, and no tunnels. Keys of other nodes come by the agents' own connections, which prove who they are. WireGuard takes from each peer only what comes
//! from its address; the rules keep out what comes past WireGuard, and keep in what is none of a tunnel's.
//!
//! Packets of the way may be longer than the nodes' network carries whole (the interface's MTU is large): WireGuard lets its own packets be cut, as tunnels that are not
//! encrypted have it done with theirs. IPv6 would not cut them inside.
//!
//! Message formats: linux/wireguard.h, genetlink.h; addresses: RFC 4193.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr};

use crate::attachment::{MAIN, NEWROUTE, PROTOCOL_STATIC, RTA_DST, RTA_OIF, UNICAST};
use crate::gate::{L4PROTO, PRIORITY, renew};
use crate::netlink::{self, ACK, APPEND, CREATE, DUMP, EXCL, Message, Socket, attributes, u16_at};
use crate::nft::{Batch, Chain, Family, NEWRULE, compare, drop_it, meta, payload};
use crate::{Error, here, links};

/// A public key (Curve25519).
pub type Key = [u8; 32];

/// Name of the interface in the node's own namespace.
pub const DEVICE: &str = "godwit0";
/// UDP port of WireGuard, which the nodes' networks must let through.
pub const PORT: u16 = 51840;
/// UDP port of the tunnels inside.
pub const INNER: u16 = 4792;
/// Bytes that the way adds to a packet at most: VXLAN over IPv6 70, WireGuard's padding 15, its own header, UDP and IPv6 80.
pub const OVERHEAD: u32 = 165;
/// A network of its own (RFC 4193), its number drawn by lot.
const NETWORK: [u8; 8] = [0xfd, 0xb6, 0x4f, 0x1a, 0x6c, 0x1d, 0x90, 0xd7];
const NETWORK_BITS: u8 = 64;
/// Larger than what any tunnel makes of a pod's packet, in bytes.
const MTU: u32 = 16_384;
const TABLE: &str = "wireguard-godwit0";
const UDP: u8 = 17;
/// Keys of `meta` (linux/netfilter/nf_tables.h).
const IIF: u32 = 4;
const OIF: u32 = 5;
/// Hooks of the inet family (linux/netfilter.h).
const LOCAL_IN: u32 = 1;
const FORWARD: u32 = 2;

const NEWLINK: u16 = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const INFO_KIND: u16 = 1;
const ENODEV: i32 = 19;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// The kernel's list of generic netlink families: its number, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME`.
const FAMILIES: u16 = 16;
const GETFAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;
const DEVICE_IFNAME: u16 = 2;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_PUBLIC_KEY: u16 = 4;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_PEERS: u16 = 8;
const PEER_PUBLIC_KEY: u16 = 1;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_ALLOWED: u16 = 9;
const REMOVE: u32 = 1;
const REPLACE_ALLOWED: u32 = 2;
const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_ADDRESS: u16 = 2;
const ALLOWED_BITS: u16 = 3;

/// The address on the way of the node that has this key.
#[must_use]
pub fn address(key: &Key) -> IpAddr {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&NETWORK);
    octets[8..].copy_from_slice(&key[..8]);
    Ipv6Addr::from(octets).into()
}

/// Makes this node's end, or takes up the one that is there, which has its key and its peers still.
///
/// # Errors
/// The kernel refused: it has no WireGuard, or no IPv6.
pub fn raise() -> Result<(Key, Vec<Key>), Error> {
    let made =
        Message::new(NEWLINK, CREATE | EXCL | ACK, &links::header(0, 0)).text(IFLA_IFNAME, DEVICE).nested(IFLA_LINKINFO, |m| m.text(INFO_KIND, "wireguard"));
    match Socket::here(netlink::ROUTE)?.transact(&format!("make the interface {DEVICE} (WireGuard)"), vec![made], 0) {
        Err(error) if error.is_taken() => take_up(),
        made => made.and_then(|()| take_up().inspect_err(|_| drop(remove()))),
    }
}

fn take_up() -> Result<(Key, Vec<Key>), Error> {
    let control = Control::open()?;
    let (known, peers) = control.read()?;
    let key = match known {
        Some(key) => key,
        None => control.set_up()?,
    };
    guard()?;
    links::up_as_interface(here(), DEVICE, MTU, &[address(&key)])?;
    route()?;
    Ok((key, peers))
}

/// Lets a node in, whose address on the nodes' network is `endpoint`. Known already: it is at that address from now on.
///
/// # Errors
/// The kernel refused.
pub fn admit(peer: &Key, endpoint: IpAddr) -> Result<(), Error> {
    Control::open()?.set("let a node's tunnels in", |m| {
        m.attribute(PEER_PUBLIC_KEY, peer).attribute(PEER_FLAGS, &REPLACE_ALLOWED.to_ne_bytes()).attribute(PEER_ENDPOINT, &socket_address(endpoint)).nested(
            PEER_ALLOWED,
            |m| {
                m.nested(0, |m| {
                    m.attribute(ALLOWED_FAMILY, &AF_INET6.to_ne_bytes())
                        .attribute(ALLOWED_ADDRESS, &crate::addresses::octets(address(peer)))
                        .attribute(ALLOWED_BITS, &[128])
                })
            },
        )
    })
}

/// Lets a node in no more. The interface gone: nothing to do.
///
/// # Errors
/// The kernel refused.
pub fn dismiss(peer: &Key) -> Result<(), Error> {
    match Control::open()?.set("let a node's tunnels in no more", |m| m.attribute(PEER_PUBLIC_KEY, peer).attribute(PEER_FLAGS, &REMOVE.to_ne_bytes())) {
        Err(error) if error.errno() == Some(ENODEV) => Ok(()),
        other => other,
    }
}

/// Takes it away. Absent already: nothing to do.
///
/// # Errors
/// The kernel refused.
pub fn remove() -> Result<(), Error> {
    links::remove(here(), DEVICE)?;
    let mut batch = Batch::new();
    renew(&mut batch, TABLE, &[]);
    batch.commit(&Socket::here(netlink::NETFILTER)?, &format!("forget the rules of {DEVICE}"))
}

/// Nothing reaches the tunnels past WireGuard, and nothing but tunnels goes by it.
fn guard() -> Result<(), Error> {
    let index = links::index_of(here(), DEVICE)?.to_ne_bytes();
    let mut batch = Batch::new();
    renew(&mut batch, TABLE, &[Family::Inet]);
    for (chain, hook) in [("in", LOCAL_IN), ("forward", FORWARD)] {
        batch.chain(TABLE, chain, Chain { family: Family::Inet, hook, device: None, priority: PRIORITY, kind: "filter", drops: false });
    }
    let mut drop = |chain, matches: &dyn Fn(Message) -> Message| {
        batch.push(NEWRULE, CREATE | APPEND, Family::Inet, |m| m.text(1, TABLE).text(2, chain).nested(4, |m| drop_it(matches(m))));
    };
    let (is, is_not) = (0, 1);
    let udp = |m, by, proto| compare(meta(compare(meta(m, IIF), by, &index), L4PROTO), proto, &[UDP]);
    let to_tunnels = |m, port| compare(payload(m, 2, 2, 2), port, &INNER.to_be_bytes());
    drop("in", &|m| to_tunnels(udp(m, is_not, is), is));
    drop("in", &|m| udp(m, is, is_not));
    drop("in", &|m| to_tunnels(udp(m, is, is), is_not));
    drop("forward", &|m| compare(meta(m, IIF), is, &index));
    drop("forward", &|m| compare(meta(m, OIF), is, &index));
    batch.commit(&Socket::here(netlink::NETFILTER)?, &format!("keep out what does not come by {DEVICE}"))
}

fn route() -> Result<(), Error> {
    let index = links::index_of(here(), DEVICE)?;
    let mut to = [0; 16];
    to[..8].copy_from_slice(&NETWORK);
    // `struct rtmsg {family, dst_len, src_len, tos, table, protocol, scope, type, flags}`.
    let body = [10, NETWORK_BITS, 0, 0, MAIN, PROTOCOL_STATIC, 0, UNICAST, 0, 0, 0, 0];
    let message = Message::new(NEWROUTE, CREATE | ACK, &body).attribute(RTA_DST, &to).attribute(RTA_OIF, &index.to_ne_bytes());
    match Socket::here(netlink::ROUTE)?.transact(&format!("route the nodes' addresses by {DEVICE}"), vec![message], 0) {
        Err(error) if error.is_taken() => Ok(()),
        other => other,
    }
}

/// `struct sockaddr_in`, `struct sockaddr_in6`, with WireGuard's port.
fn socket_address(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => [AF_INET.to_ne_bytes().as_slice(), &PORT.to_be_bytes(), &ip.octets(), &[0; 8]].concat(),
        IpAddr::V6(ip) => [AF_INET6.to_ne_bytes().as_slice(), &PORT.to_be_bytes(), &[0; 4], &ip.octets(), &[0; 4]].concat(),
    }
}

/// What sets WireGuard's interfaces up.
struct Control {
    socket: Socket,
    family: u16,
}

impl Control {
    fn open() -> Result<Self, Error> {
        let what = "find WireGuard's generic netlink family";
        let socket = Socket::here(netlink::GENERIC)?;
        let answers = socket.get(what, Message::new(FAMILIES, ACK, &[GETFAMILY, 1, 0, 0]).text(FAMILY_NAME, "wireguard"), FAMILIES)?;
        let found = answers.first().and_then(|payload| {
            let all = attributes(payload.get(4..)?);
            u16_at(all.iter().find(|(kind, _)| *kind == FAMILY_ID)?.1, 0)
        });
        Ok(Self { socket, family: found.ok_or_else(|| Error::Malformed { what: what.to_owned() })? })
    }

    fn request(&self, command: u8, flags: u16) -> Message {
        Message::new(self.family, flags | ACK, &[command, 1, 0, 0]).text(DEVICE_IFNAME, DEVICE)
    }

    /// The own key, if there is one, and the peers'.
    fn read(&self) -> Result<(Option<Key>, Vec<Key>), Error> {
        let (mut own, mut peers) = (None, Vec::new());
        for payload in self.socket.dump(&format!("read {DEVICE}"), self.request(GET_DEVICE, DUMP), self.family)? {
            for (kind, value) in attributes(payload.get(4..).unwrap_or_default()) {
                match kind {
                    DEVICE_PUBLIC_KEY => own = value.try_into().ok().filter(|key| *key != [0; 32]),
                    DEVICE_PEERS => {
                        let keys = attributes(value).into_iter().filter_map(|(_, peer)| {
                            let (_, key) = attributes(peer).into_iter().find(|(kind, _)| *kind == PEER_PUBLIC_KEY)?;
                            Key::try_from(key).ok()
                        });
                        peers.extend(keys);
                    }
                    _ => {}
                }
            }
        }
        Ok((own, peers))
    }

    /// Gives the interface a new key, and its port.
    fn set_up(&self) -> Result<Key, Error> {
        let what = format!("set {DEVICE} up");
        let failed = |source| Error::Refused { what: "give random bytes for a key".to_owned(), source };
        let mut private = [0; 32];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut private)).map_err(failed)?;
        // RFC 7748, 5: what a private key of Curve25519 looks like.
        private[0] &= 248;
        private[31] = private[31] & 127 | 64;
        let message = self.request(SET_DEVICE, 0).attribute(DEVICE_PRIVATE_KEY, &private).attribute(DEVICE_LISTEN_PORT, &PORT.to_ne_bytes());
        self.socket.transact(&what, vec![message], 0)?;
        self.read()?.0.ok_or(Error::Malformed { what })
    }

    fn set(&self, what: &str, peer: impl FnOnce(Message) -> Message) -> Result<(), Error> {
        let message = self.request(SET_DEVICE, 0).nested(DEVICE_PEERS, |m| m.nested(0, peer));
        self.socket.transact(what, vec![message], 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_beginning_of_its_key() {
        let mut key = [7; 32];
        key[8] = 9;
        assert_eq!(address(&key).to_string(), "fdb6:4f1a:6c1d:90d7:707:707:707:707");
    }

    #[test]
    fn where_a_node_is_as_the_kernel_writes_it() {
        let four = socket_address([10, 0, 0, 1].into());
        assert_eq!((four.len(), &four[2..8]), (16, &[0xca, 0x80, 10, 0, 0, 1][..]));
        let six = socket_address(Ipv6Addr::LOCALHOST.into());
        assert_eq!((six.len(), six[23]), (28, 1));
    }
}
