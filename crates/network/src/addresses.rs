//! Addresses of a pod's network namespace: reading them, and giving a target the source's address for the moment of the restore.
//!
//! CRIU binds restored sockets to the addresses that they had. In the target's namespace the old pod IP does not exist, so it stands on `lo` from before the
//! restore until the connections of that address have been ended, which their peers hear:
//!
//! ```text
//!   add_temporary(old IP) ▶ restore, held ▶ commit ▶ sockets::destroy(old IP) ▶ remove(old IP) ▶ sockets::destroy(old IP) ▶ run
//! ```
//!
//! Linux answers ARP for addresses of `lo` on every interface, and the source still lives by that address: the interfaces are told to answer for their own
//! addresses only. `IFA_F_NOPREFIXROUTE` keeps it out of the routing table but for the kernel's own `local` entry, which goes with the address; nothing is routed
//! differently afterwards.
//!
//! Message formats: linux/rtnetlink.h, if_addr.h, if_link.h.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::netlink::{self, ACK, CREATE, DUMP, EXCL, Message, Socket, attributes, u32_at};
use crate::{Error, links};

const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFLA_IFNAME: u16 = 3;
const NODAD: u32 = 0x02;
const NOPREFIXROUTE: u32 = 0x200;
const SCOPE_HOST: u8 = 254;
const LOOPBACK: u32 = 1;

const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EADDRNOTAVAIL: i32 = 99;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index in its namespace; `lo` is 1.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// The interfaces of a network namespace.
///
/// # Errors
/// The namespace cannot be entered or the kernel cannot be asked.
pub fn devices(netns: &Path) -> Result<Vec<Device>, Error> {
    devices_by(&Socket::inside(netns, netlink::ROUTE)?)
}

fn devices_by(socket: &Socket) -> Result<Vec<Device>, Error> {
    let answers = socket.dump("list interfaces", Message::new(GETLINK, DUMP, &[0; 16]), NEWLINK)?;
    Ok(answers
        .iter()
        .filter_map(|payload| {
            let index = u32_at(payload, 4)?;
            let (_, name) = attributes(payload.get(16..)?).into_iter().find(|(kind, _)| *kind == IFLA_IFNAME)?;
            Some(Device { index, name: String::from_utf8_lossy(name).trim_end_matches('\0').to_owned() })
        })
        .collect())
}

/// The addresses of a network namespace, each with the name of its interface.
///
/// # Errors
/// The namespace cannot be entered or the kernel cannot be asked.
pub fn list(netns: &Path) -> Result<Vec<(String, IpAddr)>, Error> {
    let socket = Socket::inside(netns, netlink::ROUTE)?;
    let devices = devices_by(&socket)?;
    let answers = socket.dump("list addresses", Message::new(GETADDR, DUMP, &[0; 8]), NEWADDR)?;
    Ok(answers
        .iter()
        .filter_map(|payload| {
            let index = u32_at(payload, 4)?;
            let attributes = attributes(payload.get(8..)?);
            let value = |wanted| attributes.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
            // On a point-to-point interface IFA_ADDRESS is the peer's; IFA_LOCAL is always ours.
            let ip = parse(value(IFA_LOCAL).or_else(|| value(IFA_ADDRESS))?)?;
            let name = devices.iter().find(|device| device.index == index)?.name.clone();
            Some((name, ip))
        })
        .collect())
}

/// Puts `ip` on `lo` as a single host's address, without a prefix route and without duplicate address detection. There already: nothing changes.
///
/// # Errors
/// The namespace cannot be entered or the kernel refused (IPv6 is switched off in the namespace, say).
pub fn add_temporary(netns: &Path, ip: IpAddr) -> Result<(), Error> {
    for device in devices(netns)?.iter().filter(|device| device.index != LOOPBACK) {
        links::strict_arp(netns, &device.name)?;
    }
    match change(netns, ip, NEWADDR, CREATE | EXCL, &format!("add {ip} to lo")) {
        Err(error) if error.errno() == Some(EEXIST) => Ok(()),
        other => other,
    }
}

/// Takes `ip` off `lo`. Absent already: nothing changes.
///
/// # Errors
/// The namespace cannot be entered or the kernel refused.
pub fn remove(netns: &Path, ip: IpAddr) -> Result<(), Error> {
    match change(netns, ip, DELADDR, 0, &format!("remove {ip} from lo")) {
        Err(error) if matches!(error.errno(), Some(EADDRNOTAVAIL | ENODEV)) => Ok(()),
        other => other,
    }
}

fn change(netns: &Path, ip: IpAddr, kind: u16, flags: u16, what: &str) -> Result<(), Error> {
    let (family, prefix) = if ip.is_ipv4() { (2, 32) } else { (10, 128) };
    let bytes = octets(ip);
    let mut body = vec![family, prefix, 0, SCOPE_HOST];
    body.extend_from_slice(&LOOPBACK.to_ne_bytes());
    let message = Message::new(kind, flags | ACK, &body)
        .attribute(IFA_LOCAL, &bytes)
        .attribute(IFA_ADDRESS, &bytes)
        .attribute(IFA_FLAGS, &(NODAD | NOPREFIXROUTE).to_ne_bytes());
    Socket::inside(netns, netlink::ROUTE)?.transact(what, vec![message], 0)
}

/// An address as the kernel writes it.
pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The reverse of [`octets`].
pub(crate) fn parse(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}
