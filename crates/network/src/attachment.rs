//! How a pod is attached to its network, as far as it matters for its connections: the interface, its addresses, and the routes behind it. What the anchor
//! gives the new pod a mirror of.
//!
//! Message formats: linux/rtnetlink.h (`struct rtmsg`), fib_rules.h.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::netlink::{self, ACK, CREATE, DUMP, EXCL, Message, Socket, attributes, u32_at};
use crate::nft::Family;
use crate::{Error, addresses, links, replies, sockets};

pub(crate) const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;
const NEWRULE: u16 = 32;
const DELRULE: u16 = 33;
pub(crate) const RTA_DST: u16 = 1;
pub(crate) const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTAX_MTU: u16 = 2;
const RTA_TABLE: u16 = 15;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
pub(crate) const MAIN: u8 = 254;
pub(crate) const UNICAST: u8 = 1;
pub(crate) const PROTOCOL_STATIC: u8 = 4;
const TO_TABLE: u8 = 1;
const ONLINK: u32 = 4;
/// `RTM_F_CLONED`: what the kernel has learnt of one destination, no route.
const CLONED: u32 = 0x200;
/// Where the rules of mirrors stand: before the main table, behind the local one.
const PREFERENCE: u32 = 100;
/// Tables of mirrors: this plus the mirror's number.
pub const TABLES: u32 = 7100;
const ENOENT: i32 = 2;
const ENODEV: i32 = 19;
const EOPNOTSUPP: i32 = 95;
const EAFNOSUPPORT: i32 = 97;

/// A route through the interface.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Route {
    /// Network and length of its prefix; length 0 is everything.
    pub to: (IpAddr, u8),
    /// The next hop; none when the network is on the wire.
    pub via: Option<IpAddr>,
    /// The kernel's number of the scope: 253 link, 0 everywhere.
    pub scope: u8,
    /// The next hop is on the wire whatever the addresses say.
    pub onlink: bool,
}

/// See the module.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the interface.
    pub device: String,
    /// Its hardware address: peers have it in their tables of neighbours.
    pub mac: [u8; 6],
    /// Its largest packet in bytes.
    pub mtu: u32,
    /// Its addresses, IPv4 first. The link-local one is among them: neighbours are asked and answered from it.
    pub ips: Vec<IpAddr>,
    /// The routes through it.
    pub routes: Vec<Route>,
    /// There are UDP sockets without an address of their own, see [`crate::replies`].
    #[serde(default)]
    pub datagrams: bool,
    /// There are such that take datagrams over IPv6.
    #[serde(default)]
    pub datagrams_six: bool,
}

impl Attachment {
    /// That of the interface which has `ip`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or no Ethernet interface has that address.
    pub fn of(netns: &Path, ip: IpAddr) -> Result<Self, Error> {
        let absent = || Error::Refused { what: format!("find the interface with {ip}"), source: std::io::Error::from_raw_os_error(ENODEV) };
        let all = addresses::list(netns)?;
        let device = all.iter().find(|(_, found)| *found == ip).map(|(device, _)| device.clone()).ok_or_else(absent)?;
        let link = links::list(netns)?.into_iter().find(|link| link.name == device).ok_or_else(absent)?;
        let mut ips: Vec<IpAddr> = all.iter().filter(|(name, _)| *name == device).map(|(_, ip)| *ip).collect();
        ips.sort_by_key(IpAddr::is_ipv6);
        let routes = routes(netns, link.index)?;
        let takes = sockets::takes_datagrams(netns)?;
        let all = Self { mac: link.mac.ok_or_else(absent)?, mtu: link.mtu, device, ips, routes, datagrams: takes.any, datagrams_six: takes.six };
        // A link-local address alone, which every interface has, is of no use elsewhere.
        let six = all.addresses().any(|ip| ip.is_ipv6());
        Ok(if six { all } else { all.without_six() })
    }

    /// Those addresses that are known beyond the wire.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ips.iter().copied().filter(|ip| !is_link_local(*ip))
    }

    /// Without what is of IPv6.
    #[must_use]
    pub fn without_six(mut self) -> Self {
        self.ips.retain(IpAddr::is_ipv4);
        self.routes.retain(|route| route.to.0.is_ipv4());
        self.datagrams_six = false;
        self
    }

    /// The families of addresses in which answers to datagrams are to be looked after.
    pub(crate) fn answering(&self) -> impl Iterator<Item = Family> {
        [self.datagrams.then_some(Family::Ip), self.datagrams_six.then_some(Family::Ip6)].into_iter().flatten()
    }
}

