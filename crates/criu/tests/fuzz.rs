//! Every parser against mutations of real files: nothing may panic, hang or take memory for what is not there.
//!
//! As an ordinary test each target runs for some seconds, always with the same seed. `make fuzz` runs each for minutes with a new seed. A failure leaves its
//! input in the temporary folder and says how to repeat it.
//! `GODWIT_FUZZ_SECONDS`: seconds for each target (default 3). `GODWIT_FUZZ_SEED`: the seed.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use godwit_criu::adapt::{Change, adapt};
use godwit_criu::archive::{Archive, oci};
use godwit_criu::images::{Image, MANIFEST, Set, Stream, decode, kind, rearm, seal_whole, verify};
use godwit_criu::inspect::{Pages, inspect};
use godwit_criu::{explain, version};

/// Numbers that follow from a seed (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }
}

/// Some changes to bytes; parts of another file may get into them.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], numbers: &mut Numbers) {
    const WORDS: [&[u8]; 8] = [
        &[0xff; 4],
        &[0; 4],
        &[0xff, 0xff, 0xff, 0x7f],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80],
        &[0, 0x10, 0, 0],
        b"../",
        b"\"\0",
    ];
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len() + 1);
        let length = numbers.below(24).min(bytes.len() - at);
        match numbers.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            2 if at < bytes.len() => bytes[at] = numbers.next() as u8,
            3 => drop(bytes.drain(at..at + length)),
            4 => {
                let again = bytes[at..at + length].to_vec();
                bytes.splice(at..at, again);
            }
            5 => bytes.truncate(at),
            6 => {
                let word = WORDS[numbers.below(WORDS.len())];
                let end = (at + if numbers.below(2) == 0 { word.len() } else { 0 }).min(bytes.len());
                bytes.splice(at..end, word.iter().copied());
            }
            _ => {
                let from = numbers.below(other.len() + 1);
                let until = (from + numbers.below(64)).min(other.len());
                bytes.splice(at..at, other[from..until].iter().copied());
            }
        }
    }
}

/// Runs a target on mutations of a corpus until its time is over.
fn run<T>(name: &str, corpus: &[(T, Vec<u8>)], mut target: impl FnMut(&T, &[u8])) {
    let of = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seconds, seed) = (of("GODWIT_FUZZ_SECONDS").unwrap_or(3), of("GODWIT_FUZZ_SEED").unwrap_or(1));
    let (start, mut round) = (Instant::now(), 0_u64);
    while start.elapsed() < Duration::from_secs(seconds) {
        round += 1;
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(round) | 1);
        numbers.next();
        let (context, bytes) = &corpus[numbers.below(corpus.len())];
        let mut input = bytes.clone();
        let other = numbers.below(corpus.len());
        mutate(&mut input, &corpus[other].1, &mut numbers);
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| target(context, &input)));
        let late = began.elapsed() > Duration::from_secs(10);
        if outcome.is_err() || late {
            let path = std::env::temp_dir().join(format!("godwit-fuzz-{name}-{seed}-{round}"));
            fs::write(&path, &input).unwrap();
            panic!("{name}: {} in round {round} of GODWIT_FUZZ_SEED={seed}; the input is {}", if late { "too slow" } else { "panicked" }, path.display());
        }
    }
    println!("{name}: {round} inputs in {seconds} s, seed {seed}");
    assert!(peak() < 1 << 30, "{name} took {} bytes", peak());
}

/// Most memory that this process has had, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The metadata of both dumps, without the one large file.
fn images() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for directory in [common::everything(), common::shell()] {
        for name in common::metadata(directory.path()) {
            let bytes = fs::read(directory.path().join(&name)).unwrap();
            if bytes.len() < 100_000 {
                all.push((name, bytes));
            }
        }
    }
    all
}

/// Pages that are whatever is asked for.
struct Zeros;

impl Pages for Zeros {
    fn read(&self, _: &str, _: u64, length: usize) -> Vec<u8> {
        vec![b'a'; length.min(1 << 20)]
    }
}

#[test]
fn one_image() {
    run("image", &images(), |name, bytes| {
        let Some(kind) = kind(name) else { return };
        let read = Image::read(name, kind, bytes.len() as u64, bytes);
        let streamed = Image::read(name, kind, bytes.len() as u64, Stream(bytes));
        assert_eq!(read.is_ok(), streamed.is_ok());
        // A length that is not true, as an archive could have it.
        let _ = Image::read(name, kind, u64::MAX, Stream(bytes));
        if let Ok(image) = read {
            assert_eq!(decode::entries(&image).len(), image.len());
        }
    });
}

