//! One image file: magic, entries, payloads. Read as a stream: payloads (content of files, of sockets and pipes) are stepped over, only messages are kept.
//!
//! ```text
//!   0x54564319  kind's magic │ length │ message │ [payload] │ length │ message │ [payload] │ …
//!                                      └ kept      └ where it is and how long
//! ```

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use prost_reflect::MessageDescriptor;

use super::kind::{self, Body, Kind};
use super::schema::{self, View};
use crate::Problem;

/// First word of every image but the inventory and CRIU's files of service (`IMG_COMMON_MAGIC`, `IMG_SERVICE_MAGIC`).
const COMMON: u32 = 0x5456_4319;
const SERVICE: u32 = 0x5510_5940;

/// Most bytes of messages that are kept of one image. The longest known are the maps of memory: some 25 bytes for each run of pages.
const LONGEST: u64 = 1 << 30;

/// Bytes that can be stepped over. The caller never steps beyond the end.
pub trait Source: Read {
    /// Steps over bytes that are there.
    ///
    /// # Errors
    /// When they are not.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

impl Source for BufReader<File> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.seek_relative(i64::try_from(bytes).map_err(io::Error::other)?)
    }
}

impl Source for &[u8] {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let rest = usize::try_from(bytes).ok().and_then(|bytes| self.get(bytes..));
        *self = rest.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(())
    }
}

/// Something that can only be read, e.g. a file inside an archive.
pub struct Stream<R>(pub R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Source for Stream<R> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let copied = io::copy(&mut (&mut self.0).take(bytes), &mut io::sink())?;
        if copied == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// The entries of an image.
#[derive(Clone, Debug)]
pub struct Image {
    head: MessageDescriptor,
    rest: MessageDescriptor,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Fields that CRIU's definitions do not have: written by a newer one.
    pub unknown: u32,
}

/// Where an entry's message is among the bytes that were kept, and its payload in the file.
#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    end: usize,
    payload: Payload,
}

/// The raw bytes behind an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// From the start of the file.
    pub at: u64,
    /// In bytes.
    pub length: u64,
}

impl Image {
    /// Opens and reads a file; `None` if it is raw or not an image of CRIU's.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn open(directory: &Path, name: &str, length: u64) -> Result<Option<Self>, Problem> {
        let Some(kind) = kind::of(name).filter(|kind| kind.body != Body::Raw) else {
            return Ok(None);
        };
        let path = directory.join(name);
        let file = File::open(&path).map_err(Problem::read(&path))?;
        Self::read(name, kind, length, BufReader::with_capacity(16 << 10, file)).map(Some)
    }

    /// Reads an image of that length.
    ///
    /// # Errors
    /// [`Problem::Damaged`] when it is not what its name says, ends too early, or an entry is not such a message.
    pub fn read(name: &str, kind: Kind, length: u64, source: impl Source) -> Result<Self, Problem> {
        let missing = || Problem::damaged(name, "its messages are not known");
        let head = schema::message(kind.message).ok_or_else(missing)?;
        let rest = match kind.body {
            Body::Headed(rest) => schema::message(rest).ok_or_else(missing)?,
            Body::Ghost => schema::message("ghost_chunk_entry").ok_or_else(missing)?,
            _ => head.clone(),
        };
        let image = Self { head, rest, bytes: Vec::new(), entries: Vec::new(), unknown: 0 };
        let mut reader = Reader { name, at: 0, length, source, image };
        reader.read(kind)?;
        Ok(reader.image)
    }

    /// The messages in order.
    pub fn views(&self) -> impl Iterator<Item = View<'_>> {
        (0..self.entries.len()).map(|index| self.view(index))
    }

    /// The messages in order, each with where its payload is.
    pub fn with_payloads(&self) -> impl Iterator<Item = (View<'_>, Payload)> {
        self.entries.iter().enumerate().map(|(index, entry)| (self.view(index), entry.payload))
    }

    /// The first message.
    #[must_use]
    pub fn first(&self) -> Option<View<'_>> {
        (!self.entries.is_empty()).then(|| self.view(0))
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn view(&self, index: usize) -> View<'_> {
        let descriptor = if index == 0 { &self.head } else { &self.rest };
        let entry = &self.entries[index];
        View::new(descriptor.clone(), &self.bytes[entry.start..entry.end])
    }
}

