//! What an archive is compressed with.

use std::io::{self, Read};

/// A compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// None: a plain tar.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// Looks at the first bytes, and takes the compression away.
///
/// # Errors
/// If nothing can be read, or it is neither a tar nor a compressed file.
pub fn unpacked<'a>(mut reader: impl Read + 'a) -> io::Result<(Packing, Box<dyn Read + 'a>)> {
    let mut head = Vec::with_capacity(512);
    (&mut reader).take(512).read_to_end(&mut head)?;
    let packing = match head.as_slice() {
        [0x1f, 0x8b, ..] => Packing::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
        // tar(5): `ustar` at 257; an archive without files is zeros.
        _ if head.get(257..262) == Some(b"ustar") || (head.len() == 512 && head.iter().all(|byte| *byte == 0)) => Packing::None,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no archive: neither tar, nor compressed with gzip or zstd")),
    };
    let whole = io::BufReader::with_capacity(128 << 10, io::Cursor::new(head).chain(reader));
    Ok((
        packing,
        match packing {
            Packing::None => Box::new(whole),
            Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(whole)),
            Packing::Zstd => Box::new(zstd::Decoder::new(whole)?),
        },
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    #[test]
    fn every_packing_is_taken_away() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_cksum();
        tar.append_data(&mut header, "x", b"hi".as_slice()).unwrap();
        let plain = tar.into_inner().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let all = [(Packing::None, plain.clone()), (Packing::Gzip, gzip.finish().unwrap()), (Packing::Zstd, zstd::encode_all(plain.as_slice(), 1).unwrap())];
        for (expected, bytes) in all {
            let (packing, mut reader) = unpacked(bytes.as_slice()).unwrap();
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            assert_eq!((packing, read), (expected, plain.clone()));
        }
        assert!(unpacked(b"something else".as_slice()).is_err() && unpacked(b"".as_slice()).is_err());
    }
}
