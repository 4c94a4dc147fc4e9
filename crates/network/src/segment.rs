//! An old address in a new pod whose interface is on the same network segment as the old pod's: no tunnel, the address moves by itself as a virtual machine's does.
//!
//! ```text
//!   new pod's netns
//!     eth0  its own address, its own hardware address ─────────────┐
//!     old0  macvlan on eth0: the old address, the old hardware one ─┴── the segment ── peers, and the old pod, sealed
//! ```
//!
//! The interface is made up and *shut*: its address is there, so that sockets can be bound to it, but nothing comes in and no answer to ARP leaves. What the kernel
//! or the pod says before it is opened waits for the hardware address of its receiver, which nobody can tell yet; it asks every 10 ms ([`patient`]), so that it leaves as soon as
//! somebody can. [`open`] lets everything pass but new connections of the old pod's node: its kubelet's probes and hooks are none of the new pod's business.
//!
//! ```text
//!   table netdev segment-old0   in    ingress of old0, policy drop           | opened: new connections of the old node are dropped
//!   table inet   segment-old0   out   output by old0 that is not TCP: drop   | opened: gone
//!                                     bare acknowledgements beyond the first 400: drop
//!   table arp    segment-old0   out   output by old0: drop                   | opened: gone
//! ```
//!
//! Each restored connection sends a bare acknowledgement when CRIU ends its repair mode (`tcp_send_window_probe`). Some thousands of them that wait and leave at once would be more than
//! the kernel takes in at the other end of a veth (`net.core.netdev_max_backlog`, 1000 frames), and what the pod says next would be lost with them, for a second.
//!
//! Message formats: linux/if_link.h (`IFLA_MACVLAN_*`), neighbour.h (`struct ndtmsg`).

use std::net::IpAddr;
use std::path::Path;

use crate::gate::{self, FAMILIES, L4PROTO, PRIORITY, STRANGERS, TCP, renew};
use crate::netlink::{self, ACK, APPEND, CREATE, EXCL, Message, Socket};
use crate::nft::{Batch, Chain, Family, NEWRULE, beyond, compare, drop_it, meta, payload};
use crate::{Error, addresses, links, mirror, neighbours};

const PREFIX: &str = "segment-";
/// Keys of `meta` (linux/netfilter/nf_tables.h).
const LENGTH: u32 = 0;
const OIF: u32 = 5;
/// The flags of a TCP segment that only acknowledges.
const ACKNOWLEDGES: u8 = 0x10;
/// Lengths of such segments without data: IPv4 or IPv6, without and with time stamps.
const BARE: [u32; 4] = [40, 52, 60, 72];
/// So many of each of these lengths may wait. Among them may be one that opens a window, without which a peer asks again only after its own time.
const WAIT: u32 = 400;
const NEWLINK: u16 = 16;
const SETLINK: u16 = 19;
const SETNEIGHTBL: u16 = 67;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const MACVLAN_MODE: u16 = 1;
const MODE_PRIVATE: u32 = 1;
const NDTA_NAME: u16 = 1;
const NDTA_PARMS: u16 = 6;
const NDTPA_IFINDEX: u16 = 1;
const NDTPA_RETRANS_TIME: u16 = 5;
const NDTPA_MCAST_PROBES: u16 = 11;
const NDTPA_QUEUE_LENBYTES: u16 = 16;
const ENODEV: i32 = 19;

/// How a hardware address is asked for.
struct Patience {
    /// Milliseconds between two questions.
    pause: u64,
    /// How many questions.
    tries: u32,
    /// Bytes that wait for the answer.
    queue: u32,
}

/// For longer than a pod may stand still; the kernel asks no sooner than every 10 ms.
const LONG: Patience = Patience { pause: 10, tries: 30_000, queue: 8 << 20 };
/// The kernel's own (arp(7)).
const USUAL: Patience = Patience { pause: 1000, tries: 3, queue: 212_992 };

