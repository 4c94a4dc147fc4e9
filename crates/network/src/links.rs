//! The interfaces of the anchor: a VXLAN tunnel between two nodes, inside WireGuard where both have it ([`wireguard`]), or a veth pair on one node, with their ends inside pods' network namespaces.
//!
//! ```text
//!   node A                                              node B
//!   old pod's netns                                     new pod's netns
//!     anc0 ── VXLAN, UDP port 4790 of the nodes ──────── old0      tunnel: the underlay stays in the nodes' own namespaces
//!     anc0 ────────────── veth ───────────────────────── old0      patch: both pods on one node
//! ```
//!
//! A VXLAN device keeps the namespace in which it was made as its underlay, wherever it is put: made by a socket of the node's namespace with
//! `IFLA_NET_NS_FD`, it appears in the pod at once and never in the node. On one node a VNI can be used once ([`Error::is_taken`]).
//!
//! Message formats: linux/if_link.h, rtnetlink.h, veth.h; per-device settings: `IPV4_DEVCONF_*` in linux/ip.h.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::netlink::{self, ACK, CREATE, DUMP, EXCL, Message, Socket, attributes, u32_at};
use crate::{Error, addresses, netns, wireguard};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const VXLAN_ID: u16 = 1;
const VXLAN_GROUP: u16 = 2;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PORT: u16 = 15;
const VXLAN_GROUP6: u16 = 16;
const VXLAN_LOCAL6: u16 = 17;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const INET_CONF: u16 = 1;
const INET6_ADDR_GEN_MODE: u16 = 8;
const GEN_MODE_NONE: u8 = 1;
const RP_FILTER: u16 = 8;
const ARP_ANNOUNCE: u16 = 18;
const ARP_IGNORE: u16 = 19;
const UP: u32 = 1;
const NOARP: u32 = 0x80;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_CACHEINFO: u16 = 6;
const NODAD: u32 = 0x02;
const NOPREFIXROUTE: u32 = 0x200;
/// `struct ifa_cacheinfo {preferred, valid, …}`: not preferred, valid for ever. No connection that begins here takes such an address for its own.
const DEPRECATED: [u32; 4] = [0, u32::MAX, 0, 0];
/// What IPv6 does by itself on an interface of an old address: nothing. Its routers are the old network's, and the address was checked there.
const QUIET_SIX: [(&str, &str); 4] = [("disable_ipv6", "0"), ("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0")];
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;

/// UDP port of the tunnels that are not encrypted.
pub const PORT: u16 = 4790;
/// Bytes that VXLAN adds to a packet, over IPv4; over IPv6 it is 20 more.
const OVERHEAD: u32 = 50;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Largest packet in bytes.
    pub mtu: u32,
}

/// Where a tunnel goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// This node's address.
    pub local: IpAddr,
    /// The other node's address, of the same family.
    pub remote: IpAddr,
    /// UDP port at both nodes.
    pub port: u16,
}

impl Tunnel {
    /// One that is not encrypted.
    #[must_use]
    pub fn plain(vni: u32, local: IpAddr, remote: IpAddr) -> Self {
        Self { vni, local, remote, port: PORT }
    }

    /// One between the nodes that have these keys, inside WireGuard, which lets the other one in already ([`wireguard::admit`]).
    #[must_use]
    pub fn encrypted(vni: u32, own: &wireguard::Key, other: &wireguard::Key) -> Self {
        Self { vni, local: wireguard::address(own), remote: wireguard::address(other), port: wireguard::INNER }
    }

    /// What must be allowed for it to carry anything.
    #[must_use]
    pub fn needs(&self) -> String {
        match self.port {
            wireguard::INNER => {
                format!(
                    "UDP port {} between the nodes (WireGuard), and UDP port {} by their interfaces {}",
                    wireguard::PORT,
                    wireguard::INNER,
                    wireguard::DEVICE
                )
            }
            port => format!("UDP port {port} between the nodes"),
        }
    }

