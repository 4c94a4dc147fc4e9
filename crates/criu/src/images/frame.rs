//! One image file: magic, entries, payloads.

use std::fs;
use std::path::Path;

use super::kind::{self, Body, Kind};
use super::wire;
use crate::Problem;

/// First word of every image but the inventory (`IMG_COMMON_MAGIC`).
const COMMON: u32 = 0x5456_4319;

/// Longest metadata image that is read. Pages and archives are not read at all.
const LONGEST: u64 = 1 << 30;

/// The entries of an image. Raw payloads are checked for their length and left out.
#[derive(Debug)]
pub struct Image {
    /// The messages, in order.
    pub entries: Vec<Vec<u8>>,
}

impl Image {
    /// Reads a file; `None` if it is raw or not an image of CRIU's.
    pub fn read(directory: &Path, name: &str, length: u64) -> Result<Option<Self>, Problem> {
        let Some(kind) = kind::of(name).filter(|kind| kind.body != Body::Raw) else {
            return Ok(None);
        };
        if length > LONGEST {
            return Err(Problem::damaged(name, format!("{length} bytes are too many")));
        }
        let path = directory.join(name);
        let bytes = fs::read(&path).map_err(Problem::read(&path))?;
        let entries = Reader { name, rest: &bytes }.image(kind)?;
        Ok(Some(Self { entries }))
    }
}

struct Reader<'a> {
    name: &'a str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn image(&mut self, kind: Kind) -> Result<Vec<Vec<u8>>, Problem> {
        let own = if self.name == kind::INVENTORY { self.word()? } else { self.second_word()? };
        if own != kind.magic {
            return Err(self.damaged(format!("magic {own:#x} instead of {:#x}", kind.magic)));
        }
        let mut entries = Vec::new();
        while !self.rest.is_empty() {
            let entry = self.entry()?;
            match kind.body {
                Body::Payload(lengths) => self.skip(lengths.iter().map(|field| wire::number(entry, *field).unwrap_or(0)).fold(0, u64::saturating_add))?,
                Body::Ghost => self.ghost(entry)?,
                Body::Ipc => self.rest = &[],
                Body::Entries | Body::Raw => {}
            }
            entries.push(entry.to_vec());
        }
        if kind.single && entries.len() != 1 {
            return Err(self.damaged(format!("{} entries instead of one", entries.len())));
        }
        Ok(entries)
    }

    fn second_word(&mut self) -> Result<u32, Problem> {
        let common = self.word()?;
        if common == COMMON { self.word() } else { Err(self.damaged(format!("magic {common:#x} instead of {COMMON:#x}"))) }
    }

    fn entry(&mut self) -> Result<&'a [u8], Problem> {
        let length = self.word()?;
        let entry = self.take(u64::from(length))?;
        if wire::fields(entry).is_none() {
            return Err(self.damaged("an entry is not a message"));
        }
        Ok(entry)
    }

    fn ghost(&mut self, head: &[u8]) -> Result<(), Problem> {
        if wire::number(head, 9) != Some(1) {
            // Regular file: the whole content. Its length stands in no field of older images.
            let size = wire::number(head, 10).unwrap_or(self.rest.len() as u64);
            return self.skip(size.min(self.rest.len() as u64));
        }
        while !self.rest.is_empty() {
            let chunk = self.entry()?;
            self.skip(wire::number(chunk, 1).unwrap_or(0))?;
        }
        Ok(())
    }

    fn word(&mut self) -> Result<u32, Problem> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte)))
    }

    fn skip(&mut self, length: u64) -> Result<(), Problem> {
        self.take(length).map(drop)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Problem> {
        let split = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (head, tail) = split.ok_or_else(|| self.damaged(format!("it ends {} bytes too early", length.saturating_sub(self.rest.len() as u64))))?;
        self.rest = tail;
        Ok(head)
    }

    fn damaged(&self, what: impl Into<String>) -> Problem {
        Problem::damaged(self.name, what)
    }
}
