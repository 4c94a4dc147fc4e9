//! How a pod is attached to its network, as far as it matters for its connections: the interface, its addresses, and the routes behind it. What the anchor
//! gives the new pod a mirror of.
//!
//! Message formats: linux/rtnetlink.h (`struct rtmsg`), fib_rules.h.

use std::net::Ipv4Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::netlink::{self, ACK, CREATE, DUMP, EXCL, Message, Socket, attributes, u32_at};
use crate::{Error, addresses, links, replies, sockets};

const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;
const NEWRULE: u16 = 32;
const DELRULE: u16 = 33;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
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
const MAIN: u8 = 254;
const UNICAST: u8 = 1;
const PROTOCOL_STATIC: u8 = 4;
const TO_TABLE: u8 = 1;
const ONLINK: u32 = 4;
/// Where the rules of mirrors stand: before the main table, behind the local one.
const PREFERENCE: u32 = 100;
/// Tables of mirrors: this plus the mirror's number.
pub const TABLES: u32 = 7100;
const ENOENT: i32 = 2;
const ENODEV: i32 = 19;
const EAFNOSUPPORT: i32 = 97;

/// A route through the interface.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Route {
    /// Network and length of its prefix; length 0 is everything.
    pub to: (Ipv4Addr, u8),
    /// The next hop; none when the network is on the wire.
    pub via: Option<Ipv4Addr>,
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
    /// Its hardware address: peers have it in their ARP tables.
    pub mac: [u8; 6],
    /// Its largest packet in bytes.
    pub mtu: u32,
    /// Its IPv4 addresses.
    pub ips: Vec<Ipv4Addr>,
    /// The routes through it.
    pub routes: Vec<Route>,
    /// There are UDP sockets without an address of their own, see [`crate::replies`].
    #[serde(default)]
    pub datagrams: bool,
}

impl Attachment {
    /// That of the interface which has `ip`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or no Ethernet interface has that address.
    pub fn of(netns: &Path, ip: Ipv4Addr) -> Result<Self, Error> {
        let absent = || Error::Refused { what: format!("find the interface with {ip}"), source: std::io::Error::from_raw_os_error(ENODEV) };
        let all = addresses::list(netns)?;
        let device = all.iter().find(|(_, found)| *found == ip).map(|(device, _)| device.clone()).ok_or_else(absent)?;
        let link = links::list(netns)?.into_iter().find(|link| link.name == device).ok_or_else(absent)?;
        let ips =
            all.iter().filter(|(name, _)| *name == device).filter_map(|(_, ip)| if let std::net::IpAddr::V4(ip) = ip { Some(*ip) } else { None }).collect();
        let routes = routes(netns, link.index)?;
        Ok(Self { mac: link.mac.ok_or_else(absent)?, mtu: link.mtu, device, ips, routes, datagrams: sockets::any_takes_datagrams(netns)? })
    }
}

/// The routes of the main table through an interface: what is on the wire first, as the others depend on it.
fn routes(netns: &Path, device: u32) -> Result<Vec<Route>, Error> {
    let socket = Socket::inside(netns, netlink::ROUTE)?;
    let request = Message::new(GETROUTE, DUMP, &[AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let answers = socket.dump("list routes", request, NEWROUTE)?;
    let mut found: Vec<Route> = answers.iter().filter_map(|payload| route(payload, device)).collect();
    found.sort_by_key(|route| route.via.is_some());
    Ok(found)
}

/// `struct rtmsg {family, dst_len, src_len, tos, table, protocol, scope, type, flags}`.
fn route(payload: &[u8], device: u32) -> Option<Route> {
    if *payload.first()? != AF_INET || *payload.get(4)? != MAIN || *payload.get(7)? != UNICAST {
        return None;
    }
    let attributes = attributes(payload.get(12..)?);
    let value = |wanted| attributes.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    let ip = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from);
    if u32_at(value(RTA_OIF)?, 0)? != device {
        return None;
    }
    Some(Route {
        to: (value(RTA_DST).and_then(ip).unwrap_or(Ipv4Addr::UNSPECIFIED), *payload.get(1)?),
        via: value(RTA_GATEWAY).and_then(ip),
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
    let source = attachment.ips.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED);
    for route in &attachment.routes {
        let flags = if route.onlink { ONLINK } else { 0 };
        let mut body = vec![AF_INET, route.to.1, 0, 0, 0, PROTOCOL_STATIC, route.scope, UNICAST];
        body.extend_from_slice(&flags.to_ne_bytes());
        let mut message = Message::new(NEWROUTE, CREATE | ACK, &body)
            .attribute(RTA_OIF, &index.to_ne_bytes())
            .attribute(RTA_TABLE, &table.to_ne_bytes())
            .attribute(RTA_PREFSRC, &source.octets())
            .nested(RTA_METRICS, |m| m.attribute(RTAX_MTU, &mtu.to_ne_bytes()));
        if route.to.1 > 0 {
            message = message.attribute(RTA_DST, &route.to.0.octets());
        }
        if let Some(via) = route.via {
            message = message.attribute(RTA_GATEWAY, &via.octets());
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
    From(Ipv4Addr),
    Marked(u32),
}

fn of(attachment: &Attachment, table: u32) -> Vec<Which> {
    let marked = attachment.datagrams.then(|| Which::Marked(replies::mark(table)));
    attachment.ips.iter().copied().map(Which::From).chain(marked).collect()
}

/// `struct fib_rule_hdr {family, dst_len, src_len, tos, table, res1, res2, action, flags}`.
fn rule(kind: u16, flags: u16, which: Which, table: u32) -> Message {
    let from = if matches!(which, Which::From(_)) { 32 } else { 0 };
    let message = Message::new(kind, flags | ACK, &[AF_INET, 0, from, 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0]);
    let message = match which {
        Which::From(ip) => message.attribute(FRA_SRC, &ip.octets()),
        Which::Marked(mark) => message.attribute(FRA_FWMARK, &mark.to_ne_bytes()),
    };
    message.attribute(FRA_PRIORITY, &PREFERENCE.to_ne_bytes()).attribute(FRA_TABLE, &table.to_ne_bytes())
}