    /// Whether it goes through WireGuard.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.port == wireguard::INNER
    }

    /// Bytes that it adds to a packet at most.
    #[must_use]
    pub fn overhead(&self) -> u32 {
        if self.is_encrypted() { wireguard::OVERHEAD } else { OVERHEAD }
    }
}

/// The interfaces of a network namespace.
///
/// # Errors
/// The namespace cannot be entered or the kernel cannot be asked.
pub fn list(netns: &Path) -> Result<Vec<Link>, Error> {
    let socket = Socket::inside(netns, netlink::ROUTE)?;
    let answers = socket.dump("list interfaces", Message::new(GETLINK, DUMP, &[0; 16]), NEWLINK)?;
    Ok(answers.iter().filter_map(|payload| parse(payload)).collect())
}

/// Largest packet, in bytes, that leaves this namespace whole by the interface with this address; 1500 if there is none.
#[must_use]
pub fn mtu_of(ip: IpAddr) -> u32 {
    let device = addresses::list(netns::here()).unwrap_or_default().into_iter().find(|(_, found)| *found == ip).map(|(device, _)| device);
    let links = list(netns::here()).unwrap_or_default();
    links.into_iter().find(|link| Some(&link.name) == device.as_ref()).map_or(1500, |link| link.mtu)
}

fn parse(payload: &[u8]) -> Option<Link> {
    let attributes = attributes(payload.get(16..)?);
    let value = |wanted| attributes.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
    Some(Link {
        index: u32_at(payload, 4)?,
        name: String::from_utf8_lossy(value(IFLA_IFNAME)?).trim_end_matches('\0').to_owned(),
        mac: value(IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok()),
        mtu: value(IFLA_MTU).and_then(|bytes| u32_at(bytes, 0)).unwrap_or(0),
    })
}

/// The first of `PREFIX0`, `PREFIX1`, … that no interface of the namespace has.
///
/// # Errors
/// As [`list`].
pub fn free_name(netns: &Path, prefix: &str) -> Result<String, Error> {
    let taken = list(netns)?;
    let mut number = 0_u32;
    loop {
        let name = format!("{prefix}{number}");
        if taken.iter().all(|link| link.name != name) {
            return Ok(name);
        }
        number += 1;
    }
}

/// Makes the end of a tunnel inside `netns`, down. With `mac` it gets that hardware address.
///
/// # Errors
/// The kernel refused; [`Error::is_taken`] when the VNI is used on this node already, or the name in the namespace.
pub fn make_tunnel(netns: &Path, name: &str, tunnel: Tunnel, mac: Option<[u8; 6]>) -> Result<(), Error> {
    let namespace = open(netns)?;
    let message = with_mac(named(Message::new(NEWLINK, CREATE | EXCL | ACK, &header(0, 0)), name), mac)
        .attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())
        .nested(IFLA_LINKINFO, |m| {
            m.text(INFO_KIND, "vxlan").nested(INFO_DATA, |m| {
                let m = m.attribute(VXLAN_ID, &tunnel.vni.to_ne_bytes()).attribute(VXLAN_LEARNING, &[0]).attribute(VXLAN_PORT, &tunnel.port.to_be_bytes());
                address(address(m, tunnel.local, VXLAN_LOCAL, VXLAN_LOCAL6), tunnel.remote, VXLAN_GROUP, VXLAN_GROUP6)
            })
        });
    // From the node's own namespace, so that this is where the tunnel's packets go.
    Socket::here(netlink::ROUTE)?.transact(&format!("make the tunnel {name} (VNI {})", tunnel.vni), vec![message], 0)
}

/// Makes a veth pair, down: `name` in `netns` with the hardware address `mac`, and `peer` in `peer_netns`.
///
/// # Errors
/// The kernel refused.
pub fn make_patch(netns: &Path, name: &str, mac: [u8; 6], peer_netns: &Path, peer: &str) -> Result<(), Error> {
    let (namespace, peer_namespace) = (open(netns)?, open(peer_netns)?);
    let message = with_mac(named(Message::new(NEWLINK, CREATE | EXCL | ACK, &header(0, 0)), name), Some(mac))
        .attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())
        .nested(IFLA_LINKINFO, |m| {
            m.text(INFO_KIND, "veth").nested(INFO_DATA, |m| {
                m.nested(VETH_PEER, |m| named(m.raw(&header(0, 0)), peer).attribute(IFLA_NET_NS_FD, &peer_namespace.as_raw_fd().to_ne_bytes()))
            })
        });
    Socket::here(netlink::ROUTE)?.transact(&format!("make the pair {name}, {peer}"), vec![message], 0)
}

