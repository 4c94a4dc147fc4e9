//! Checkpoint archives as CRI-O, Podman and containerd write them, OCI images of them, and plain directories of images: read in one pass, whatever they are
//! packed with.
//!
//! ```text
//!   CRI-O       checkpoint/  config.dump  spec.dump  bind.mounts  rootfs-diff.tar  deleted.files  io.kubernetes.cri-o.LogPath  dump.log  stats-dump
//!   containerd  checkpoint/  config.dump  spec.dump  status.dump  status  rootfs-diff.tar (gzip, whiteouts)  container.log      dump.log  stats-dump
//!   OCI image   index.json ─▶ manifest ─▶ one layer, which is one of the above                                                       oci.rs
//! ```
//! Of images only messages are kept, of other files those that say something; all bytes pass by once, and their digests are taken on the way.

pub mod convert;
mod name;
pub mod oci;
mod rootfs;
mod unpack;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::Problem;
use crate::images::{MANIFEST, Manifest, Set, Stream, Summary};
use crate::inspect::Pages;

pub use name::clean;
pub use unpack::{Packing, unpacked};

/// The folder of the images in an archive.
pub const IMAGES: &str = "checkpoint/";
/// What CRI-O has in `spec.dump` and cannot restore without: the container's annotations, as JSON.
pub const CRIO_ANNOTATIONS: &str = "io.kubernetes.cri-o.Annotations";
/// Mounts that CRI-O makes by itself, and refuses to look for in what it is ordered to make (server/container_restore.go, `ignoreMounts`); containerd makes the same, and fewer.
pub const MADE_BY_CRIO: [&str; 13] = [
    "/proc",
    "/dev",
    "/dev/pts",
    "/dev/mqueue",
    "/sys",
    "/sys/fs/cgroup",
    "/dev/shm",
    "/etc/resolv.conf",
    "/etc/hostname",
    "/etc/passwd",
    "/etc/group",
    "/run/secrets",
    "/run/.containerenv",
];
/// Largest text that is kept of an archive, in bytes.
const LARGEST: u64 = 64 << 20;

/// Who wrote an archive, or could restore it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Layout {
    /// Only images, as CRIU wrote them.
    #[default]
    Images,
    /// CRI-O's.
    CriO,
    /// containerd's.
    Containerd,
    /// Podman's, or one that neither of the two can restore as it is.
    Other,
}

/// An archive that was read.
#[derive(Debug, Default)]
pub struct Archive {
    /// Who could restore it.
    pub layout: Layout,
    /// Its images.
    pub set: Set,
    /// Names and lengths of everything else.
    pub sizes: BTreeMap<String, u64>,
    /// `config.dump`: what was checkpointed, and when.
    pub config: Value,
    /// `spec.dump`: the container's OCI configuration.
    pub spec: Value,
    /// `status.dump`: what containerd knew of the container.
    pub status: Value,
    /// Texts: logs and lists, by name.
    pub texts: BTreeMap<String, String>,
    /// Where files are in the file that was read, if it was not compressed.
    places: BTreeMap<String, u64>,
    file: Option<File>,
    digests: BTreeMap<String, String>,
    manifest: Option<Manifest>,
    /// Whether it is known before that there is no list of digests: then nothing is read but messages.
    unsealed: bool,
    /// The first image that could not be read: everything else may still tell something.
    damage: Option<Problem>,
}

impl Archive {
    /// Reads a directory or a file of any of the kinds above.
    ///
    /// # Errors
    /// [`Problem::Read`] if it cannot be read or is nothing of the kind. Damaged images are not an error here, but of [`Archive::verify`].
    pub fn open(path: &Path) -> Result<Self, Problem> {
        if path.is_dir() {
            return Self::directory(path);
        }
        let file = File::open(path).map_err(Problem::read(path))?;
        Self::section(&file, 0, u64::MAX, path)
    }

