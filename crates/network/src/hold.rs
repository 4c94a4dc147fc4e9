//! Keeps what arrives while the gate is shut, and passes it on when it opens: a segment that is dropped costs its sender a retransmission time-out of 200 ms and
//! more, and an acknowledgement that is dropped costs the restored pod one of a second.
//!
//! ```text
//!   peers ──▶ eth0 ─┬─╳ gate                      anc0 ◀── new pod (it may have begun to run a moment before the gate hears of it)
//!                   └─▶ held                      held ◀─┘
//!                        └───── release ──▶ anc0, eth0 ◀───── release
//! ```
//!
//! A packet socket hears a frame before any rule is asked; its queue in the kernel is the store. Only TCP and what asks for
//! neighbours (ARP; ICMPv6's solicitations and advertisements) are kept: they take what comes twice as what it is, others might not. (Neighbours, because the new pod knows no
//! hardware address yet: its first question, unheard, is repeated only after a second.)

use std::net::IpAddr;
use std::path::Path;

use crate::packet::{PacketSocket, VNET_HEADER};
use crate::{Error, addresses, close, links, netns};

/// Bytes that are kept for each direction.
const ROOM: i32 = 8 << 20;
/// Largest frame with its headers.
const FRAME: usize = 65536 + 128;

/// Frames that came in at two interfaces since it was made.
#[derive(Debug)]
pub struct Hold {
    outer: PacketSocket,
    inner: PacketSocket,
    names: (String, String),
}

impl Hold {
    /// Begins to keep what comes in at `outer` and at `inner`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or an interface is missing.
    pub fn begin(netns: &Path, outer: &str, inner: &str) -> Result<Self, Error> {
        let (outer_index, inner_index) = (links::index_of(netns, outer)?, links::index_of(netns, inner)?);
        netns::inside(netns, || {
            let listen = |index| PacketSocket::listening(index, ROOM).map_err(|source| Error::Socket { what: "listen for frames", source });
            Ok(Self { outer: listen(outer_index)?, inner: listen(inner_index)?, names: (outer.to_owned(), inner.to_owned()) })
        })
    }

    /// As [`Hold::begin`], but for the time being only what begins a TCP connection is kept.
    ///
    /// # Errors
    /// The namespace cannot be entered, or an interface is missing.
    pub fn begin_with_beginnings(netns: &Path, outer: &str, inner: &str) -> Result<Self, Error> {
        let hold = Self::begin(netns, outer, inner)?;
        for socket in [&hold.outer, &hold.inner] {
            socket.only_beginnings().map_err(|source| Error::Socket { what: "choose among frames", source })?;
        }
        Ok(hold)
    }

    /// From now on everything is kept.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn keep_everything(&self) -> Result<(), Error> {
        [&self.outer, &self.inner].into_iter().try_for_each(|socket| socket.everything()).map_err(|source| Error::Socket { what: "keep all frames", source })
    }

    /// Passes on what was kept, each way; returns how many frames. To be called when frames pass already, so that nothing falls in between: what is passed on twice
    /// does no harm. As with [`crate::Gate::connect`] no connection begins at one of `strangers`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or an interface is missing.
    pub fn release(self, netns: &Path, strangers: &[IpAddr]) -> Result<usize, Error> {
        let (outer, inner) = (links::index_of(netns, &self.names.0)?, links::index_of(netns, &self.names.1)?);
        netns::inside(netns, || {
            let send = |index| PacketSocket::sending(index).map_err(|source| Error::Socket { what: "send frames", source });
            let (inward, outward) = (send(inner)?, send(outer)?);
            let count = pass(&self.outer, &inward, strangers) + pass(&self.inner, &outward, &[]);
            close::elsewhere((self, inward, outward));
            Ok(count)
        })
    }
}

/// Frames that cannot be sent are lost, as frames may be.
fn pass(from: &PacketSocket, to: &PacketSocket, strangers: &[IpAddr]) -> usize {
    let mut buffer = vec![0; FRAME];
    let mut count = 0;
    while let Ok(Some(length)) = from.read(&mut buffer) {
        if let Some(frame) = buffer.get(..length).filter(|frame| is_kept(frame) && !begins_at(frame, strangers))
            && to.write(frame).is_ok()
        {
            count += 1;
        }
    }
    count
}

/// Ethernet, and in it ARP, TCP, or a question for a neighbour or its answer.
pub(crate) fn is_kept(frame: &[u8]) -> bool {
    match Packet::of(frame) {
        Some(packet) => packet.protocol == TCP || packet.protocol == ICMP_SIX && packet.byte(0).is_some_and(|kind| NEIGHBOURS.contains(&kind)),
        None => frame.get(VNET_HEADER + 12..VNET_HEADER + 14) == Some(&[8, 6]),
    }
}

/// A frame that is kept: a packet whose TCP segment begins a connection, from one of these.
pub(crate) fn begins_at(frame: &[u8], strangers: &[IpAddr]) -> bool {
    Packet::of(frame)
        .is_some_and(|packet| packet.protocol == TCP && packet.byte(13).is_some_and(|flags| flags & 0x12 == 0x02) && strangers.contains(&packet.from))
}

const TCP: u8 = 6;
const ICMP_SIX: u8 = 58;
/// Solicitation and advertisement (RFC 4861, 4.3 and 4.4).
const NEIGHBOURS: [u8; 2] = [135, 136];

/// What is in a frame of IPv4 or IPv6.
struct Packet<'a> {
    from: IpAddr,
    protocol: u8,
    /// What follows the header.
    content: &'a [u8],
}

impl<'a> Packet<'a> {
    fn of(frame: &'a [u8]) -> Option<Self> {
        let packet = frame.get(VNET_HEADER + 14..)?;
        match frame.get(VNET_HEADER + 12..VNET_HEADER + 14)? {
            [8, 0] => {
                let header = usize::from(packet.first()? & 0xf) * 4;
                Some(Self { from: addresses::parse(packet.get(12..16)?)?, protocol: *packet.get(9)?, content: packet.get(header..)? })
            }
            // Extension headers, which TCP and neighbours do without, are none of the protocols that are asked for.
            [0x86, 0xdd] => Some(Self { from: addresses::parse(packet.get(8..24)?)?, protocol: *packet.get(6)?, content: packet.get(40..)? }),
            _ => None,
        }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.content.get(at).copied()
    }
}
