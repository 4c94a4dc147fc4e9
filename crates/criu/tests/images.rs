//! Images of a real dump: a program with children, threads, pipes, sockets of every kind, locks, unlinked files and shared memory (CRIU 4.2.1, x86-64).
//! Memory pages are left out of the fixture and made again as zeros of the same length.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use godwit_criu::Problem;
use godwit_criu::images::{seal, verify};
use tempfile::TempDir;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// A directory as CRIU left it.
fn dumped() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(Path::new(FIXTURES).join("everything")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    let pages: BTreeMap<String, u64> = serde_json::from_slice(&fs::read(Path::new(FIXTURES).join("everything.pages.json")).unwrap()).unwrap();
    for (name, length) in pages {
        fs::File::create(directory.path().join(name)).unwrap().set_len(length).unwrap();
    }
    directory
}

fn metadata(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).filter(|name| !name.starts_with("pages-")).collect();
    names.sort();
    names
}

#[test]
fn a_whole_dump_is_understood() {
    let directory = dumped();
    let unsealed = verify(directory.path()).unwrap();
    let manifest = seal(directory.path()).unwrap();
    let summary = verify(directory.path()).unwrap();
    assert_eq!(unsealed.processes, summary.processes);
    assert_eq!(summary.files as usize, manifest.files.len());
    assert_eq!(summary.lazy_pages, 0);
    assert!(summary.pages > 10_000, "{}", summary.pages);
    let shape: Vec<_> = summary.processes.iter().map(|process| (process.pid, process.ppid, process.threads.len(), process.comm.as_str())).collect();
    assert_eq!(shape, [(1, 0, 3, "python3"), (8, 1, 1, "python3"), (9, 1, 1, "python3"), (10, 1, 1, "python3"), (11, 10, 1, "python3")]);
    assert_eq!(summary.processes[2].sid, 9, "the second child has a session of its own");
}

#[test]
fn every_truncation_of_every_metadata_image_is_refused() {
    let directory = dumped();
    seal(directory.path()).unwrap();
    for name in metadata(directory.path()) {
        let path = directory.path().join(&name);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::File::options().write(true).open(&path).unwrap().set_len(length as u64).unwrap();
            let problem = verify(directory.path()).expect_err(&format!("{name} with {length} of {} bytes", whole.len()));
            assert_eq!(problem.failure().reason, "ImagesDamaged");
        }
        fs::write(&path, whole).unwrap();
    }
    verify(directory.path()).unwrap();
}

#[test]
fn without_a_manifest_a_torn_entry_is_refused() {
    let directory = dumped();
    for name in metadata(directory.path()).into_iter().filter(|name| Path::new(name).extension().is_some_and(|end| end == "img")) {
        let path = directory.path().join(&name);
        let whole = fs::read(&path).unwrap();
        // Where entries end, a shorter file is well formed: there only the references from one image to another can tell.
        let mut ends = Vec::new();
        let mut at = if name == "inventory.img" { 4 } else { 8 };
        while let Some(word) = whole.get(at..at + 4) {
            ends.push(at);
            at += 4 + u32::from_le_bytes(word.try_into().unwrap()) as usize;
        }
        let raw = ["ghost-file", "pipes-data", "fifo-data", "sk-queues", "tcp-stream"].iter().any(|kind| name.starts_with(kind));
        for length in (0..whole.len()).step_by(if whole.len() > 600 { 13 } else { 1 }).filter(|length| !ends.contains(length) && !raw) {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(verify(directory.path()).is_err(), "{name} with {length} of {} bytes", whole.len());
        }
        // These say what else must be there, so that not even whole entries may be missing.
        if ["pstree", "pagemap-", "core-", "inventory", "mm-", "ids-", "fs-"].iter().any(|kind| name.starts_with(kind)) {
            for length in &ends {
                fs::write(&path, &whole[..*length]).unwrap();
                let refused = verify(directory.path()).is_err();
                assert!(refused || (name.starts_with("pagemap-") && *length > 8), "{name} without the entry at {length}");
            }
        }
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn a_missing_image_is_named() {
    for sealed in [true, false] {
        let directory = dumped();
        if sealed {
            seal(directory.path()).unwrap();
        }
        let needed =
            ["inventory.img", "pstree.img", "core-1.img", "core-9.img", "mm-10.img", "pagemap-11.img", "fdinfo-2.img", "pages-3.img", "descriptors.json"];
        for name in needed {
            let aside = directory.path().with_extension("aside");
            fs::rename(directory.path().join(name), &aside).unwrap();
            match verify(directory.path()) {
                Err(Problem::MissingImage { file }) => assert_eq!(file, name),
                other => panic!("{name}: {other:?}"),
            }
            fs::rename(&aside, directory.path().join(name)).unwrap();
        }
    }
}

#[test]
fn pages_must_have_the_length_that_the_maps_say() {
    let directory = dumped();
    let path = directory.path().join("pages-4.img");
    let length = fs::metadata(&path).unwrap().len();
    for wrong in [0, 1, length - 1, length - 4096, length + 1, length + 4096] {
        fs::File::options().write(true).open(&path).unwrap().set_len(wrong).unwrap();
        match verify(directory.path()) {
            Err(Problem::Damaged { file, .. }) => assert_eq!(file, "pages-4.img"),
            other => panic!("{wrong}: {other:?}"),
        }
    }
}

#[test]
fn a_changed_byte_and_a_stranger_are_refused() {
    let directory = dumped();
    seal(directory.path()).unwrap();
    for name in metadata(directory.path()).into_iter().filter(|name| name != "manifest.json") {
        let path = directory.path().join(&name);
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 0x10;
        fs::write(&path, changed).unwrap();
        assert!(verify(directory.path()).is_err(), "{name}");
        fs::write(&path, whole).unwrap();
    }
    fs::write(directory.path().join("core-99.img"), "").unwrap();
    assert!(verify(directory.path()).is_err());
    fs::remove_file(directory.path().join("core-99.img")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link.img")).unwrap();
    assert!(verify(directory.path()).is_err());
}