    /// Part of a file.
    fn section(file: &File, start: u64, length: u64, path: &Path) -> Result<Self, Problem> {
        let again = || file.try_clone().map_err(Problem::read(path));
        let (packing, reader) = unpacked(Section { file: again()?, at: start, rest: length }).map_err(Problem::read(path))?;
        let mut archive = Self::default();
        archive.pass(reader).map_err(Problem::read(path))?;
        if packing == Packing::None {
            archive.places.values_mut().for_each(|place| *place += start);
            archive.file = Some(again()?);
        } else {
            archive.places.clear();
        }
        if archive.sizes.contains_key("oci-layout") && archive.texts.contains_key(oci::INDEX) {
            let layer = oci::layer(|name| archive.blob(name))?;
            let place = archive.places.get(&layer).copied().ok_or_else(|| Problem::MissingImage { file: layer.clone() })?;
            let length = archive.sizes.get(&layer).copied().unwrap_or(0);
            return Self::section(file, place, length, path);
        }
        archive.finish();
        Ok(archive)
    }

    fn directory(path: &Path) -> Result<Self, Problem> {
        if path.join("oci-layout").exists() {
            let layer = oci::layer(|name| std::fs::read(path.join(name)).ok())?;
            return Self::open(&path.join(layer));
        }
        let mut archive = Self { unsealed: !path.join(MANIFEST).exists() && !path.join(IMAGES).join(MANIFEST).exists(), ..Self::default() };
        for (folder, prefix) in [(path.to_path_buf(), ""), (path.join(IMAGES), IMAGES)] {
            if !folder.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(&folder).map_err(Problem::read(&folder))? {
                let entry = entry.map_err(Problem::read(&folder))?;
                let meta = entry.metadata().map_err(Problem::read(entry.path()))?;
                if meta.is_file() {
                    let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                    let file = File::open(entry.path()).map_err(Problem::read(entry.path()))?;
                    archive.add(&name, meta.len(), file).map_err(Problem::read(entry.path()))?;
                }
            }
        }
        archive.finish();
        Ok(archive)
    }

    fn pass(&mut self, reader: impl Read) -> io::Result<()> {
        let mut tar = tar::Archive::new(reader);
        for entry in tar.entries()? {
            let entry = entry?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = clean(&entry.path_bytes()).ok_or_else(|| io::Error::other("it holds a file outside itself"))?;
            let (length, place) = (entry.size(), entry.raw_file_position());
            self.places.insert(name.clone(), place);
            self.add(&name, length, entry)?;
        }
        Ok(())
    }

    /// Takes one file. Reads all of it, so that its digest is known, unless there is nothing to compare it with.
    fn add(&mut self, name: &str, length: u64, reader: impl Read) -> io::Result<()> {
        let own = name.strip_prefix(IMAGES);
        let image = own.or_else(|| (!name.contains('/') && crate::images::kind(name).is_some()).then_some(name)).filter(|name| !name.contains('/'));
        let mut reader = Hashing { reader: io::BufReader::with_capacity(32 << 10, reader), hasher: (!self.unsealed).then(blake3::Hasher::new) };
        match image {
            Some(MANIFEST) => {
                let mut text = Vec::new();
                (&mut reader).take(LARGEST).read_to_end(&mut text)?;
                match serde_json::from_slice(&text) {
                    Ok(manifest) => self.manifest = Some(manifest),
                    Err(error) => self.damage = Some(Problem::damaged(MANIFEST, error.to_string())),
                }
            }
            Some(image) => {
                match self.set.add(image, length, Stream(&mut reader)) {
                    Ok(()) => {}
                    Err(Problem::Read { source, .. }) => return Err(source),
                    Err(damage) => {
                        self.set.lengths.insert(image.to_owned(), length);
                        self.damage.get_or_insert(damage);
                    }
                }
                if reader.hasher.is_some() {
                    io::copy(&mut reader, &mut io::sink())?;
                }
                self.digests.extend(reader.hasher.map(|hasher| (image.to_owned(), hasher.finalize().to_hex().to_string())));
            }
            None => {
                if is_text(name) {
                    let mut text = Vec::new();
                    (&mut reader).take(LARGEST).read_to_end(&mut text)?;
                    self.texts.insert(name.to_owned(), String::from_utf8_lossy(&text).into_owned());
                }
                self.sizes.insert(name.to_owned(), length);
            }
        }
        Ok(())
    }