/// Brings an end up on which the namespace itself has no address: frames only pass. `mtu` in bytes.
///
/// # Errors
/// The kernel refused.
pub fn up_as_pipe(netns: &Path, name: &str, mtu: u32) -> Result<(), Error> {
    let quiet = silent(set(name), &[]);
    let up = Message::new(SETLINK, ACK, &header(UP | NOARP, UP | NOARP)).text(IFLA_IFNAME, name).attribute(IFLA_MTU, &mtu.to_ne_bytes());
    each(netns, &format!("bring {name} up"), vec![quiet, up])
}

/// Brings an interface up that says nothing by itself.
///
/// # Errors
/// The kernel refused.
pub fn up_quietly(netns: &Path, name: &str) -> Result<(), Error> {
    quiet_six(netns, name)?;
    let quiet = silent(set(name), &[(ARP_IGNORE, 1), (ARP_ANNOUNCE, 2), (RP_FILTER, 0)]);
    let up = Message::new(SETLINK, ACK, &header(UP, UP)).text(IFLA_IFNAME, name);
    each(netns, &format!("bring {name} up"), vec![quiet, up])
}

/// Brings an end up that has addresses of the pod, each as a single host's, without a route.
///
/// # Errors
/// The kernel refused.
pub fn up_as_interface(netns: &Path, name: &str, mtu: u32, ips: &[IpAddr]) -> Result<(), Error> {
    quiet_six(netns, name)?;
    let quiet = silent(set(name), &[(ARP_IGNORE, 1), (ARP_ANNOUNCE, 2), (RP_FILTER, 0)]);
    let mtu = set(name).attribute(IFLA_MTU, &mtu.to_ne_bytes());
    let mut messages = vec![quiet, mtu];
    let index = index_of(netns, name)?;
    for ip in ips {
        let (mut body, bytes) = (if ip.is_ipv4() { vec![2, 32, 0, 0] } else { vec![10, 128, 0, 0] }, addresses::octets(*ip));
        body.extend_from_slice(&index.to_ne_bytes());
        let message = Message::new(NEWADDR, CREATE | ACK, &body).attribute(IFA_LOCAL, &bytes).attribute(IFA_ADDRESS, &bytes);
        messages.push(if ip.is_ipv4() {
            message.attribute(IFA_FLAGS, &NOPREFIXROUTE.to_ne_bytes())
        } else {
            message.attribute(IFA_FLAGS, &(NOPREFIXROUTE | NODAD).to_ne_bytes()).attribute(IFA_CACHEINFO, &DEPRECATED.map(u32::to_ne_bytes).concat())
        });
    }
    messages.push(Message::new(SETLINK, ACK, &header(UP, UP)).text(IFLA_IFNAME, name));
    each(netns, &format!("bring {name} up"), messages)
}

/// Whether the kernel has IPv6.
#[must_use]
pub fn has_six() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// An interface that listens to no router. What cannot be set is as it is: without IPv6 nothing depends on it.
fn quiet_six(netns: &Path, name: &str) -> Result<(), Error> {
    netns::inside(netns, || {
        for (setting, value) in QUIET_SIX.iter().filter(|_| has_six()) {
            let file = Path::new("/proc/sys/net/ipv6/conf").join(name).join(setting);
            if std::fs::read_to_string(&file).is_ok_and(|found| found.trim() != *value)
                && let Err(error) = std::fs::write(&file, value)
            {
                tracing::warn!(device = name, setting, %error, "a setting of IPv6 stays as it is");
            }
        }
        Ok(())
    })
}