/// Writes an image anew that has messages and nothing else.
///
/// # Errors
/// If it cannot be written, or is of another kind.
pub fn write_entries(path: &Path, name: &str, entries: &[Vec<u8>]) -> io::Result<()> {
    std::fs::write(path, put_entries(name, entries)?)
}

/// The bytes of such an image.
///
/// # Errors
/// If it is of another kind.
pub fn put_entries(name: &str, entries: &[Vec<u8>]) -> io::Result<Vec<u8>> {
    let kind = kind::of(name).filter(|kind| kind.body == Body::Entries && name != kind::INVENTORY && !kind::is_service(name));
    let kind = kind.ok_or_else(|| io::Error::other(format!("{name} cannot be written anew")))?;
    let mut bytes = Vec::new();
    bytes.extend(COMMON.to_le_bytes());
    bytes.extend(kind.magic.to_le_bytes());
    for entry in entries {
        bytes.extend(u32::try_from(entry.len()).map_err(io::Error::other)?.to_le_bytes());
        bytes.extend(entry);
    }
    Ok(bytes)
}

struct Reader<'a, S> {
    name: &'a str,
    at: u64,
    length: u64,
    source: S,
    image: Image,
}

impl<S: Source> Reader<'_, S> {
    fn read(&mut self, kind: Kind) -> Result<(), Problem> {
        let first = if kind::is_service(self.name) { SERVICE } else { COMMON };
        if self.name != kind::INVENTORY {
            self.magic(first)?;
        }
        self.magic(kind.magic)?;
        while self.at < self.length {
            self.entry(kind)?;
        }
        if kind.single && self.image.entries.len() != 1 {
            return Err(self.damaged(format!("{} entries instead of one", self.image.entries.len())));
        }
        if matches!(kind.body, Body::Headed(_) | Body::Ghost) && self.image.entries.is_empty() {
            return Err(self.damaged("it has no head"));
        }
        Ok(())
    }

    fn magic(&mut self, expected: u32) -> Result<(), Problem> {
        let found = self.word()?;
        if found == expected { Ok(()) } else { Err(self.damaged(format!("magic {found:#x} instead of {expected:#x}"))) }
    }

    fn entry(&mut self, kind: Kind) -> Result<(), Problem> {
        let (start, end) = self.message()?;
        self.image.entries.push(Entry { start, end, payload: Payload::default() });
        let index = self.image.entries.len() - 1;
        let view = self.image.view(index);
        let unknown = schema::check(&view.descriptor, view.bytes).map_err(|what| self.damaged(what))?;
        let number = |field| view.number(field).unwrap_or(0);
        let (mut length, mut messages) = (0, 0);
        match kind.body {
            Body::Payload(fields) => length = fields.iter().map(|field| number(field)).fold(0, u64::saturating_add),
            // A regular file's whole content; its length stands in no field of older images.
            Body::Ghost if index == 0 && !view.flag("chunks") => {
                let rest = self.length - self.at;
                length = view.number("size").map_or(rest, |size| size.min(rest));
            }
            Body::Ghost if index > 0 => length = number("len"),
            Body::Segments if !view.flag("in_pagemaps") => length = number("size").saturating_add(3) & !3,
            Body::Semaphores => length = (number("nsems") * 2).saturating_add(7) & !7,
            Body::Queues => messages = number("qnum"),
            _ => {}
        }
        self.image.unknown = self.image.unknown.saturating_add(unknown);
        let at = self.at;
        for _ in 0..messages {
            self.queued()?;
        }
        self.skip(length)?;
        self.image.entries[index].payload = Payload { at, length: self.at - at };
        Ok(())
    }

    /// A message in a queue of System V: its head is an entry too, but not kept.
    fn queued(&mut self) -> Result<(), Problem> {
        let (start, _) = self.message()?;
        let head = schema::message("ipc_msg").ok_or_else(|| self.damaged("its messages are not known"))?;
        let bytes = self.image.bytes.split_off(start);
        schema::check(&head, &bytes).map_err(|what| self.damaged(what))?;
        let size = View::new(head, &bytes).number("msize").unwrap_or(0);
        self.skip(size.saturating_add(7) & !7)
    }

    /// Keeps a message; gives where it is among the bytes that were kept.
    fn message(&mut self) -> Result<(usize, usize), Problem> {
        let length = self.word()?;
        self.claim(u64::from(length))?;
        let start = self.image.bytes.len();
        if start as u64 + u64::from(length) > LONGEST {
            return Err(self.damaged("it is too long"));
        }
        let read = (&mut self.source).take(u64::from(length)).read_to_end(&mut self.image.bytes);
        match read {
            Ok(read) if read as u64 == u64::from(length) => Ok((start, self.image.bytes.len())),
            Ok(read) => Err(self.short(u64::from(length) - read as u64)),
            Err(source) => Err(Problem::Read { path: self.name.into(), source }),
        }
    }

    fn word(&mut self) -> Result<u32, Problem> {
        self.claim(4)?;
        let mut bytes = [0; 4];
        self.source.read_exact(&mut bytes).map_err(|source| Problem::Read { path: self.name.into(), source })?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Problem> {
        self.claim(bytes)?;
        if bytes == 0 { Ok(()) } else { self.source.skip(bytes).map_err(|source| Problem::Read { path: self.name.into(), source }) }
    }

    /// Before bytes are taken: are they there?
    fn claim(&mut self, bytes: u64) -> Result<(), Problem> {
        let rest = self.length - self.at;
        if bytes > rest {
            return Err(self.short(bytes - rest));
        }
        self.at += bytes;
        Ok(())
    }

    fn short(&self, bytes: u64) -> Problem {
        self.damaged(format!("it ends {bytes} bytes too early"))
    }

    fn damaged(&self, what: impl Into<String>) -> Problem {
        Problem::damaged(self.name, what)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn image(name: &str, parts: &[&[u8]]) -> Result<Image, Problem> {
        let kind = kind::of(name).unwrap();
        let mut bytes = Vec::new();
        bytes.extend(COMMON.to_le_bytes());
        bytes.extend(kind.magic.to_le_bytes());
        for part in parts {
            bytes.extend(*part);
        }
        let streamed = Image::read(name, kind, bytes.len() as u64, Stream(bytes.as_slice()));
        let read = Image::read(name, kind, bytes.len() as u64, bytes.as_slice());
        assert_eq!(read.is_ok(), streamed.is_ok());
        read
    }

    /// A description of a System V object: key, uid, gid, cuid, cgid, mode, id.
    const DESC: [u8; 16] = [0x0a, 14, 0x08, 1, 0x10, 0, 0x18, 0, 0x20, 0, 0x28, 0, 0x30, 0, 0x38, 1];

    #[test]
    fn payloads_of_system_v_are_stepped_over() {
        let with = |more: &[u8]| [&[16 + more.len() as u8, 0, 0, 0][..], &DESC, more].concat();
        let semaphores = image("ipcns-sem-1.img", &[&with(&[0x10, 3]), &[0; 8], &with(&[0x10, 4]), &[0; 8]]).unwrap();
        assert_eq!(semaphores.with_payloads().map(|(_, payload)| payload.length).collect::<Vec<_>>(), [8, 8]);
        let segments = image("ipcns-shm-1.img", &[&with(&[0x10, 5]), &[0; 8], &with(&[0x10, 5, 0x18, 1])]).unwrap();
        assert_eq!(segments.with_payloads().map(|(_, payload)| payload.length).collect::<Vec<_>>(), [8, 0]);
        let queue = [&with(&[0x10, 1, 0x18, 2])[..], &[4, 0, 0, 0, 0x08, 1, 0x10, 3], &[0; 8], &[4, 0, 0, 0, 0x08, 1, 0x10, 9], &[0; 16]];
        let queues = image("ipcns-msg-1.img", &queue).unwrap();
        assert_eq!((queues.len(), queues.with_payloads().next().unwrap().1.length), (1, 40));
        assert!(image("ipcns-msg-1.img", &queue[..4]).is_err());
    }

    #[test]
    fn lengths_that_lie_take_no_memory() {
        assert!(image("pstree.img", &[&[0xff, 0xff, 0xff, 0xff, 1]]).is_err());
        assert!(image("sk-queues.img", &[&[4, 0, 0, 0, 0x08, 1, 0x10, 9], &[0; 8]]).is_err());
    }
}
