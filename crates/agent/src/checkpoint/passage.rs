//! A file on its way into the store or out of it: measured, and encrypted or decrypted where the checkpoint is.
//!
//! ```text
//!   piece ─▶ length and digest of what came ─▶ as it is │ Sealer │ Opener ─▶ length and digest of what went ─▶ bytes to write
//! ```

use std::io;

use blake3::Hasher;

use super::{
    cipher::{Opener, Sealer, Vault},
    index::Stored,
};

/// See the module.
pub struct Passage {
    turn: Turn,
    /// What goes before everything else.
    head: Vec<u8>,
    came: Measure,
    went: Measure,
}

enum Turn {
    AsItIs,
    Seal(Box<Sealer>),
    Open(Box<Opener>),
}

/// What has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// What was read.
    pub came: Stored,
    /// What was to be written.
    pub went: Stored,
}

#[derive(Default)]
struct Measure {
    hash: Hasher,
    length: u64,
}

impl Measure {
    fn add(&mut self, piece: &[u8]) {
        self.hash.update(piece);
        self.length += piece.len() as u64;
    }

    fn end(&self) -> Stored {
        Stored { length: self.length, digest: self.hash.finalize().to_hex().to_string() }
    }
}

impl Passage {
    fn new(turn: Turn, head: Vec<u8>) -> Self {
        Self { turn, head, came: Measure::default(), went: Measure::default() }
    }

    /// Into the store, by the path below the checkpoint; as it is without a vault.
    ///
    /// # Errors
    /// When there are no random numbers.
    pub fn into_store(vault: Option<&Vault>, path: &str) -> io::Result<Self> {
        let mut head = Vec::new();
        let turn = match vault {
            Some(vault) => Turn::Seal(Box::new(vault.seal(path, &mut head)?)),
            None => Turn::AsItIs,
        };
        Ok(Self::new(turn, head))
    }

    /// Out of it.
    #[must_use]
    pub fn out_of_store(vault: Option<&Vault>, path: &str) -> Self {
        Self::new(vault.map_or(Turn::AsItIs, |vault| Turn::Open(Box::new(vault.open(path)))), Vec::new())
    }

    /// The next piece. What is to be written now is `piece` itself, or in `out`, which is emptied before.
    ///
    /// # Errors
    /// When it cannot be encrypted, or is not what it was.
    pub fn take<'a>(&mut self, piece: &'a [u8], out: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        self.came.add(piece);
        out.clear();
        match &mut self.turn {
            Turn::AsItIs => return Ok(piece),
            Turn::Seal(sealer) => {
                out.append(&mut self.head);
                sealer.push(piece, out)?;
            }
            Turn::Open(opener) => opener.push(piece, out)?,
        }
        self.went.add(out);
        Ok(out)
    }

    /// There are no more. What is still to be written is in `out`, which is emptied before.
    ///
    /// # Errors
    /// When it cannot be encrypted, or is not what it was, or its end is missing.
    pub fn end(mut self, out: &mut Vec<u8>) -> io::Result<Passed> {
        out.clear();
        let came = self.came.end();
        match self.turn {
            Turn::AsItIs => return Ok(Passed { went: came.clone(), came }),
            Turn::Seal(sealer) => {
                out.append(&mut self.head);
                sealer.finish(out)?;
            }
            Turn::Open(opener) => opener.finish(out)?,
        }
        self.went.add(out);
        Ok(Passed { came, went: self.went.end() })
    }
}
