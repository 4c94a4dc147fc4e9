//! Answers to datagrams that came to an old address: they must come from it, or who asked does not know them.
//!
//! A TCP connection and a UDP socket that is bound or connected have their address. A UDP socket without one answers from the address that the routing table gives, which is
//! the new one. So its datagrams are led to the new address, and the kernel's table of flows gives the answers the old one:
//!
//! ```text
//!   peers ──▶ old0 ── to a UDP socket without an address: mark, also the flow ──▶ destination: the new address ──▶ socket
//!         ◀── old0 ◀── source: the old address ◀── rule: what is marked ▶ the old routes ◀── of a marked flow: mark ◀──┘
//! ```
//!
//! It is one table of the family `ip` for each mirror. A pod without such a socket gets none: following flows costs every packet of its namespace something.
//!
//! Message formats: linux/netfilter/nf_tables.h, nfnetlink_conntrack.h.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::netlink::{self, APPEND, CREATE, DUMP, Message, Socket, attributes};
use crate::nft::{Batch, Chain, DELTABLE, Family, NEWRULE, NEWTABLE, compare, expression, flow, load, meta, payload, set_flow, set_meta};
use crate::{Error, addresses, links};

const PREFIX: &str = "anchor-";
const META_MARK: u32 = 3;
const META_IIF: u32 = 4;
const FLOW_MARK: u32 = 3;
const SOCKET_WILDCARD: u32 = 2;
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
/// As iptables' table `mangle`, and its `nat` for destinations.
const MANGLE: i32 = -150;
const NAT: i32 = -100;
const UDP: u8 = 17;
const FLOW_NEW: u16 = 1 << 8; // NFNL_SUBSYS_CTNETLINK | IPCTNL_MSG_CT_NEW
const FLOW_GET: u16 = FLOW_NEW | 1;
const CTA_MARK: u16 = 8;
/// Marks of mirrors: this plus the mirror's table.
const MARKS: u32 = 0x676f_0000;

/// The mark of what belongs to the mirror whose routes are in `table`.
#[must_use]
pub fn mark(table: u32) -> u32 {
    MARKS + table
}

/// Makes answers to datagrams that come in at `device` leave by it, from the address that they came to; `table` has the routes. There already: it is made anew.
///
/// # Errors
/// The kernel refused, or no other interface of the namespace has an IPv4 address.
pub fn begin(netns: &Path, device: &str, table: u32) -> Result<(), Error> {
    let (index, mark, own) = (links::index_of(netns, device)?, mark(table), own_address(netns)?);
    let name = format!("{PREFIX}{device}");
    let mut batch = Batch::new();
    renew(&mut batch, &name);
    let chain = |hook, priority, kind| Chain { family: Family::Ip, hook, device: None, priority, kind, drops: false };
    let mut rule = |chain_name: &str, chain: Chain<'_>, fill: &dyn Fn(Message) -> Message| {
        batch.chain(&name, chain_name, chain);
        batch.push(NEWRULE, CREATE | APPEND, Family::Ip, |m| m.text(1, &name).text(2, chain_name).nested(4, fill));
    };
    // iif DEVICE, ip protocol udp, socket wildcard 1, meta mark set MARK, ct mark set MARK
    rule("marked", chain(PREROUTING, MANGLE, "filter"), &|m| {
        let m = compare(meta(m, META_IIF), 0, &index.to_ne_bytes());
        let m = compare(payload(m, 1, 9, 1), 0, &[UDP]);
        let m = compare(expression(m, "socket", &|m| m.be32(1, SOCKET_WILDCARD).be32(2, 1)), 0, &[1]);
        set_flow(set_meta(load(m, &mark.to_ne_bytes()), META_MARK), FLOW_MARK)
    });
    // meta mark MARK, dnat to OWN
    rule("led", chain(PREROUTING, NAT, "nat"), &|m| {
        let m = load(compare(meta(m, META_MARK), 0, &mark.to_ne_bytes()), &own.octets());
        expression(m, "nat", &|m| m.be32(1, 1).be32(2, Family::Ip as u32).be32(3, 1))
    });
    // ct mark MARK, meta mark set MARK
    rule("answers", chain(OUTPUT, MANGLE, "route"), &|m| set_meta(compare(flow(m, FLOW_MARK), 0, &mark.to_ne_bytes()), META_MARK));
    batch.commit(&Socket::inside(netns, netlink::NETFILTER)?, "lead datagrams")
}

/// Takes it away again, if it is there.
///
/// # Errors
/// The kernel refused.
pub fn end(netns: &Path, device: &str) -> Result<(), Error> {
    let socket = match Socket::inside(netns, netlink::NETFILTER) {
        Ok(socket) => socket,
        Err(Error::Namespace { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let name = format!("{PREFIX}{device}");
    let mut batch = Batch::new();
    batch.push(NEWTABLE, CREATE, Family::Ip, |m| m.text(1, &name));
    batch.push(DELTABLE, 0, Family::Ip, |m| m.text(1, &name));
    batch.commit(&socket, "forget datagrams")
}

/// Made, deleted and made anew in one transaction: afterwards it is complete whatever was there before.
fn renew(batch: &mut Batch, name: &str) {
    for (kind, flags) in [(NEWTABLE, CREATE), (DELTABLE, 0), (NEWTABLE, CREATE)] {
        batch.push(kind, flags, Family::Ip, |m| m.text(1, name));
    }
}

/// How many flows of datagrams to old addresses the kernel remembers: it forgets one some time (30 s, or 2 minutes) after its last datagram.
///
/// # Errors
/// The kernel cannot be asked (it has no nf_conntrack_netlink, say).
pub fn flows(netns: &Path, table: u32) -> Result<u32, Error> {
    let wanted = mark(table).to_be_bytes();
    let request = Message::new(FLOW_GET, DUMP, &Family::Ip.header());
    let answers = Socket::inside(netns, netlink::NETFILTER)?.dump("list flows", request, FLOW_NEW)?;
    let of_mirror = |payload: &&Vec<u8>| attributes(payload.get(4..).unwrap_or_default()).contains(&(CTA_MARK, wanted.as_slice()));
    Ok(u32::try_from(answers.iter().filter(of_mirror).count()).unwrap_or(u32::MAX))
}

/// The address of the pod's own interface: the first one that is no mirror's.
fn own_address(netns: &Path) -> Result<Ipv4Addr, Error> {
    let all = addresses::list(netns)?;
    let own = all.iter().find_map(|(device, ip)| match ip {
        IpAddr::V4(ip) if !ip.is_loopback() && !device.starts_with(crate::mirror::PREFIX) => Some(*ip),
        _ => None,
    });
    own.ok_or_else(|| Error::Refused { what: "find the pod's own address".to_owned(), source: std::io::Error::from_raw_os_error(99) })
}
