//! The key of encrypted checkpoints: from a Secret to the agents, never to a log or a disk.
//!
//! ```text
//!   Secret ─▶ controller: Key::parse ── v1::CheckpointKey in a request, mTLS ──▶ agent: Key ─▶ keys of single files
//! ```

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::{Zeroize, Zeroizing};

use crate::v1;

/// Length of a key, in bytes.
pub const LENGTH: usize = 32;
/// Length of [`Key::id`], in bytes.
pub const ID: usize = 8;
/// What the id is made for.
const ID_CONTEXT: &str = "godwit.dev 2026 checkpoint key id";

/// A key. Its memory is overwritten when the last copy goes; it is never printed.
#[derive(Clone)]
pub struct Key(Arc<Zeroizing<[u8; LENGTH]>>);

impl Key {
    /// The key in a value of a Secret: 32 bytes, or base64 of 32 bytes (a line end behind it is fine). `None`: it is neither.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        if let Some(key) = Self::exact(value) {
            return Some(key);
        }
        let decoded = Zeroizing::new(STANDARD.decode(value.trim_ascii()).ok()?);
        Self::exact(&decoded)
    }

    fn exact(bytes: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; LENGTH]);
        if bytes.len() != LENGTH {
            return None;
        }
        key.copy_from_slice(bytes);
        Some(Self(Arc::new(key)))
    }

    /// What names it without telling anything about it: the first eight bytes of a hash made for this alone.
    #[must_use]
    pub fn id_bytes(&self) -> [u8; ID] {
        let mut id = [0; ID];
        id.copy_from_slice(&blake3::derive_key(ID_CONTEXT, &self.0[..])[..ID]);
        id
    }

    /// [`Self::id_bytes`] in hexadecimal.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&self.id_bytes())
    }

    /// The key itself.
    #[must_use]
    pub fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    /// As it is sent.
    #[must_use]
    pub fn message(&self) -> v1::CheckpointKey {
        v1::CheckpointKey { key: self.0.to_vec() }
    }

    /// As it was received; the message is overwritten. `None`: it is no key.
    #[must_use]
    pub fn received(mut message: v1::CheckpointKey) -> Option<Self> {
        let key = Self::exact(&message.key);
        message.key.zeroize();
        key
    }
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        use fmt::Write;
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Key({})", self.id())
    }
}

impl fmt::Debug for v1::CheckpointKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CheckpointKey(…)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn raw_or_base64_and_nothing_else() {
        let raw = [7u8; 32];
        let key = Key::parse(&raw).unwrap();
        let text = STANDARD.encode(raw);
        for other in [text.clone(), format!("{text}\n"), format!(" {text}\r\n")] {
            assert_eq!(Key::parse(other.as_bytes()).unwrap().bytes(), key.bytes());
        }
        for bad in [&raw[..31], &[7; 33], b"", b"password", STANDARD.encode([7; 16]).as_bytes(), hex(&raw).as_bytes()] {
            assert!(Key::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn it_has_a_name_and_does_not_show_itself() {
        let (one, other) = (Key::parse(&[b'k'; 32]).unwrap(), Key::parse(&[b'l'; 32]).unwrap());
        assert!(one.id() != other.id() && one.id().len() == 16);
        let request = v1::CheckpointRequest { key: Some(one.message()), key_id: one.id(), ..v1::CheckpointRequest::default() };
        for text in [format!("{one:?}"), format!("{request:?}")] {
            assert!(!text.contains("kkkk") && !text.contains("107"), "{text}");
        }
        assert_eq!(Key::received(one.message()).unwrap().id(), one.id());
        assert!(Key::received(v1::CheckpointKey { key: vec![1; 31] }).is_none());
    }
}