#[test]
fn images_together() {
    let whole: Vec<(String, Vec<u8>)> = {
        let directory = common::shell();
        common::metadata(directory.path()).into_iter().map(|name| (name.clone(), fs::read(directory.path().join(name)).unwrap())).collect()
    };
    let set = |changed: &str, bytes: &[u8]| -> Option<Set> {
        let mut set = Set::default();
        for (name, content) in &whole {
            let content = if name == changed { bytes } else { content };
            set.add(name, content.len() as u64, content).ok()?;
        }
        set.lengths.insert("pages-1.img".into(), 124 << 10);
        set.lengths.insert("pages-2.img".into(), 112 << 10);
        Some(set)
    };
    set("", &[]).unwrap().check().unwrap();
    run("set", &whole, |name, bytes| {
        if let Some(mut set) = set(name, bytes) {
            let checked = set.check();
            let told = inspect(&set, Some(&Zeros));
            assert!(checked.is_err() || told.processes.len() == checked.unwrap().processes.len());
        }
    });
}

#[test]
fn an_archive() {
    let directory = common::shell();
    let inside = tempfile::tempdir().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in
        [("config.dump", r#"{"name":"x","rootfsImageName":"y"}"#), ("spec.dump", r#"{"annotations":{}}"#), ("status.dump", "{}"), ("dump.log", "(00.1) x")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    for name in ["pstree.img", "core-1.img", "files.img", "inventory.img", "mm-1.img"] {
        tar.append_path_with_name(directory.path().join(name), format!("checkpoint/{name}")).unwrap();
    }
    let plain = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &plain).unwrap();
    let corpus = [((), plain.clone()), ((), gzip.finish().unwrap()), ((), zstd::encode_all(plain.as_slice(), 1).unwrap())];
    let path = inside.path().join("archive");
    run("archive", &corpus, |(), bytes| {
        fs::write(&path, bytes).unwrap();
        if let Ok(mut archive) = Archive::open(&path) {
            let _ = archive.verify();
            let _ = inspect(&archive.set, Some(&archive));
            let _ = oci::annotations(&archive);
        }
    });
}

#[test]
fn an_oci_layout() {
    let index = br#"{"schemaVersion":2,"manifests":[{"digest":"sha256:aa","size":5}]}"#.to_vec();
    let manifest = br#"{"layers":[{"digest":"sha256:bb","size":9}]}"#.to_vec();
    run("oci", &[("index", index.clone()), ("manifest", manifest.clone())], |which, bytes| {
        let layer = oci::layer(|name| match (name, *which) {
            ("index.json", "index") => Some(bytes.to_vec()),
            ("index.json", _) => Some(index.clone()),
            (_, "manifest") => Some(bytes.to_vec()),
            _ => Some(manifest.clone()),
        });
        assert!(layer.is_err() || layer.unwrap().starts_with("blobs/"));
    });
}

#[test]
fn a_list_of_digests() {
    let directory = common::shell();
    seal_whole(directory.path()).unwrap();
    let path = directory.path().join(MANIFEST);
    let whole = fs::read(&path).unwrap();
    run("manifest", &[((), whole.clone())], |(), bytes| {
        fs::write(&path, bytes).unwrap();
        let list = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).ok();
        assert!(verify(directory.path()).is_err() || list(bytes) == list(&whole), "a list that says something else");
    });
}

#[test]
fn adapting() {
    let directory = common::everything();
    let files: Vec<(String, Vec<u8>)> =
        ["files.img", "mountpoints-10.img", "cgroup.img"].map(|name| (name.to_owned(), fs::read(directory.path().join(name)).unwrap())).into();
    let small = tempfile::tempdir().unwrap();
    run("adapt", &files, |name, bytes| {
        let path = small.path().join(name);
        fs::write(&path, bytes).unwrap();
        let changes = [
            Change::Path { from: "/usr".into(), to: "/a/b".into() },
            Change::MountKey { from: "/data".into(), to: "/other".into() },
            Change::Cgroup { from: "/kubepods".into(), to: "/x".into() },
            Change::Address { from: [127, 0, 0, 1].into(), to: [10, 0, 0, 1].into() },
        ];
        for change in changes {
            if adapt(small.path(), &[change]).is_ok() {
                Set::open(small.path()).unwrap();
            }
        }
        if name == "files.img" {
            let _ = rearm(small.path());
        }
        fs::remove_file(path).unwrap();
    });
}

#[test]
fn logs() {
    let log = "(00.010) Error (criu/sk-inet.c:209): inet: Connected TCP socket, consider using --tcp-established option.\n(00.011) Error (criu/cr-dump.c:1635): \
               Dump files (pid: 12) failed with -1\ntime=\"x\" level=error msg=\"y\"\n(00.1)      7: Error (criu/x.c:1): Can't open file ü on restore\n";
    run("log", &[((), log.as_bytes().to_vec()), ((), b"Version: 4.2.1\nGitID: v4.1-3-gabc\n".to_vec())], |(), bytes| {
        let text = String::from_utf8_lossy(bytes);
        for which in [None, Some(explain::Which::Dump), Some(explain::Which::Restore)] {
            assert!(explain::read(&text, which).log().len() < 10 << 10);
        }
        let _ = version::parse(&text);
    });
}