/// An address that is valid on the wire only: `fe80::…`. IPv4 has them, too, and treats them as any other.
#[must_use]
pub fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The routes of the main table through an interface: what is on the wire first, as the others depend on it.
fn routes(netns: &Path, device: u32) -> Result<Vec<Route>, Error> {
    let socket = Socket::inside(netns, netlink::ROUTE)?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = Message::new(GETROUTE, DUMP, &[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        match socket.dump("list routes", request, NEWROUTE) {
            Ok(answers) => found.extend(answers.iter().filter_map(|payload| route(payload, device))),
            // A kernel without IPv6.
            Err(error) if family == AF_INET6 && error.errno() == Some(EOPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|route: &Route| route.via.is_some());
    Ok(found)
}

/// `struct rtmsg {family, dst_len, src_len, tos, table, protocol, scope, type, flags}`.
fn route(payload: &[u8], device: u32) -> Option<Route> {
    let family = *payload.first()?;
    if ![AF_INET, AF_INET6].contains(&family) || *payload.get(4)? != MAIN || *payload.get(7)? != UNICAST || u32_at(payload, 8)? & CLONED != 0 {
        return None;
    }
    let attributes = attributes(payload.get(12..)?);
    let value = |wanted| attributes.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let everything = if family == AF_INET { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    if u32_at(value(RTA_OIF)?, 0)? != device {
        return None;
    }
    Some(Route {
        to: (value(RTA_DST).and_then(addresses::parse).unwrap_or(everything), *payload.get(1)?),
        via: value(RTA_GATEWAY).and_then(addresses::parse),
        scope: *payload.get(6)?,
        onlink: u32_at(payload, 8)? & ONLINK != 0,
    })
}

/// Routes everything that comes from the attachment's addresses through `device`, by a table of its own; packets of at most `mtu` bytes.
///
/// # Errors
/// The kernel refused.
pub fn route_from(netns: &Path, attachment: &Attachment, device: &str, table: u32, mtu: u32) -> Result<(), Error> {
    let index = links::index_of(netns, device)?;
    let socket = Socket::inside(netns, netlink::ROUTE)?;
    let source = attachment.ips.first().copied().filter(IpAddr::is_ipv4);
    for route in &attachment.routes {
        let flags = if route.onlink { ONLINK } else { 0 };
        let mut body = vec![family(route.to.0), route.to.1, 0, 0, 0, PROTOCOL_STATIC, route.scope, UNICAST];
        body.extend_from_slice(&flags.to_ne_bytes());
        let mut message = Message::new(NEWROUTE, CREATE | ACK, &body)
            .attribute(RTA_OIF, &index.to_ne_bytes())
            .attribute(RTA_TABLE, &table.to_ne_bytes())
            .nested(RTA_METRICS, |m| m.attribute(RTAX_MTU, &mtu_of(route.to.0, mtu).to_ne_bytes()));
        if let Some(source) = source.filter(|_| route.to.0.is_ipv4()) {
            message = message.attribute(RTA_PREFSRC, &addresses::octets(source));
        }
        if route.to.1 > 0 {
            message = message.attribute(RTA_DST, &addresses::octets(route.to.0));
        }
        if let Some(via) = route.via {
            message = message.attribute(RTA_GATEWAY, &addresses::octets(via));
        }
        match socket.transact(&format!("add a route through {device}"), vec![message], 0) {
            Err(error) if error.is_taken() => {}
            other => other?,
        }
    }
    for which in of(attachment, table) {
        match socket.transact(&format!("route what is {which:?}"), vec![rule(NEWRULE, CREATE | EXCL, which, table)], 0) {
            Err(error) if error.is_taken() => {}
            other => other?,
        }
    }
    Ok(())
}

/// Takes the rules of [`route_from`] away; the routes go with their interface.
///
/// # Errors
/// The kernel refused.
pub fn unroute(netns: &Path, attachment: &Attachment, table: u32) -> Result<(), Error> {
    let socket = match Socket::inside(netns, netlink::ROUTE) {
        Ok(socket) => socket,
        Err(Error::Namespace { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    for which in of(attachment, table) {
        match socket.transact(&format!("forget what is {which:?}"), vec![rule(DELRULE, 0, which, table)], 0) {
            Err(error) if matches!(error.errno(), Some(ENOENT | EAFNOSUPPORT)) => {}
            other => other?,
        }
    }
    Ok(())
}

/// What is routed by a mirror's table.
#[derive(Clone, Copy, Debug)]
enum Which {
    From(IpAddr),
    Marked(Family, u32),
}

fn of(attachment: &Attachment, table: u32) -> Vec<Which> {
    let marked = attachment.answering().map(|family| Which::Marked(family, replies::mark(table)));
    attachment.ips.iter().copied().map(Which::From).chain(marked).collect()
}

/// `struct fib_rule_hdr {family, dst_len, src_len, tos, table, res1, res2, action, flags}`.
fn rule(kind: u16, flags: u16, which: Which, table: u32) -> Message {
    let (family, length) = match which {
        Which::From(ip) => (family(ip), if ip.is_ipv4() { 32 } else { 128 }),
        Which::Marked(family, _) => (family as u8, 0),
    };
    let message = Message::new(kind, flags | ACK, &[family, 0, length, 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0]);
    let message = match which {
        Which::From(ip) => message.attribute(FRA_SRC, &addresses::octets(ip)),
        Which::Marked(_, mark) => message.attribute(FRA_FWMARK, &mark.to_ne_bytes()),
    };
    message.attribute(FRA_PRIORITY, &PREFERENCE.to_ne_bytes()).attribute(FRA_TABLE, &table.to_ne_bytes())
}

fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// IPv6 has no smaller packets than 1280 bytes (RFC 8200, 5); a way that does not carry them whole cuts what it wraps them in.
fn mtu_of(ip: IpAddr, mtu: u32) -> u32 {
    if ip.is_ipv4() { mtu } else { mtu.max(1280) }
}
