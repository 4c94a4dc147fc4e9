//! Checkpoint archives as CRI-O, Podman and containerd write them: what is in them, and what is missing.
//!
//! ```text
//!   CRI-O       checkpoint/  config.dump  spec.dump  bind.mounts  rootfs-diff.tar  dump.log  stats-dump
//!   containerd  checkpoint/  config.dump  spec.dump  status.dump  container.log  rootfs-diff.tar  dump.log
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::Value;

/// Largest text that is read out of an archive, in bytes.
const LARGEST: u64 = 64 << 20;

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Name and text of each log.
    pub logs: Vec<(String, String)>,
    /// What there is to know, one sentence each.
    pub facts: Vec<String>,
}

/// Names and sizes, and the texts that are of interest.
#[derive(Default)]
struct Content {
    sizes: BTreeMap<String, u64>,
    texts: BTreeMap<String, String>,
}

/// Looks into an archive; `None` when the file is none.
///
/// # Errors
/// When it is damaged or cannot be read.
pub fn archive(file: &mut File) -> io::Result<Option<Found>> {
    let mut head = [0u8; 512];
    let mut length = 0;
    while length < head.len() {
        match file.read(&mut head[length..])? {
            0 => break,
            count => length += count,
        }
    }
    file.seek(SeekFrom::Start(0))?;
    if head.starts_with(&[0x1f, 0x8b]) {
        return tar(flate2::read::GzDecoder::new(file)).map(Some);
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Err(io::Error::other("it is compressed with zstd: unpack it first (zstd -d)"));
    }
    // tar(5): `ustar` at 257.
    if head.get(257..262) == Some(b"ustar") { tar(file).map(Some) } else { Ok(None) }
}

fn tar(reader: impl Read) -> io::Result<Found> {
    let mut archive = tar::Archive::new(reader);
    let mut content = Content::default();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        let size = entry.size();
        content.add(name, size, &mut entry)?;
    }
    Ok(content.found())
}

/// Looks into a directory, two levels deep.
///
/// # Errors
/// When it cannot be read.
pub fn directory(path: &Path) -> io::Result<Found> {
    let mut content = Content::default();
    let mut folders = vec![(path.to_path_buf(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() && depth < 2 {
                folders.push((entry.path(), format!("{name}/"), depth + 1));
            } else if kind.is_file() {
                content.add(name, entry.metadata()?.len(), &mut File::open(entry.path())?)?;
            }
        }
    }
    Ok(content.found())
}

impl Content {
    fn add(&mut self, name: String, size: u64, reader: &mut impl Read) -> io::Result<()> {
        let wanted = name.ends_with(".log") || name.ends_with(".dump") || name == "index.json";
        if wanted {
            let mut bytes = Vec::new();
            reader.take(LARGEST).read_to_end(&mut bytes)?;
            self.texts.insert(name.clone(), String::from_utf8_lossy(&bytes).into_owned());
        }
        self.sizes.insert(name, size);
        Ok(())
    }

    fn json(&self, name: &str) -> Value {
        self.texts.get(name).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    fn found(self) -> Found {
        let is_log = |name: &str| name.ends_with("dump.log") || name.ends_with("restore.log") || name.ends_with("runc.log") || name.ends_with("criu.log");
        let logs = self.texts.iter().filter(|(name, _)| is_log(name)).map(|(name, text)| (name.clone(), text.clone())).collect();
        let mut facts = Vec::new();
        if self.sizes.contains_key("index.json") && self.sizes.contains_key("oci-layout") {
            facts.push("an OCI image: the checkpoint is in its layer (blobs/sha256/…); unpack that and explain it".to_owned());
        }
        if self.sizes.contains_key("config.dump") {
            self.checkpoint(&mut facts);
        }
        Found { logs, facts }
    }

    fn checkpoint(&self, facts: &mut Vec<String>) {
        let (config, spec) = (self.json("config.dump"), self.json("spec.dump"));
        let word = |name: &str| config[name].as_str().unwrap_or("unknown").to_owned();
        facts.push(format!("a checkpoint of container {} ({}), image {}, runtime {}", word("name"), word("id"), word("rootfsImageName"), word("runtime")));
        let images = self.sizes.iter().filter(|(name, _)| name.starts_with("checkpoint/") && name.ends_with(".img"));
        let (count, bytes) = images.fold((0_u32, 0), |(count, bytes), (_, size)| (count + 1, bytes + size));
        facts.push(format!("{count} images, {}", crate::text::bytes(bytes)));
        if !self.sizes.contains_key("checkpoint/inventory.img") {
            facts.push("checkpoint/inventory.img is missing: CRIU cannot restore this".to_owned());
        }
        for (name, _) in self.sizes.iter().filter(|(name, size)| name.starts_with("checkpoint/pages-") && **size == 0) {
            facts.push(format!("{name} is empty: if there is a pagemap for it, CRIU would read for ever; do not restore this"));
        }
        let annotated = spec["annotations"]["io.kubernetes.cri-o.Annotations"].is_string();
        match (annotated, self.sizes.contains_key("status.dump")) {
            (true, false) => facts.push("CRI-O's layout: containerd cannot restore it (it wants status.dump)".to_owned()),
            (false, true) => facts.push("containerd's layout: CRI-O cannot restore it (spec.dump lacks io.kubernetes.cri-o.Annotations)".to_owned()),
            (false, false) => {
                facts.push("neither CRI-O (spec.dump lacks io.kubernetes.cri-o.Annotations) nor containerd (no status.dump) can restore it as it is".to_owned())
            }
            (true, true) => {}
        }
    }
}