    fn finish(&mut self) {
        let json = |name: &str| self.texts.get(name).and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
        (self.config, self.spec, self.status) = (json("config.dump"), json("spec.dump"), json("status.dump"));
        let annotated = self.spec["annotations"][CRIO_ANNOTATIONS].is_string();
        self.layout = match (self.config.is_object(), annotated, self.status.is_object()) {
            (false, ..) => Layout::Images,
            (true, true, _) => Layout::CriO,
            (true, false, true) => Layout::Containerd,
            (true, false, false) => Layout::Other,
        };
    }

    /// A small file of the archive.
    fn blob(&self, name: &str) -> Option<Vec<u8>> {
        if let Some(text) = self.texts.get(name) {
            return Some(text.clone().into_bytes());
        }
        let (place, length) = (self.places.get(name)?, *self.sizes.get(name)?);
        let mut bytes = vec![0; usize::try_from(length.min(LARGEST)).ok()?];
        self.file.as_ref()?.read_exact_at(&mut bytes, *place).ok()?;
        Some(bytes)
    }

    /// Checks the images: against one another, and against their list of digests if there is one.
    ///
    /// # Errors
    /// [`Problem::MissingImage`] or [`Problem::Damaged`] with the name of the first bad file.
    pub fn verify(&mut self) -> Result<Summary, Problem> {
        if let Some(damage) = self.damage.take() {
            return Err(damage);
        }
        if let Some(manifest) = &self.manifest {
            for (name, expected) in &manifest.files {
                // CRIU's and the runtime's logs and statistics lie beside the images.
                let found = self.digests.get(name).ok_or_else(|| Problem::MissingImage { file: name.clone() })?;
                if self.set.lengths.get(name) != Some(&expected.length) || expected.digest.as_ref().is_some_and(|digest| digest != found) {
                    return Err(Problem::damaged(name, "its content is not what was dumped"));
                }
            }
            if let Some(stranger) = self.digests.keys().find(|name| !manifest.files.contains_key(*name) && !crate::images::is_service(name)) {
                return Err(Problem::damaged(stranger, "it does not belong to this dump"));
            }
        }
        Ok(Summary { sealed: self.manifest.is_some(), ..self.set.check()? })
    }

    /// The logs in it, by name.
    pub fn logs(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_log = |name: &str| ["dump.log", "restore.log", "runc.log", "criu.log"].iter().any(|end| name.ends_with(end));
        self.texts.iter().filter(move |(name, _)| is_log(name)).map(|(name, text)| (name.as_str(), text.as_str()))
    }
}

/// Access to memory pages of an archive that is not compressed.
impl Pages for Archive {
    fn read(&self, name: &str, offset: u64, length: usize) -> Vec<u8> {
        let place = self.places.get(&format!("{IMAGES}{name}")).or_else(|| self.places.get(name));
        let (Some(file), Some(place)) = (&self.file, place) else { return Vec::new() };
        let mut bytes = vec![0; length];
        if file.read_exact_at(&mut bytes, place + offset).is_ok() { bytes } else { Vec::new() }
    }
}

/// Access to memory pages in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a>(
    /// The directory of the images.
    pub &'a Path,
);

impl Pages for Directory<'_> {
    fn read(&self, name: &str, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let read = File::open(self.0.join(name)).and_then(|file| file.read_exact_at(&mut bytes, offset));
        if read.is_ok() { bytes } else { Vec::new() }
    }
}

fn is_text(name: &str) -> bool {
    [".log", ".dump", ".json", ".files", ".mounts"].iter().any(|end| name.ends_with(end)) || matches!(name, "status" | "oci-layout" | "network.status")
}

/// Part of a file, as a stream.
struct Section {
    file: File,
    at: u64,
    rest: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.rest).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        self.rest -= read as u64;
        Ok(read)
    }
}

/// Takes the digest of what passes.
struct Hashing<R> {
    reader: R,
    hasher: Option<blake3::Hasher>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        Ok(read)
    }
}
