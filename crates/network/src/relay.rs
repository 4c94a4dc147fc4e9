//! Keeps what arrives at an old pod while the gate is shut, where its address moves on its segment by itself, and sends it after the address when it has moved. As
//! [`crate::Hold`], but it leaves by the interface by which it came:
//!
//! ```text
//!   peers ──▶ switch ──▶ eth0 ─┬─╳ gate
//!                              └─▶ held ── release ──▶ eth0 ──▶ switch ──▶ old0 of the new pod: to the same hardware address, which is behind another port by now
//! ```
//!
//! What is sent comes from a hardware address made for it: from its sender's the switches would learn that this one has moved, too. It goes on for a while: what was on its
//! way when the address moved still comes here.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::announce::Arp;
use crate::packet::{PacketSocket, VNET_HEADER};
use crate::{Attachment, Error, close, hold, links, netns};

/// Bytes that are kept.
const ROOM: i32 = 8 << 20;
/// Largest frame with its headers.
const FRAME: usize = 65536 + 128;
/// For so long the announcement is waited for, that comes here, too; after that what is kept goes all the same.
const ANNOUNCED: Duration = Duration::from_millis(20);
/// For so long what comes late is sent after the address.
const LATE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(1);

/// Frames that came in at an interface since it was made.
#[derive(Debug)]
pub struct Relay {
    ears: PacketSocket,
    device: String,
}

impl Relay {
    /// Begins to keep what comes in at `device`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the interface is missing.
    pub fn begin(netns: &Path, device: &str) -> Result<Self, Error> {
        let index = links::index_of(netns, device)?;
        let ears = netns::inside(netns, || PacketSocket::listening(index, ROOM).map_err(|source| Error::Socket { what: "listen for frames", source }))?;
        Ok(Self { ears, device: device.to_owned() })
    }

    /// As [`Relay::begin`], but for the time being only what begins a TCP connection is kept.
    ///
    /// # Errors
    /// As [`Relay::begin`].
    pub fn begin_with_beginnings(netns: &Path, device: &str) -> Result<Self, Error> {
        let relay = Self::begin(netns, device)?;
        relay.ears.only_beginnings().map_err(|source| Error::Socket { what: "choose among frames", source })?;
        Ok(relay)
    }

    /// From now on everything is kept.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn keep_everything(&self) -> Result<(), Error> {
        self.ears.everything().map_err(|source| Error::Socket { what: "keep all frames", source })
    }

    /// Sends what was kept for one of `homes` after it, and for a while what still comes, from the hardware address `from`; on a thread of its own. Nothing of a connection that
    /// begins at one of `strangers`.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the interface is missing.
    pub fn release(self, netns: &Path, from: [u8; 6], homes: Vec<Attachment>, strangers: Vec<IpAddr>) -> Result<(), Error> {
        let index = links::index_of(netns, &self.device)?;
        let mouth = netns::inside(netns, || PacketSocket::sending(index).map_err(|source| Error::Socket { what: "send frames", source }))?;
        let ears = self.ears;
        close::beside("relay", move || {
            let count = send_after(&ears, &mouth, from, &homes, &strangers);
            tracing::debug!(frames = count, "sent after the address what had come for it");
        });
        Ok(())
    }
}

fn send_after(ears: &PacketSocket, mouth: &PacketSocket, from: [u8; 6], homes: &[Attachment], strangers: &[IpAddr]) -> usize {
    let (mut buffer, mut kept, mut count) = (vec![0; FRAME], Vec::new(), 0);
    let began = Instant::now();
    let mut announced = false;
    while began.elapsed() < LATE {
        while let Ok(Some(length)) = ears.read(&mut buffer) {
            let Some(frame) = buffer.get(..length) else { continue };
            announced |= is_announcement(frame, homes);
            kept.extend(
                Some(frame).filter(|frame| hold::is_kept(frame) && !hold::begins_at(frame, strangers)).and_then(|frame| readdressed(frame, from, homes)),
            );
        }
        if announced || began.elapsed() > ANNOUNCED {
            count += kept.drain(..).filter(|frame| mouth.write(frame).is_ok()).count();
        }
        std::thread::sleep(PAUSE);
    }
    count
}

fn is_announcement(frame: &[u8], homes: &[Attachment]) -> bool {
    Arp::parse(frame).is_some_and(|arp| homes.iter().any(|home| home.mac == arp.from.0 && home.ips.contains(&arp.from.1.into())))
}

/// The frame as it is to be sent, if it is for one of these.
fn readdressed(frame: &[u8], from: [u8; 6], homes: &[Attachment]) -> Option<Vec<u8>> {
    if frame.get(VNET_HEADER + 6..VNET_HEADER + 12) == Some(from.as_slice()) {
        return None; // sent before, and sent back by a switch
    }
    let to = match Arp::parse(frame) {
        Some(arp) => homes.iter().find(|home| home.ips.contains(&arp.to.1.into()) && home.mac != arp.from.0)?.mac,
        None => homes.iter().find(|home| frame.get(VNET_HEADER..VNET_HEADER + 6) == Some(home.mac.as_slice()))?.mac,
    };
    let mut frame = frame.to_vec();
    frame.get_mut(VNET_HEADER..VNET_HEADER + 6)?.copy_from_slice(&to);
    frame.get_mut(VNET_HEADER + 6..VNET_HEADER + 12)?.copy_from_slice(&from);
    Some(frame)
}
