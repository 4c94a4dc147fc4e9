//! How a file of an encrypted checkpoint is stored: in pieces of which each is encrypted and authenticated (ChaCha20-Poly1305 of AWS-LC), in the manner of STREAM
//! (Hoang, Reyhanitabar, Rogaway, Vizár: "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015).
//!
//! ```text
//!   magic 16 │ id of the key 8 │ salt 32 │ piece 0 │ tag 16 │ piece 1 │ tag 16 │ … │ last piece, shorter or as long │ tag 16
//!   └───────────── header ───────────────┘  262144 bytes
//!
//!   key of the file  blake3 derive_key over the Secret's key and the salt, which is random: every file has a key of its own
//!   nonce            number of the piece, 11 bytes big-endian │ 1 if it is the last, else 0
//!   associated data  header │ UID of the PodCheckpoint │ 0 │ path below the checkpoint
//! ```
//! So no piece can be changed, left out, doubled or put elsewhere, no file cut off at its end, renamed, or taken from another checkpoint. Nothing that was not authenticated
//! is given out; that the last piece was there is known at the end, with [`Opener::finish`].

use std::{fmt, io};

use aws_lc_rs::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use godwit_rpc::{Key, key};
use zeroize::Zeroizing;

/// Of the format.
const MAGIC: &[u8; 16] = b"godwit sealed 1\n";
/// Random bytes of a file.
const SALT: usize = 32;
/// Bytes before the first piece.
pub const HEADER: usize = MAGIC.len() + key::ID + SALT;
/// Bytes of a piece before it is encrypted.
pub const PIECE: usize = 256 << 10;
/// Bytes that encryption adds to a piece.
pub const TAG: usize = 16;
/// What the key of a file is made for.
const CONTEXT: &str = "godwit.dev 2026 checkpoint file";

/// Why a file cannot be opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// It is not in this format.
    Plain,
    /// It was encrypted with another key: its id.
    OtherKey(String),
    /// It is not as it was written, or not the file it is taken for.
    Damaged,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => formatter.write_str("it is not encrypted"),
            Self::OtherKey(id) => write!(formatter, "it is encrypted with the key {id}"),
            Self::Damaged => formatter.write_str("it cannot be decrypted: it was changed, cut off, or belongs elsewhere"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// A key, and the checkpoint for which it is used.
#[derive(Clone, Debug)]
pub struct Vault {
    key: Key,
    uid: String,
}

/// The pieces of one file.
struct Pieces {
    key: LessSafeKey,
    associated: Vec<u8>,
    number: u64,
}

/// Encrypts a file.
pub struct Sealer {
    pieces: Pieces,
    waiting: Vec<u8>,
}

/// Decrypts one.
pub struct Opener {
    vault: Vault,
    path: String,
    pieces: Option<Pieces>,
    waiting: Vec<u8>,
}

impl Vault {
    /// For a checkpoint, by its UID.
    #[must_use]
    pub fn new(key: Key, uid: &str) -> Self {
        Self { key, uid: uid.to_owned() }
    }

    /// A file of it, by its path below the checkpoint. Puts its first bytes into `out`.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub fn seal(&self, path: &str, out: &mut Vec<u8>) -> io::Result<Sealer> {
        let mut header = [0; HEADER];
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        header[MAGIC.len()..HEADER - SALT].copy_from_slice(&self.key.id_bytes());
        rand::fill(&mut header[HEADER - SALT..]).map_err(|_| io::Error::other("no random numbers"))?;
        out.extend_from_slice(&header);
        let pieces = self.pieces(&header, path).map_err(|_| io::Error::other("cannot encrypt"))?;
        Ok(Sealer { pieces, waiting: Vec::with_capacity(PIECE + TAG) })
    }

    /// Reads such a file.
    #[must_use]
    pub fn open(&self, path: &str) -> Opener {
        Opener { vault: self.clone(), path: path.to_owned(), pieces: None, waiting: Vec::with_capacity(2 * (PIECE + TAG)) }
    }

    fn pieces(&self, header: &[u8], path: &str) -> Result<Pieces, Error> {
        let material = Zeroizing::new([self.key.bytes().as_slice(), &header[HEADER - SALT..]].concat());
        let own = Zeroizing::new(blake3::derive_key(CONTEXT, &material));
        let key = UnboundKey::new(&CHACHA20_POLY1305, &own[..]).map_err(|_| Error::Damaged)?;
        let mut associated = header.to_vec();
        associated.extend_from_slice(self.uid.as_bytes());
        associated.push(0);
        associated.extend_from_slice(path.as_bytes());
        Ok(Pieces { key: LessSafeKey::new(key), associated, number: 0 })
    }
}

