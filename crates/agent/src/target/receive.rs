//! Takes in CRIU's images: each file written as it arrives, closed when its length and digest match what the source says.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use blake3::Hasher;
use godwit_rpc::v1::{FileChunk, Receipt};

/// One stream of images into one directory.
pub struct Images {
    directory: PathBuf,
    open: HashMap<String, (File, Hasher, u64)>,
    digests: BTreeMap<String, String>,
    receipt: Receipt,
    whole: Hasher,
}

impl Images {
    /// Receives into an empty directory (mode 0700, made here).
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn into(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self { directory: directory.to_owned(), open: HashMap::new(), digests: BTreeMap::new(), receipt: Receipt::default(), whole: Hasher::new() })
    }

    /// Takes one piece.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is not a plain file name, `InvalidData` for a length or digest that does not match; or the error of the tmpfs.
    pub fn take(&mut self, chunk: &FileChunk) -> io::Result<()> {
        if !self.open.contains_key(&chunk.path) {
            let file = self.create(&chunk.path)?;
            self.open.insert(chunk.path.clone(), (file, Hasher::new(), 0));
        }
        let Some((file, hash, length)) = self.open.get_mut(&chunk.path) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        file.write_all(&chunk.data)?;
        hash.update(&chunk.data);
        *length += chunk.data.len() as u64;
        self.receipt.bytes += chunk.data.len() as u64;
        if chunk.end {
            let digest = hash.finalize();
            if chunk.length != *length || chunk.digest != digest.as_bytes() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("image {} arrived damaged: {length} bytes of {}", chunk.path, chunk.length)));
            }
            self.whole.update(digest.as_bytes());
            self.receipt.files += 1;
            self.open.remove(&chunk.path);
            self.digests.insert(chunk.path.clone(), digest.to_hex().to_string());
        }
        Ok(())
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
        if !plain {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not the name of an image")));
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.directory.join(name))
    }

    /// Ends the stream. The images' own list gets the digests of the memory pages, so that these are looked at once more before the restore.
    ///
    /// # Errors
    /// `UnexpectedEof` when a file has no end; or the error of the tmpfs.
    pub fn finish(mut self) -> io::Result<Receipt> {
        if let Some(name) = self.open.keys().next() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("image {name} is cut off")));
        }
        godwit_criu::images::complete(&self.directory, &self.digests)?;
        self.receipt.digest = self.whole.finalize().as_bytes().to_vec();
        Ok(self.receipt)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn piece(path: &str, data: &[u8]) -> FileChunk {
        FileChunk { path: path.into(), data: data.to_vec(), ..FileChunk::default() }
    }

    fn end(path: &str, whole: &[u8]) -> FileChunk {
        FileChunk { path: path.into(), end: true, digest: blake3::hash(whole).as_bytes().to_vec(), length: whole.len() as u64, ..FileChunk::default() }
    }

    fn images(name: &str) -> (Images, PathBuf) {
        let directory = std::env::temp_dir().join(format!("godwit-receive-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        (Images::into(&directory).unwrap(), directory)
    }

    #[test]
    fn interleaved_files_arrive_whole() {
        let (mut images, directory) = images("whole");
        for chunk in [piece("a.img", b"on"), piece("b.img", b"two"), piece("a.img", b"e"), end("a.img", b"one"), end("b.img", b"two")] {
            images.take(&chunk).unwrap();
        }
        let receipt = images.finish().unwrap();
        assert_eq!((receipt.files, receipt.bytes), (2, 6));
        assert_eq!(fs::read(directory.join("a.img")).unwrap(), b"one");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn damage_and_cuts_are_refused() {
        let (mut received, directory) = images("damage");
        received.take(&piece("a.img", b"onx")).unwrap();
        assert_eq!(received.take(&end("a.img", b"one")).unwrap_err().kind(), io::ErrorKind::InvalidData);
        fs::remove_dir_all(&directory).unwrap();
        let (mut received, directory) = images("cut");
        received.take(&piece("a.img", b"one")).unwrap();
        assert_eq!(received.finish().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn names_stay_inside_the_directory() {
        let (mut images, directory) = images("names");
        for name in ["../x", "/etc/passwd", "a/b", ".hidden", ""] {
            assert_eq!(images.take(&piece(name, b"x")).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
