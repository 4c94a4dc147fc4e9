//! Whether frames get through a tunnel, asked before anything depends on it: a firewall that drops the tunnel's port is found while the pod still runs.
//!
//! ```text
//!   new pod: old0 ── frame of the local experimental type 0x88B5 ──▶ anc0 : old pod
//!                 ◀───────────────── the same ────────────────────
//! ```

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::packet::{PacketSocket, VNET_HEADER};
use crate::{Error, links, netns};

/// IEEE 802 local experimental EtherType 1.
const TYPE: [u8; 2] = [0x88, 0xb5];
const QUESTION: &[u8; 16] = b"godwit question ";
const ANSWER: &[u8; 16] = b"godwit answer   ";
const PAUSE: Duration = Duration::from_millis(5);
const ROOM: i32 = 1 << 16;

/// Answers questions that come in at an interface, for so long.
///
/// # Errors
/// The namespace cannot be entered, or the interface is missing.
pub fn answer(netns: &Path, device: &str, time: Duration) -> Result<(), Error> {
    let sockets = Sockets::of(netns, device)?;
    let end = Instant::now() + time;
    while Instant::now() < end {
        while let Some(content) = sockets.hear() {
            if content == *QUESTION {
                sockets.say(ANSWER);
            }
        }
        sleep(PAUSE);
    }
    Ok(())
}

/// Whether a question that leaves by an interface is answered within so long.
///
/// # Errors
/// The namespace cannot be entered, or the interface is missing.
pub fn reaches(netns: &Path, device: &str, time: Duration) -> Result<bool, Error> {
    let sockets = Sockets::of(netns, device)?;
    let end = Instant::now() + time;
    while Instant::now() < end {
        sockets.say(QUESTION);
        for _ in 0..10 {
            if sockets.hear().is_some_and(|content| content == *ANSWER) {
                return Ok(true);
            }
            sleep(PAUSE);
        }
    }
    Ok(false)
}

struct Sockets {
    ears: PacketSocket,
    mouth: PacketSocket,
}

impl Sockets {
    fn of(netns: &Path, device: &str) -> Result<Self, Error> {
        let index = links::index_of(netns, device)?;
        let failed = |source| Error::Socket { what: "listen for frames", source };
        netns::inside(netns, || Ok(Self { ears: PacketSocket::listening(index, ROOM).map_err(failed)?, mouth: PacketSocket::sending(index).map_err(failed)? }))
    }

    /// What it cannot say now, it says again.
    fn say(&self, content: &[u8; 16]) {
        let mut frame = vec![0; VNET_HEADER];
        frame.extend_from_slice(&[0xff; 6]);
        frame.extend_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame.extend_from_slice(&TYPE);
        frame.extend_from_slice(content);
        frame.resize(VNET_HEADER + 60, 0);
        let _ = self.mouth.write(&frame);
    }

    /// The next frame of ours.
    fn hear(&self) -> Option<[u8; 16]> {
        let mut buffer = [0; 256];
        while let Ok(Some(length)) = self.ears.read(&mut buffer) {
            let frame = buffer.get(VNET_HEADER..length).unwrap_or_default();
            if frame.get(12..14) == Some(&TYPE) {
                return frame.get(14..30)?.try_into().ok();
            }
        }
        None
    }
}