impl Pieces {
    fn nonce(&mut self, last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[3..NONCE_LEN - 1].copy_from_slice(&self.number.to_be_bytes());
        nonce[NONCE_LEN - 1] = last.into();
        // 2^64 pieces are more than there are bytes.
        self.number += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&mut self, piece: &mut Vec<u8>, last: bool, out: &mut Vec<u8>) -> io::Result<()> {
        let nonce = self.nonce(last);
        self.key.seal_in_place_append_tag(nonce, Aad::from(&self.associated), piece).map_err(|_| io::Error::other("cannot encrypt"))?;
        out.append(piece);
        Ok(())
    }

    fn open(&mut self, piece: &mut [u8], last: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        let nonce = self.nonce(last);
        out.extend_from_slice(self.key.open_in_place(nonce, Aad::from(&self.associated), piece).map_err(|_| Error::Damaged)?);
        Ok(())
    }
}

impl Sealer {
    /// Takes what comes next, and puts what can be stored into `out`.
    ///
    /// # Errors
    /// When it cannot be encrypted.
    pub fn push(&mut self, mut plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        while !plain.is_empty() {
            if self.waiting.len() == PIECE {
                self.pieces.seal(&mut self.waiting, false, out)?;
            }
            let (now, later) = plain.split_at(plain.len().min(PIECE - self.waiting.len()));
            self.waiting.extend_from_slice(now);
            plain = later;
        }
        Ok(())
    }

    /// Puts the last piece into `out`.
    ///
    /// # Errors
    /// When it cannot be encrypted.
    pub fn finish(mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.pieces.seal(&mut self.waiting, true, out)
    }
}

impl Opener {
    /// Takes what comes next of the stored file, and puts what is known to be right into `out`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn push(&mut self, mut stored: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        if self.pieces.is_none() {
            let (now, later) = stored.split_at(stored.len().min(HEADER - self.waiting.len()));
            self.waiting.extend_from_slice(now);
            stored = later;
            if self.waiting.len() < HEADER {
                return Ok(());
            }
            self.pieces = Some(self.begin()?);
            self.waiting.clear();
        }
        let Some(pieces) = &mut self.pieces else { return Err(Error::Damaged) };
        while !stored.is_empty() {
            // Whole, and something comes after it: it is not the last.
            if self.waiting.len() == PIECE + TAG {
                pieces.open(&mut self.waiting, false, out)?;
                self.waiting.clear();
            }
            let (now, later) = stored.split_at(stored.len().min(PIECE + TAG - self.waiting.len()));
            self.waiting.extend_from_slice(now);
            stored = later;
        }
        Ok(())
    }

    /// Nothing comes any more: puts the last piece into `out`.
    ///
    /// # Errors
    /// [`Error`]: also when the end is missing.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        match &mut self.pieces {
            Some(pieces) => pieces.open(&mut self.waiting, true, out),
            None if self.waiting.starts_with(MAGIC) => Err(Error::Damaged),
            None => Err(Error::Plain),
        }
    }

    fn begin(&self) -> Result<Pieces, Error> {
        if !is_sealed(&self.waiting) {
            return Err(Error::Plain);
        }
        let id = &self.waiting[MAGIC.len()..HEADER - SALT];
        if id != self.vault.key.id_bytes() {
            return Err(Error::OtherKey(key::hex(id)));
        }
        self.vault.pieces(&self.waiting, &self.path)
    }
}

