//! Images of real dumps are understood, and what is wrong with them is found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;

use common::{everything as dumped, metadata};
use godwit_criu::Problem;
use godwit_criu::images::{MANIFEST, Set, seal, seal_whole, verify};

#[test]
fn a_whole_dump_is_understood() {
    let directory = dumped();
    let unsealed = verify(directory.path()).unwrap();
    let manifest = seal(directory.path()).unwrap();
    let summary = verify(directory.path()).unwrap();
    assert_eq!(unsealed.processes, summary.processes);
    assert_eq!(summary.files as usize, manifest.files.len());
    assert_eq!((unsealed.sealed, summary.sealed, summary.unknown), (false, true, 0));
    assert_eq!(summary.lazy_pages, 0);
    assert!(summary.pages > 10_000, "{}", summary.pages);
    let shape: Vec<_> = summary.processes.iter().map(|process| (process.pid, process.ppid, process.threads.len(), process.comm.as_str())).collect();
    assert_eq!(shape, [(1, 0, 3, "python3"), (8, 1, 1, "python3"), (9, 1, 1, "python3"), (10, 1, 1, "python3"), (11, 10, 1, "python3")]);
    assert_eq!(summary.processes[2].sid, 9, "the second child has a session of its own");
    assert!(summary.processes.iter().all(|process| process.alive));
    let tcp = |listens: bool| summary.sockets.iter().filter(move |socket| socket.tcp && socket.remote.is_none() == listens);
    let listening = tcp(true).next().expect("a listener");
    // The connection of the program with itself: each end has the other's address.
    let ends: Vec<_> = tcp(false).collect();
    assert!(
        ends.iter().any(|one| one.local == listening.local && ends.iter().any(|other| Some(other.local) == one.remote && other.remote == Some(one.local))),
        "{ends:?}"
    );
}

#[test]
fn every_truncation_of_every_metadata_image_is_refused() {
    let directory = dumped();
    seal(directory.path()).unwrap();
    for name in metadata(directory.path()) {
        let path = directory.path().join(&name);
        let whole = fs::read(&path).unwrap();
        // Of the one large file (the content of an unlinked one) not quite every length.
        for length in (0..whole.len()).step_by(whole.len() / 5000 + 1) {
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
        let step = if whole.len() > 100_000 {
            7919
        } else if whole.len() > 600 {
            13
        } else {
            1
        };
        let raw = ["ghost-file", "pipes-data", "fifo-data", "sk-queues", "tcp-stream"].iter().any(|kind| name.starts_with(kind));
        for length in (0..whole.len()).step_by(step).filter(|length| !ends.contains(length) && !raw) {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(verify(directory.path()).is_err(), "{name} with {length} of {} bytes", whole.len());
        }
        // These say what else must be there, so that not even whole entries may be missing.
        if ["pstree", "pagemap-", "core-", "inventory", "mm-", "ids-", "fs-", "files", "memfd", "remap-fpath"].iter().any(|kind| name.starts_with(kind)) {
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

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let directory = dumped();
    let one = tempfile::tempdir().unwrap();
    for name in metadata(directory.path()) {
        let mut bytes = fs::read(directory.path().join(&name)).unwrap();
        let path = one.path().join(&name);
        fs::write(&path, &bytes).unwrap();
        seal(one.path()).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        // One bit of every byte; of the one large file (the content of an unlinked one) not quite every byte.
        for at in (0..bytes.len()).step_by(bytes.len() / 20_000 + 1) {
            bytes[at] ^= 1 << (at % 8);
            std::os::unix::fs::FileExt::write_all_at(&file, &bytes[at..=at], at as u64).unwrap();
            match verify(one.path()) {
                Err(Problem::Damaged { file, what }) if file == name && what.contains("not what was dumped") => {}
                other => panic!("{name}, byte {at}: {other:?}"),
            }
            bytes[at] ^= 1 << (at % 8);
            std::os::unix::fs::FileExt::write_all_at(&file, &bytes[at..=at], at as u64).unwrap();
        }
        fs::remove_file(path).unwrap();
        fs::remove_file(one.path().join(MANIFEST)).unwrap();
    }
}

#[test]
fn a_flipped_bit_in_the_list_itself_is_refused() {
    let directory = common::shell();
    seal_whole(directory.path()).unwrap();
    let path = directory.path().join(MANIFEST);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() * 8 {
        let mut changed = whole.clone();
        changed[at / 8] ^= 1 << (at % 8);
        fs::write(&path, changed).unwrap();
        assert!(verify(directory.path()).is_err(), "bit {at}");
    }
}

#[test]
fn a_changed_page_is_refused() {
    let directory = common::shell();
    seal_whole(directory.path()).unwrap();
    verify(directory.path()).unwrap();
    let path = directory.path().join("pages-1.img");
    let whole = fs::read(&path).unwrap();
    for page in 0..whole.len() / 4096 {
        let mut changed = whole.clone();
        changed[page * 4096 + 17 * page % 4096] ^= 4;
        fs::write(&path, changed).unwrap();
        assert!(matches!(verify(directory.path()), Err(Problem::Damaged { file, .. }) if file == "pages-1.img"), "page {page}");
    }
}

/// Without a list of digests: references between images tell.
#[test]
fn what_another_image_speaks_of_must_be_there() {
    let directory = dumped();
    for name in metadata(directory.path()) {
        let aside = directory.path().with_extension("aside");
        fs::rename(directory.path().join(&name), &aside).unwrap();
        let refused = verify(directory.path()).is_err();
        // Nothing speaks of these: a process without any would have no such images at all.
        let free = ["filelocks", "pipes-data", "fifo-data", "sk-queues", "tcp-stream", "stats-dump", "timens", "mountpoints", "netns", "cpuinfo"];
        assert!(refused || free.iter().any(|kind| name.starts_with(kind)), "{name}");
        fs::rename(&aside, directory.path().join(&name)).unwrap();
    }
    let before = fs::read(directory.path().join("fdinfo-2.img")).unwrap();
    for (from, to) in
        [("fdinfo-2.img", "fdinfo-99.img"), ("ghost-file-1.img", "ghost-file-77.img"), ("core-8.img", "core-88.img"), ("pages-3.img", "pages-9.img")]
    {
        fs::rename(directory.path().join(from), directory.path().join(to)).unwrap();
        assert!(verify(directory.path()).is_err(), "{from} → {to}");
        fs::rename(directory.path().join(to), directory.path().join(from)).unwrap();
    }
    assert_eq!(fs::read(directory.path().join("fdinfo-2.img")).unwrap(), before);
    verify(directory.path()).unwrap();
}

#[test]
fn a_large_pages_file_is_not_loaded() {
    // As long as the map says: it is only looked at.
    let directory = dumped();
    let before = peak();
    let set = Set::open(directory.path()).unwrap();
    assert!(set.lengths.iter().filter(|(name, _)| name.starts_with("pages-")).map(|(_, length)| length).sum::<u64>() > 50 << 20);
    assert!(peak() - before < 8 << 20, "{} bytes", peak() - before);
}

/// Most memory that this process has had, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