/// The interface of a pod by which it is on its network: the first one with an IPv4 address that is no mirror's. With its largest packet in bytes.
///
/// # Errors
/// The namespace cannot be entered, or there is none.
pub fn own_device(netns: &Path) -> Result<links::Link, Error> {
    let is_own = |(name, ip): &(String, IpAddr)| matches!(ip, IpAddr::V4(ip) if !ip.is_loopback()) && name != "lo" && !name.starts_with(mirror::PREFIX);
    let name = addresses::list(netns)?.into_iter().find(is_own).map(|(name, _)| name);
    let absent = || Error::Refused { what: "find the pod's own interface".to_owned(), source: std::io::Error::from_raw_os_error(ENODEV) };
    links::list(netns)?.into_iter().find(|link| Some(&link.name) == name.as_ref()).ok_or_else(absent)
}

/// Makes the interface on top of another one of the same namespace, shut, without an address, and up: under a hardware address for the time being it can be tried
/// ([`crate::announce::who_has`]). Nothing of it is heard on the segment.
///
/// # Errors
/// The kernel refused (it has no macvlan, say).
pub fn make(netns: &Path, name: &str, lower: &str, mac: [u8; 6]) -> Result<(), Error> {
    let lower = links::index_of(netns, lower)?;
    let message = Message::new(NEWLINK, CREATE | EXCL | ACK, &links::header(0, 0))
        .text(IFLA_IFNAME, name)
        .attribute(IFLA_ADDRESS, &mac)
        .attribute(IFLA_LINK, &lower.to_ne_bytes())
        .nested(IFLA_LINKINFO, |m| m.text(INFO_KIND, "macvlan").nested(INFO_DATA, |m| m.attribute(MACVLAN_MODE, &MODE_PRIVATE.to_ne_bytes())));
    Socket::inside(netns, netlink::ROUTE)?.transact(&format!("make the interface {name} on the pod's own (macvlan)"), vec![message], 0)?;
    shut(netns, name)?;
    patient(netns, name, &LONG)?;
    links::up_quietly(netns, name)
}

/// Gives an interface another hardware address. That of an old pod, which is sealed, is given away so: whatever leaves it, the segment does not look for the old address here any more.
/// Whom the interface knew it knows no longer ([`crate::neighbours`]).
///
/// # Errors
/// The kernel refused.
pub fn set_mac(netns: &Path, name: &str, mac: [u8; 6]) -> Result<(), Error> {
    let message = Message::new(SETLINK, ACK, &links::header(0, 0)).text(IFLA_IFNAME, name).attribute(IFLA_ADDRESS, &mac);
    Socket::inside(netns, netlink::ROUTE)?.transact(&format!("change the hardware address of {name}"), vec![message], 0)
}

/// Shuts it, whatever it was before.
///
/// # Errors
/// The kernel refused; then nothing was changed.
fn shut(netns: &Path, name: &str) -> Result<(), Error> {
    // A kernel without nft_limit: all of them wait.
    shut_but(netns, name, &BARE).or_else(|_| shut_but(netns, name, &[]))
}

