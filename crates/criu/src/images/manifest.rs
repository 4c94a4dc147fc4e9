//! `manifest.json`: the names and lengths of all images and the digests of the small ones, written when the dump has ended.
//!
//! An image that lost its last entries is still a well-formed image: only this list tells. The source leaves memory pages out of the digests, for they are
//! streamed with digests of their own; who receives them adds those, and so all that is checked before the restore is what was dumped.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::kind::{self, Body};
use crate::Problem;

/// Name of the file in the image directory.
pub const FILE: &str = "manifest.json";

/// What an image directory holds.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// By name.
    pub files: BTreeMap<String, File>,
}

/// One file.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// In bytes.
    pub length: u64,
    /// blake3, in hexadecimal; none for memory pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Lists a directory after CRIU has ended and writes the list into it. Costs about a millisecond.
///
/// # Errors
/// If something cannot be read or written.
pub fn seal(directory: &Path) -> io::Result<Manifest> {
    list(directory, is_pages)
}

/// As [`seal`], with the digests of memory pages too: for images that stay where they are. Reads all of them.
///
/// # Errors
/// If something cannot be read or written.
pub fn seal_whole(directory: &Path) -> io::Result<Manifest> {
    list(directory, |_| false)
}

fn list(directory: &Path, without_digest: impl Fn(&str) -> bool) -> io::Result<Manifest> {
    let mut manifest = Manifest::default();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == FILE {
            continue;
        }
        let digest = if without_digest(&name) { None } else { Some(digest(&entry.path())?) };
        manifest.files.insert(name, File { length: entry.metadata()?.len(), digest });
    }
    fs::write(directory.join(FILE), serde_json::to_vec(&manifest)?)?;
    Ok(manifest)
}

/// Adds digests (blake3, in hexadecimal, by name) that the list in a directory lacks. Without a list nothing is done.
///
/// # Errors
/// If the list cannot be read or written.
pub fn complete(directory: &Path, digests: &BTreeMap<String, String>) -> io::Result<()> {
    let path = directory.join(FILE);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text?,
    };
    let mut manifest: Manifest = serde_json::from_slice(&text)?;
    for (name, file) in manifest.files.iter_mut().filter(|(_, file)| file.digest.is_none()) {
        file.digest = digests.get(name).cloned();
    }
    fs::write(path, serde_json::to_vec(&manifest)?)
}

/// Takes lengths and digests of these files again, if there is a list.
///
/// # Errors
/// If the list cannot be read or written.
pub fn renew(directory: &Path, names: &[&str]) -> io::Result<()> {
    let path = directory.join(FILE);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text?,
    };
    let mut manifest: Manifest = serde_json::from_slice(&text)?;
    for name in names {
        let path = directory.join(name);
        manifest.files.insert((*name).to_owned(), File { length: fs::metadata(&path)?.len(), digest: Some(digest(&path)?) });
    }
    fs::write(path, serde_json::to_vec(&manifest)?)
}

/// Compares a directory with its list, if it has one.
pub fn check(directory: &Path, lengths: &BTreeMap<String, u64>) -> Result<Option<Manifest>, Problem> {
    if !lengths.contains_key(FILE) {
        return Ok(None);
    }
    let path = directory.join(FILE);
    let text = fs::read(&path).map_err(Problem::read(&path))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| Problem::damaged(FILE, error.to_string()))?;
    for (name, file) in &manifest.files {
        let length = *lengths.get(name).ok_or_else(|| Problem::MissingImage { file: name.clone() })?;
        if length != file.length {
            return Err(Problem::damaged(name, format!("{length} bytes instead of {}", file.length)));
        }
    }
    for (name, expected) in manifest.files.iter().filter_map(|(name, file)| Some((name, file.digest.as_ref()?))) {
        let path = directory.join(name);
        if digest(&path).map_err(Problem::read(&path))? != *expected {
            return Err(Problem::damaged(name, "its content is not what was dumped"));
        }
    }
    match lengths.keys().find(|name| *name != FILE && !manifest.files.contains_key(*name)) {
        Some(stranger) => Err(Problem::damaged(stranger, "it does not belong to this dump")),
        None => Ok(Some(manifest)),
    }
}

fn is_pages(name: &str) -> bool {
    name.starts_with("pages-") && kind::of(name).is_some_and(|kind| kind.body == Body::Raw)
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_receives_pages_adds_their_digests() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("pages-1.img"), b"page").unwrap();
        seal(directory.path()).unwrap();
        let lengths = BTreeMap::from([("pages-1.img".to_owned(), 4), (FILE.to_owned(), 0)]);
        fs::write(directory.path().join("pages-1.img"), b"pagE").unwrap();
        assert!(check(directory.path(), &lengths).is_ok());
        complete(directory.path(), &BTreeMap::from([("pages-1.img".to_owned(), blake3::hash(b"page").to_hex().to_string())])).unwrap();
        assert!(check(directory.path(), &lengths).is_err());
        fs::write(directory.path().join("pages-1.img"), b"page").unwrap();
        assert!(check(directory.path(), &lengths).is_ok());
    }
}