/// Makes an interface answer ARP only for its own addresses, and ask with them only: another interface of the namespace has some, too.
///
/// # Errors
/// The kernel refused.
pub fn strict_arp(netns: &Path, name: &str) -> Result<(), Error> {
    let message = conf(set(name), &[(ARP_IGNORE, 1), (ARP_ANNOUNCE, 2)]);
    each(netns, &format!("set the ARP rules of {name}"), vec![message])
}

/// Removes an interface, and the other end of a pair with it. Absent already, or the namespace gone: nothing to do.
///
/// # Errors
/// The kernel refused.
pub fn remove(netns: &Path, name: &str) -> Result<(), Error> {
    let socket = match Socket::inside(netns, netlink::ROUTE) {
        Ok(socket) => socket,
        Err(Error::Namespace { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    match socket.transact(&format!("remove {name}"), vec![Message::new(DELLINK, ACK, &header(0, 0)).text(IFLA_IFNAME, name)], 0) {
        Err(error) if error.errno() == Some(ENODEV) => Ok(()),
        other => other,
    }
}

/// The index of an interface.
///
/// # Errors
/// As [`list`], or there is none of that name.
pub fn index_of(netns: &Path, name: &str) -> Result<u32, Error> {
    let absent = || Error::Refused { what: format!("find the interface {name}"), source: std::io::Error::from_raw_os_error(ENODEV) };
    list(netns)?.into_iter().find(|link| link.name == name).map(|link| link.index).ok_or_else(absent)
}

impl Error {
    /// The kernel refused because the name or the VNI is used already.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.errno() == Some(EEXIST)
    }
}

fn open(netns: &Path) -> Result<File, Error> {
    File::open(netns).map_err(|source| Error::Namespace { path: netns.to_owned(), source })
}

/// Sends requests one after the other, each acknowledged.
fn each(netns: &Path, what: &str, messages: Vec<Message>) -> Result<(), Error> {
    let socket = Socket::inside(netns, netlink::ROUTE)?;
    for message in messages {
        match socket.transact(what, vec![message], 0) {
            Err(error) if error.is_taken() => {} // an address that is there already
            other => other?,
        }
    }
    Ok(())
}

/// `struct ifinfomsg`.
pub(crate) fn header(flags: u32, change: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&change.to_ne_bytes());
    body
}

fn set(name: &str) -> Message {
    Message::new(SETLINK, ACK, &header(0, 0)).text(IFLA_IFNAME, name)
}

fn named(message: Message, name: &str) -> Message {
    message.text(IFLA_IFNAME, name)
}

fn with_mac(message: Message, mac: Option<[u8; 6]>) -> Message {
    match mac {
        Some(mac) => message.attribute(IFLA_ADDRESS, &mac),
        None => message,
    }
}

fn address(message: Message, ip: IpAddr, four: u16, six: u16) -> Message {
    match ip {
        IpAddr::V4(ip) => message.attribute(four, &ip.octets()),
        IpAddr::V6(ip) => message.attribute(six, &ip.octets()),
    }
}

/// No IPv6 address of its own, so it says nothing by itself; and these IPv4 settings.
fn silent(message: Message, settings: &[(u16, u32)]) -> Message {
    message.nested(IFLA_AF_SPEC, |m| {
        let m = m.nested(AF_INET, |m| m.nested(INET_CONF, |m| settings.iter().fold(m, |m, (kind, value)| m.attribute(*kind, &value.to_ne_bytes()))));
        // A kernel without IPv6 refuses the family.
        if has_six() { m.nested(AF_INET6, |m| m.attribute(INET6_ADDR_GEN_MODE, &[GEN_MODE_NONE])) } else { m }
    })
}

fn conf(message: Message, settings: &[(u16, u32)]) -> Message {
    message.nested(IFLA_AF_SPEC, |m| {
        m.nested(AF_INET, |m| m.nested(INET_CONF, |m| settings.iter().fold(m, |m, (kind, value)| m.attribute(*kind, &value.to_ne_bytes()))))
    })
}

/// Whether a namespace can still be entered.
#[must_use]
pub fn lives(netns: &Path) -> bool {
    netns::inside(netns, || Ok(())).is_ok()
}
