//! Hardware addresses that a pod has learnt of its neighbours.
//!
//! A pod that is sealed can ask nobody any more: what it knows fails one by one, when the kernel wants it confirmed, and all at once with a new hardware address of its own. What is to
//! leave such a pod at last, the reset of a connection, needs what was known before.
//!
//! Message formats: linux/neighbour.h (`struct ndmsg`).

use std::path::Path;

use crate::netlink::{self, ACK, CREATE, DUMP, Message, Socket, attributes, u16_at};
use crate::{Error, links};

const NEWNEIGH: u16 = 28;
const GETNEIGH: u16 = 30;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const REPLACE: u16 = 0x100;
/// States (`NUD_*`).
const REACHABLE: u16 = 0x02;
const FAILED: u16 = 0x20;
/// Nobody is asked: multicast, say.
const NOARP: u16 = 0x40;
/// Where `struct ndmsg {family, pad1, pad2, ifindex, state, flags, type}` has the state, and its length.
const STATE: usize = 8;
const HEADER: usize = 12;

/// The kernel's tables of neighbours: a family and its name (`NDTA_NAME`), of those families that the kernel has.
pub(crate) fn tables() -> impl Iterator<Item = (u8, &'static str)> {
    [(2, "arp_cache")].into_iter().chain(links::has_six().then_some((10, "ndisc_cache")))
}

/// One neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    family: u8,
    /// Its address, 4 or 16 bytes.
    ip: Vec<u8>,
    /// Its hardware address.
    mac: Vec<u8>,
}

impl Neighbour {
    fn parse(payload: &[u8]) -> Option<Self> {
        if u16_at(payload, STATE)? & (FAILED | NOARP) != 0 {
            return None;
        }
        let attributes = attributes(payload.get(HEADER..)?);
        let value = |wanted| attributes.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| value.to_vec());
        Some(Self { family: *payload.first()?, ip: value(NDA_DST)?, mac: value(NDA_LLADDR)? })
    }
}

/// `struct ndmsg`.
fn header(family: u8, index: u32, state: u16) -> Vec<u8> {
    [&[family, 0, 0, 0], index.to_ne_bytes().as_slice(), &state.to_ne_bytes(), &[0, 0]].concat()
}

/// Whom an interface of a namespace knows.
///
/// # Errors
/// The namespace cannot be entered, or there is no such interface.
pub fn known(netns: &Path, device: &str) -> Result<Vec<Neighbour>, Error> {
    let index = links::index_of(netns, device)?;
    let socket = Socket::inside(netns, netlink::ROUTE)?;
    let mut known = Vec::new();
    for (family, _) in tables() {
        let all = socket.dump("list hardware addresses", Message::new(GETNEIGH, DUMP, &header(family, 0, 0)), NEWNEIGH)?;
        known.extend(all.iter().filter(|payload| payload.get(4..8) == Some(&index.to_ne_bytes())).filter_map(|payload| Neighbour::parse(payload)));
    }
    Ok(known)
}

/// Tells an interface whom it knew: for a while nobody needs to be asked. Of two with one address the last one counts.
///
/// # Errors
/// As [`known`], or the kernel refused.
pub fn remember(netns: &Path, device: &str, neighbours: &[Neighbour]) -> Result<(), Error> {
    let index = links::index_of(netns, device)?;
    let socket = Socket::inside(netns, netlink::ROUTE)?;
    neighbours.iter().try_for_each(|Neighbour { family, ip, mac }| {
        let message = Message::new(NEWNEIGH, CREATE | REPLACE | ACK, &header(*family, index, REACHABLE)).attribute(NDA_DST, ip).attribute(NDA_LLADDR, mac);
        socket.transact("remember a hardware address", vec![message], 0)
    })
}