/// The same; of TCP segments of these lengths that only acknowledge, only the first [`WAIT`] may wait.
fn shut_but(netns: &Path, name: &str, bare: &[u32]) -> Result<(), Error> {
    let (table, index) = (table(name), links::index_of(netns, name)?.to_ne_bytes());
    let mut batch = Batch::new();
    renew(&mut batch, &table, &FAMILIES);
    batch.chain(&table, "in", Chain { family: Family::Netdev, hook: 0, device: Some(name), priority: PRIORITY, kind: "filter", drops: true });
    batch.chain(&table, "out", Chain { family: Family::Inet, hook: 3, device: None, priority: PRIORITY, kind: "filter", drops: false });
    batch.push(NEWRULE, CREATE | APPEND, Family::Inet, |m| {
        m.text(1, &table).text(2, "out").nested(4, |m| drop_it(compare(meta(compare(meta(m, OIF), 0, &index), L4PROTO), 1, &[TCP])))
    });
    for length in bare {
        batch.push(NEWRULE, CREATE | APPEND, Family::Inet, |m| {
            m.text(1, &table).text(2, "out").nested(4, |m| {
                let m = compare(meta(m, OIF), 0, &index);
                let m = compare(payload(m, 2, 13, 1), 0, &[ACKNOWLEDGES]);
                drop_it(beyond(compare(meta(m, LENGTH), 0, &length.to_ne_bytes()), WAIT))
            })
        });
    }
    batch.chain(&table, "out", Chain { family: Family::Arp, hook: 1, device: None, priority: PRIORITY, kind: "filter", drops: false });
    batch.push(NEWRULE, CREATE | APPEND, Family::Arp, |m| m.text(1, &table).text(2, "out").nested(4, |m| drop_it(compare(meta(m, OIF), 0, &index))));
    batch.commit(&Socket::inside(netns, netlink::NETFILTER)?, &format!("shut {name}"))
}

/// Opens it, but for TCP connections that begin at one of `strangers`. Open already: nothing changes.
///
/// # Errors
/// The kernel refused; then nothing was changed.
pub fn open(netns: &Path, name: &str, strangers: &[IpAddr]) -> Result<(), Error> {
    let table = table(name);
    let mut batch = Batch::new();
    renew(&mut batch, &table, &[Family::Netdev]);
    batch.chain(&table, "in", Chain { family: Family::Netdev, hook: 0, device: Some(name), priority: PRIORITY, kind: "filter", drops: false });
    for ip in strangers.iter().take(STRANGERS) {
        batch.push(NEWRULE, CREATE | APPEND, Family::Netdev, |m| gate::drop_new_connections(m.text(1, &table).text(2, "in"), *ip));
    }
    let socket = Socket::inside(netns, netlink::NETFILTER)?;
    let opened = batch.commit(&socket, &format!("open {name}"));
    crate::close::elsewhere(socket);
    opened
}

/// It is in use: hardware addresses are asked for as usual again.
///
/// # Errors
/// The kernel refused.
pub fn as_usual(netns: &Path, name: &str) -> Result<(), Error> {
    patient(netns, name, &USUAL)
}

/// Takes away what is left when the interface is gone. Nothing there, or the namespace gone: nothing to do.
///
/// # Errors
/// The kernel refused.
pub fn forget(netns: &Path, name: &str) -> Result<(), Error> {
    let socket = match Socket::inside(netns, netlink::NETFILTER) {
        Ok(socket) => socket,
        Err(Error::Namespace { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut batch = Batch::new();
    renew(&mut batch, &table(name), &[]);
    batch.commit(&socket, &format!("forget the rules of {name}"))
}

fn table(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn patient(netns: &Path, name: &str, patience: &Patience) -> Result<(), Error> {
    let index = links::index_of(netns, name)?;
    let socket = Socket::inside(netns, netlink::ROUTE)?;
    for (family, table) in neighbours::tables() {
        // `struct ndtmsg {family, pad1, pad2}`.
        let message = Message::new(SETNEIGHTBL, ACK, &[family, 0, 0, 0]).text(NDTA_NAME, table).nested(NDTA_PARMS, |m| {
            m.attribute(NDTPA_IFINDEX, &index.to_ne_bytes())
                .attribute(NDTPA_RETRANS_TIME, &patience.pause.to_ne_bytes())
                .attribute(NDTPA_MCAST_PROBES, &patience.tries.to_ne_bytes())
                .attribute(NDTPA_QUEUE_LENBYTES, &patience.queue.to_ne_bytes())
        });
        socket.transact(&format!("say how {name} asks for hardware addresses"), vec![message], 0)?;
    }
    Ok(())
}