/// Whether a file that begins so is encrypted.
#[must_use]
pub fn is_sealed(beginning: &[u8]) -> bool {
    beginning.starts_with(MAGIC)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
    use super::*;

    fn vault(key: u8, uid: &str) -> Vault {
        Vault::new(Key::parse(&[key; 32]).unwrap(), uid)
    }

    fn seal(vault: &Vault, path: &str, plain: &[u8], step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut sealer = vault.seal(path, &mut out).unwrap();
        plain.chunks(step).for_each(|piece| sealer.push(piece, &mut out).unwrap());
        sealer.finish(&mut out).unwrap();
        out
    }

    fn open(vault: &Vault, path: &str, stored: &[u8], step: usize) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let mut opener = vault.open(path);
        for piece in stored.chunks(step) {
            opener.push(piece, &mut out)?;
        }
        opener.finish(&mut out)?;
        Ok(out)
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|number| (number * 31 / 7) as u8).collect()
    }

    #[test]
    fn what_goes_in_comes_out() {
        let vault = vault(1, "u");
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 5] {
            let plain = bytes(length);
            for step in [4099, PIECE, 1 << 20] {
                let stored = seal(&vault, "a", &plain, step);
                assert_eq!(stored.len(), HEADER + length + TAG * length.div_ceil(PIECE).max(1), "length {length}");
                assert!(open(&vault, "a", &stored, step + 1).unwrap() == plain, "length {length}, in steps of {step}");
            }
        }
        assert_ne!(seal(&vault, "a", b"same", 1), seal(&vault, "a", b"same", 1), "the same twice is not the same stored");
        let stored = seal(&vault, "a", &b"a secret".repeat(100), 1000);
        assert!(!stored.windows(8).any(|window| window == b"a secret"));
    }

    #[test]
    fn every_cut_is_noticed() {
        let vault = vault(1, "u");
        for length in [0, 5, PIECE, 2 * PIECE, 2 * PIECE + 5] {
            let stored = seal(&vault, "a", &bytes(length), 1 << 20);
            let borders = (0..4).map(|number| HEADER + number * (PIECE + TAG)).flat_map(|border| border.saturating_sub(TAG + 1)..border + TAG + 2);
            for end in borders.chain(0..HEADER).chain([stored.len() - 1]).filter(|end| *end < stored.len()) {
                assert!(open(&vault, "a", &stored[..end], 1 << 20).is_err(), "{length} bytes cut to {end}");
            }
            let mut longer = stored.clone();
            longer.push(0);
            assert!(open(&vault, "a", &longer, 1 << 20).is_err());
        }
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let vault = vault(1, "u");
        let stored = seal(&vault, "a", &bytes(700), 1 << 20);
        for position in 0..stored.len() {
            let mut other = stored.clone();
            other[position] ^= 1;
            assert!(open(&vault, "a", &other, 1 << 20).is_err(), "byte {position}");
        }
        let stored = seal(&vault, "a", &bytes(2 * PIECE + 5), 1 << 20);
        for position in (HEADER..stored.len()).step_by(PIECE / 3) {
            let mut other = stored.clone();
            other[position] ^= 0x80;
            assert_eq!(open(&vault, "a", &other, 1 << 20), Err(Error::Damaged), "byte {position}");
        }
    }

    #[test]
    fn pieces_stay_where_they_are() {
        let vault = vault(1, "u");
        let stored = seal(&vault, "a", &bytes(3 * PIECE), 1 << 20);
        let (header, pieces) = stored.split_at(HEADER);
        let pieces: Vec<&[u8]> = pieces.chunks(PIECE + TAG).collect();
        for order in [&[1, 0, 2][..], &[0, 2], &[0, 0, 1, 2], &[0, 1, 2, 2], &[0, 1], &[2], &[]] {
            let other: Vec<u8> = header.iter().copied().chain(order.iter().flat_map(|number| pieces[*number].iter().copied())).collect();
            assert_eq!(open(&vault, "a", &other, 1 << 20), Err(Error::Damaged), "{order:?}");
        }
        let second = seal(&vault, "a", &bytes(3 * PIECE), 1 << 20);
        let mixed = [&stored[..HEADER + PIECE + TAG], &second[HEADER + PIECE + TAG..]].concat();
        assert_eq!(open(&vault, "a", &mixed, 1 << 20), Err(Error::Damaged), "two files mixed");
    }

    #[test]
    fn only_with_its_key_in_its_place() {
        let own = vault(1, "u");
        let stored = seal(&own, "web/images/core-1.img", b"core", 10);
        assert_eq!(open(&own, "web/images/core-2.img", &stored, 10), Err(Error::Damaged), "another path");
        assert_eq!(open(&vault(1, "v"), "web/images/core-1.img", &stored, 10), Err(Error::Damaged), "another checkpoint");
        let id = Key::parse(&[1; 32]).unwrap().id();
        assert_eq!(open(&vault(2, "u"), "web/images/core-1.img", &stored, 10), Err(Error::OtherKey(id)));
        assert_eq!(open(&own, "a", &[b'x'; 200], 10), Err(Error::Plain));
        assert_eq!(open(&own, "a", b"short", 10), Err(Error::Plain));
    }
}
