//! What is told of real dumps.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use godwit_criu::images::Set;
use godwit_criu::inspect::{Pages, inspect};

struct Directory<'a>(&'a Path);

impl Pages for Directory<'_> {
    fn read(&self, name: &str, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open(self.0.join(name)).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

#[test]
fn a_shell() {
    let directory = common::shell();
    let set = Set::open(directory.path()).unwrap();
    let told = inspect(&set, Some(&Directory(directory.path())));
    println!("{}", serde_json::to_string_pretty(&told).unwrap());
    let first = &told.processes[0];
    assert_eq!((first.pid, first.comm.as_str(), first.state), (1, "sh", "running"));
    assert_eq!(first.arguments, ["sh", "/opt/shell.sh"]);
    assert!(first.environment.iter().any(|word| word == "HOSTNAME=src"), "{:?}", first.environment);
    assert!(first.memory.stored > 0 && first.memory.stored < first.memory.mapped);
    assert_eq!(first.memory.stored, first.memory.mappings.iter().map(|mapping| mapping.stored).sum::<u64>());
    assert!(first.memory.mappings.iter().any(|mapping| mapping.what == "[stack]" && mapping.mode == "rw-p"));
    assert_eq!(told.processes[1].ppid, 1);
}

#[test]
fn everything() {
    let directory = common::everything();
    let set = Set::open(directory.path()).unwrap();
    let told = inspect(&set, None);
    println!("{}", serde_json::to_string_pretty(&told).unwrap());
    assert_eq!(told.processes.len(), 5);
    assert_eq!(told.processes[0].threads.len(), 3);
    assert!(told.sockets.iter().any(|socket| socket.kind == "tcp" && socket.state == "LISTEN" && socket.owners.iter().any(|owner| owner.starts_with("1/"))));
    assert!(told.sockets.iter().any(|socket| socket.kind == "tcp" && socket.state == "ESTABLISHED" && !socket.peer.is_empty()));
    assert_eq!(told.mounts[0].mountpoint, "/");
    assert!(told.mounts.iter().any(|mount| mount.external.as_deref() == Some("/data")));
    assert!(told.deleted.contains(&("/root/gone".into(), 8)) && told.deleted.contains(&("/tmp/big".into(), 2 << 20)), "{:?}", told.deleted);
    assert_eq!(told.locks.len(), 2);
    assert!(told.dump.frozen_us.is_some_and(|micros| micros > 0) && told.dump.machine == "X86_64");
}
