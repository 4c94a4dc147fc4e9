//! Images of real dumps (CRIU 4.2.1, x86-64, runc), as `scripts/criu-fixtures` makes them.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// A program with children, threads, pipes, sockets of every kind, locks, unlinked files and shared memory. Its memory pages are zeros.
pub fn everything() -> TempDir {
    let directory = unpacked("everything");
    let pages: BTreeMap<String, u64> = serde_json::from_slice(&fs::read(Path::new(FIXTURES).join("everything.pages.json")).unwrap()).unwrap();
    for (name, length) in pages {
        fs::File::create(directory.path().join(name)).unwrap().set_len(length).unwrap();
    }
    directory
}

/// A shell with a child, pages and all.
pub fn shell() -> TempDir {
    unpacked("shell")
}

/// An archive that a real runtime wrote: `crio` or `containerd`. Both of the same pod: a shell that made one file and removed two.
pub fn archive(name: &str) -> PathBuf {
    Path::new(FIXTURES).join(format!("{name}.tar.gz"))
}

fn unpacked(name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let packed = fs::File::open(Path::new(FIXTURES).join(format!("{name}.tar.gz"))).unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(packed)).unpack(directory.path()).unwrap();
    directory
}

/// Names of everything but memory pages, sorted.
pub fn metadata(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("pages-")).collect();
    names.sort();
    names
}
