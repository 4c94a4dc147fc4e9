//! Blocks of the documentation that need no cluster: each command is run, and prints to the letter what the page says.
//!
//! `GODWIT_DOCS_WRITE=1` writes the outputs into the pages instead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use godwit_docs::block::Place;
use godwit_docs::run::{self, Stage};
use godwit_docs::{book, stage};

/// Real checkpoints, as those of crates/criu are.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../criu/tests/fixtures");

/// `kubectl migrate …` runs the program `kubectl-migrate`: this is all that kubectl does for it.
fn programs(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    symlink(env!("CARGO_BIN_EXE_kubectl-migrate"), folder.join("kubectl-migrate")).unwrap();
    std::fs::write(folder.join("kubectl"), "#!/bin/sh\n[ \"$1\" = migrate ] || exit 9\nshift\nexec kubectl-migrate \"$@\"\n").unwrap();
    std::fs::set_permissions(folder.join("kubectl"), std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Archives as the runtimes write them, and an unpacked one.
fn checkpoints(folder: &Path) {
    for (fixture, name) in [("crio.tar.gz", "checkpoint.tar"), ("containerd.tar.gz", "web.tar")] {
        let unpacked = Command::new("sh").arg("-c").arg(format!("gzip -dc {FIXTURES}/{fixture} > {name}")).current_dir(folder).status().unwrap();
        assert!(unpacked.success());
    }
    std::fs::create_dir(folder.join("images")).unwrap();
    let unpacked = Command::new("tar").args(["-xzf", &format!("{FIXTURES}/shell.tar.gz"), "-C", "images"]).current_dir(folder).status().unwrap();
    assert!(unpacked.success());
}

#[test]
fn what_needs_no_cluster_is_as_the_pages_say() {
    let folder = tempfile::tempdir().unwrap();
    programs(&folder.path().join("bin"));
    stage::examples(folder.path(), &[]).unwrap();
    checkpoints(folder.path());
    let path = format!("{}:{}", folder.path().join("bin").display(), std::env::var("PATH").unwrap());
    let stage = Stage {
        folder: folder.path().to_owned(),
        environment: vec![("PATH".into(), path), ("COLUMNS".into(), "120".into())],
        words: Vec::new(),
        printed: Vec::new(),
        place: Place::Files,
        exact: true,
        write: Stage::writes(),
        limit: Duration::from_secs(60),
    };
    let root = book::root();
    let run = |page: &std::path::PathBuf| {
        run::page(&root.join(page), &stage).unwrap_or_else(|error| {
            panic!("{error:#}\nTo have what is printed written into the pages: {}=1 cargo test --release -p godwit-cli --test docs", run::WRITE)
        })
    };
    let ran: usize = book::pages(&root).unwrap().iter().map(run).sum();
    assert!(ran >= 10, "only {ran} commands of the pages were run");
}
