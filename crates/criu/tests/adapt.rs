//! Images of real dumps, made ready for another place.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use godwit_criu::Problem;
use godwit_criu::adapt::{Change, adapt, crun_to_runc, mount_keys, runc_to_crun};
use godwit_criu::images::{MANIFEST, Set, seal, verify};
use godwit_criu::inspect::inspect;

fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    common::metadata(directory).into_iter().map(|name| (name.clone(), fs::read(directory.join(name)).unwrap())).collect()
}

#[test]
fn everything_is_changed_and_nothing_else() {
    let directory = common::everything();
    seal(directory.path()).unwrap();
    let before = contents(directory.path());
    let changes = [
        Change::MountKey { from: "/data".into(), to: "/other".into() },
        Change::Address { from: [127, 0, 0, 1].into(), to: [10, 1, 2, 3].into() },
        Change::Path { from: "/tmp/sock".into(), to: "/tmp/a/longer/place/for/it".into() },
        Change::Path { from: "/root".into(), to: "/home/of/root".into() },
        Change::Cgroup { from: "/kubepods/podsrc".into(), to: "/kubepods/burstable/pod77".into() },
    ];
    let counts = adapt(directory.path(), &changes).unwrap();
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    verify(directory.path()).unwrap();
    let told = inspect(&Set::open(directory.path()).unwrap(), None);
    assert!(told.mounts.iter().any(|mount| mount.external.as_deref() == Some("/other")));
    assert!(told.sockets.iter().any(|socket| socket.local == "10.1.2.3:8080") && !told.sockets.iter().any(|socket| socket.local.starts_with("127.")));
    assert!(told.sockets.iter().any(|socket| socket.local == "/tmp/a/longer/place/for/it"));
    assert!(told.processes.iter().all(|process| process.cgroups.iter().all(|(_, path)| !path.contains("podsrc"))), "{:?}", told.processes[0].cgroups);
    let after = contents(directory.path());
    let changed: Vec<&String> = before.keys().filter(|name| before[*name] != after[*name]).collect();
    assert_eq!(changed, ["cgroup.img", "files.img", MANIFEST, "mountpoints-10.img"]);
    assert_eq!(before.len(), after.len(), "no file is left over");
    // And back: as it was, byte by byte.
    let back = [
        Change::MountKey { from: "/other".into(), to: "/data".into() },
        Change::Address { from: [10, 1, 2, 3].into(), to: [127, 0, 0, 1].into() },
        Change::Path { from: "/tmp/a/longer/place/for/it".into(), to: "/tmp/sock".into() },
        Change::Path { from: "/home/of/root".into(), to: "/root".into() },
        Change::Cgroup { from: "/kubepods/burstable/pod77".into(), to: "/kubepods/podsrc".into() },
    ];
    adapt(directory.path(), &back).unwrap();
    assert_eq!(contents(directory.path()), before);
}

#[test]
fn what_is_not_there_is_refused_and_nothing_is_written() {
    let directory = common::everything();
    let before = contents(directory.path());
    let good = Change::MountKey { from: "/data".into(), to: "/other".into() };
    let bad = [
        Change::MountKey { from: "/nowhere".into(), to: "/x".into() },
        Change::Hostname { to: "x".into() },
        Change::Address { from: [10, 9, 9, 9].into(), to: [10, 1, 2, 3].into() },
        Change::Path { from: "/tm".into(), to: "/x".into() },
        Change::Cgroup { from: "/kubepods/podsr".into(), to: "/x".into() },
    ];
    for change in bad {
        let problem = adapt(directory.path(), &[good.clone(), change.clone()]).unwrap_err();
        assert!(matches!(&problem, Problem::NothingToAdapt { what } if *what == change.to_string()), "{problem}");
        assert_eq!(problem.failure().reason, "NothingToAdapt");
    }
    assert_eq!(contents(directory.path()), before);
}

#[test]
fn mounts_of_the_other_runtime() {
    let directory = common::everything();
    assert_eq!(crun_to_runc(directory.path()).unwrap(), []);
    let shm = runc_to_crun(&["/dev/shm"]);
    adapt(directory.path(), &shm).unwrap();
    assert!(mount_keys(&Set::open(directory.path()).unwrap()).contains(&"//dev/shm".to_owned()));
    let back = crun_to_runc(directory.path()).unwrap();
    assert_eq!(back, [Change::MountKey { from: "//dev/shm".into(), to: "/dev/shm".into() }]);
    adapt(directory.path(), &back).unwrap();
    assert!(mount_keys(&Set::open(directory.path()).unwrap()).contains(&"/dev/shm".to_owned()));
}
