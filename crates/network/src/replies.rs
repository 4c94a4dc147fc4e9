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
//! It is one table of the family `ip`, and one of `ip6`, for each mirror. A pod without such a socket gets none: following flows costs every packet of its namespace something.
//!
//! Message formats: linux/netfilter/nf_tables.h, nfnetlink_conntrack.h.

use std::net::IpAddr;
use std::path::Path;

use crate::attachment::is_link_local;
use crate::netlink::{self, APPEND, CREATE, DUMP, Message, Socket, attributes};
use crate::nft::{Batch, Chain, DELTABLE, Family, NEWRULE, NEWTABLE, compare, expression, flow, load, meta, set_flow, set_meta};
use crate::{Error, addresses, links};

const PREFIX: &str = "anchor-";
const META_MARK: u32 = 3;
const META_IIF: u32 = 4;
const META_L4PROTO: u32 = 16;
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

/// Makes answers to datagrams of a family (`Ip` or `Ip6`) that come in at `device` leave by it, from the address that they came to; `table` has the routes. There already: it
/// is made anew.
///
/// # Errors
/// The kernel refused, or no other interface of the namespace has an address of that family.
pub(crate) fn begin(netns: &Path, device: &str, table: u32, family: Family) -> Result<(), Error> {
    let (index, mark, own) = (links::index_of(netns, device)?, mark(table), own_address(netns, family)?);
    let name = format!("{PREFIX}{device}");
    let mut batch = Batch::new();
    renew(&mut batch, &name, family);
    let chain = |hook, priority, kind| Chain { family, hook, device: None, priority, kind, drops: false };
    let mut rule = |chain_name: &str, chain: Chain<'_>, fill: &dyn Fn(Message) -> Message| {
        batch.chain(&name, chain_name, chain);
        batch.push(NEWRULE, CREATE | APPEND, family, |m| m.text(1, &name).text(2, chain_name).nested(4, fill));
    };
    // iif DEVICE, meta l4proto udp, socket wildcard 1, meta mark set MARK, ct mark set MARK
    rule("marked", chain(PREROUTING, MANGLE, "filter"), &|m| {
        let m = compare(meta(m, META_IIF), 0, &index.to_ne_bytes());
        let m = compare(meta(m, META_L4PROTO), 0, &[UDP]);
        let m = compare(expression(m, "socket", &|m| m.be32(1, SOCKET_WILDCARD).be32(2, 1)), 0, &[1]);
        set_flow(set_meta(load(m, &mark.to_ne_bytes()), META_MARK), FLOW_MARK)
    });
    // meta mark MARK, dnat to OWN
    rule("led", chain(PREROUTING, NAT, "nat"), &|m| {
        let m = load(compare(meta(m, META_MARK), 0, &mark.to_ne_bytes()), &addresses::octets(own));
        expression(m, "nat", &|m| m.be32(1, 1).be32(2, family as u32).be32(3, 1))
    });
    // ct mark MARK, meta mark set MARK
    rule("answers", chain(OUTPUT, MANGLE, "route"), &|m| set_meta(compare(flow(m, FLOW_MARK), 0, &mark.to_ne_bytes()), META_MARK));
    batch.commit(&Socket::inside(netns, netlink::NETFILTER)?, "lead datagrams")
}

/// Takes it away again, if it is there.
///
/// # Errors
/// The kernel refused.
pub(crate) fn end(netns: &Path, device: &str, family: Family) -> Result<(), Error> {
    let socket = match Socket::inside(netns, netlink::NETFILTER) {
        Ok(socket) => socket,
        Err(Error::Namespace { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let name = format!("{PREFIX}{device}");
    let mut batch = Batch::new();
    batch.push(NEWTABLE, CREATE, family, |m| m.text(1, &name));
    batch.push(DELTABLE, 0, family, |m| m.text(1, &name));
    batch.commit(&socket, "forget datagrams")
}

/// Made, deleted and made anew in one transaction: afterwards it is complete whatever was there before.
fn renew(batch: &mut Batch, name: &str, family: Family) {
    for (kind, flags) in [(NEWTABLE, CREATE), (DELTABLE, 0), (NEWTABLE, CREATE)] {
        batch.push(kind, flags, family, |m| m.text(1, name));
    }
}

/// How many flows of datagrams to old addresses the kernel remembers: it forgets one some time (30 s, or 2 minutes) after its last datagram.
///
/// # Errors
/// The kernel cannot be asked (it has no nf_conntrack_netlink, say).
pub(crate) fn flows(netns: &Path, table: u32, family: Family) -> Result<u32, Error> {
    let wanted = mark(table).to_be_bytes();
    let request = Message::new(FLOW_GET, DUMP, &family.header());
    let answers = Socket::inside(netns, netlink::NETFILTER)?.dump("list flows", request, FLOW_NEW)?;
    let of_mirror = |payload: &&Vec<u8>| attributes(payload.get(4..).unwrap_or_default()).contains(&(CTA_MARK, wanted.as_slice()));
    Ok(u32::try_from(answers.iter().filter(of_mirror).count()).unwrap_or(u32::MAX))
}

/// The address of the pod's own interface: the first one that is no mirror's.
fn own_address(netns: &Path, family: Family) -> Result<IpAddr, Error> {
    let all = addresses::list(netns)?;
    let own = all
        .into_iter()
        .find(|(device, ip)| ip.is_ipv6() == (family == Family::Ip6) && !ip.is_loopback() && !is_link_local(*ip) && !device.starts_with(crate::mirror::PREFIX));
    own.map(|(_, ip)| ip).ok_or_else(|| Error::Refused { what: "find the pod's own address".to_owned(), source: std::io::Error::from_raw_os_error(99) })
}
