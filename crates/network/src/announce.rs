//! ARP by hand (RFC 826, RFC 5227): who is on a segment is asked before anything depends on it, and an address that has moved is announced.
//!
//! ```text
//!   planning     old pod: shout ── who has OLD? from nobody (0.0.0.0), a hardware address of our own ──▶ segment ──▶ Ears of the node of the new pod
//!   before the freeze   old0: who_has ── the same, from a hardware address that the segment has not seen there ──▶ old pod's kernel ── I ──▶ old0
//!   afterwards   old0: announce ── OLD is at the old hardware address ──▶ every switch of the segment: behind this port
//! ```
//!
//! IPv6 needs no questions of its own: a pod's address moves with its hardware address, and where that is, ARP finds out for both families; its peers' tables of neighbours stay true.
//! A question from nobody changes no ARP table. The hardware addresses that it comes from are locally administered ones, made for it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::packet::{PacketSocket, VNET_HEADER};
use crate::{Error, links, netns};

const BROADCAST: [u8; 6] = [0xff; 6];
const NOBODY: [u8; 6] = [0; 6];
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const PAUSE: Duration = Duration::from_millis(5);
/// Questions and answers are few, but a busy segment is full of others'.
const ROOM: i32 = 1 << 20;
/// A question is asked again after so long.
const AGAIN: Duration = Duration::from_millis(40);
/// For so long after the first answer a second one, by another machine, may come.
const SECOND: Duration = Duration::from_millis(100);

/// An ARP message in an Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arp {
    pub op: u8,
    pub from: ([u8; 6], Ipv4Addr),
    pub to: ([u8; 6], Ipv4Addr),
}

impl Arp {
    /// What a frame with the header of virtio_net holds, if it is IPv4's ARP on Ethernet.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let frame = frame.get(VNET_HEADER..)?;
        if frame.get(12..20)? != [8, 6, 0, 1, 8, 0, 6, 4] {
            return None;
        }
        let mac = |at: usize| frame.get(at..at + 6).and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        let ip = |at: usize| frame.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(Ipv4Addr::from);
        Some(Self { op: *frame.get(21)?, from: (mac(22)?, ip(28)?), to: (mac(32)?, ip(38)?) })
    }

    fn frame(self) -> Vec<u8> {
        let mut frame = vec![0; VNET_HEADER];
        frame.extend_from_slice(&BROADCAST);
        frame.extend_from_slice(&self.from.0);
        frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, self.op]);
        for (mac, ip) in [self.from, self.to] {
            frame.extend_from_slice(&mac);
            frame.extend_from_slice(&ip.octets());
        }
        frame.resize(VNET_HEADER + 60, 0);
        frame
    }

    /// Who has an address? From nobody, at `mac`.
    fn question(mac: [u8; 6], ip: Ipv4Addr) -> Self {
        Self { op: REQUEST, from: (mac, Ipv4Addr::UNSPECIFIED), to: (NOBODY, ip) }
    }
}

/// Says that the addresses of IPv4 among these are at a hardware address, by an interface; switches learn by it where all are. What cannot be sent is lost, as frames may be: it is
/// to be said more than once.
///
/// # Errors
/// The namespace cannot be entered, or the interface is missing.
pub fn announce(netns: &Path, device: &str, mac: [u8; 6], ips: &[IpAddr]) -> Result<(), Error> {
    let mouth = mouth(netns, device)?;
    for ip in ips {
        if let IpAddr::V4(ip) = ip {
            let _ = mouth.write(&Arp { op: REQUEST, from: (mac, *ip), to: (NOBODY, *ip) }.frame());
        }
    }
    crate::close::elsewhere(mouth);
    Ok(())
}

/// Asks by an interface, for so long, who has an address, from the hardware address `from`. Returns the hardware addresses of all that say they have it, as soon as one has
/// and another would have.
///
/// # Errors
/// The namespace cannot be entered, or the interface is missing.
pub fn who_has(netns: &Path, device: &str, from: [u8; 6], ip: Ipv4Addr, time: Duration) -> Result<Vec<[u8; 6]>, Error> {
    let (ears, mouth) = (ears(netns, device)?, mouth(netns, device)?);
    let (mut found, mut end, mut next) = (Vec::new(), Instant::now() + time, Instant::now());
    while Instant::now() < end {
        if Instant::now() >= next {
            let _ = mouth.write(&Arp::question(from, ip).frame());
            next = Instant::now() + AGAIN;
        }
        sleep(PAUSE);
        while let Some(heard) = hear(&ears) {
            if heard.op == REPLY && heard.from.1 == ip && heard.to.0 == from && !found.contains(&heard.from.0) {
                if found.is_empty() {
                    end = end.min(Instant::now() + SECOND);
                }
                found.push(heard.from.0);
            }
        }
    }
    Ok(found)
}

/// Asks `times` times by the old pod's own interface who has its address, so that it can be heard, from the hardware address `from`. Returns the hardware addresses of all that
/// say they have it: the pod itself is among them where a switch sends a frame back to the port by which it came (a bridge in hairpin mode).
///
/// # Errors
/// As [`who_has`].
pub fn shout(netns: &Path, device: &str, from: [u8; 6], ip: Ipv4Addr, times: u32) -> Result<Vec<[u8; 6]>, Error> {
    who_has(netns, device, from, ip, AGAIN * times)
}

/// Hears ARP on all interfaces of a namespace.
#[derive(Debug)]
pub struct Ears(PacketSocket);

impl Ears {
    /// From now on.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn open(netns: &Path) -> Result<Self, Error> {
        listen(netns, 0).map(Self)
    }

    /// Whether a [`shout`] was heard.
    #[must_use]
    pub fn heard(&self, from: [u8; 6], ip: Ipv4Addr) -> bool {
        std::iter::from_fn(|| hear(&self.0)).any(|heard| heard == Arp::question(from, ip))
    }
}

fn mouth(netns: &Path, device: &str) -> Result<PacketSocket, Error> {
    let index = links::index_of(netns, device)?;
    netns::inside(netns, || PacketSocket::sending(index).map_err(|source| Error::Socket { what: "send frames", source }))
}

fn ears(netns: &Path, device: &str) -> Result<PacketSocket, Error> {
    listen(netns, links::index_of(netns, device)?)
}

fn listen(netns: &Path, index: u32) -> Result<PacketSocket, Error> {
    netns::inside(netns, || PacketSocket::listening_to_arp(index, ROOM).map_err(|source| Error::Socket { what: "listen for frames", source }))
}

/// The next message.
fn hear(ears: &PacketSocket) -> Option<Arp> {
    let mut buffer = [0; 256];
    while let Ok(Some(length)) = ears.read(&mut buffer) {
        if let Some(arp) = buffer.get(..length).and_then(Arp::parse) {
            return Some(arp);
        }
    }
    None
}
