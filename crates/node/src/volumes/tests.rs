//! Real directories, a real overlay, real tar.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::*;

fn plain(path: &Path) -> Directory {
    Directory { kind: Kind::EmptyDir("d".into()), container: None, index: path.into(), data: path.into(), memory: false, seen_at: Vec::new() }
}

fn read(directory: &Directory) -> Index {
    Index::read(directory, BTreeSet::new()).unwrap()
}

/// Times come with the resolution of the rule against races.
fn settle() {
    std::thread::sleep(Duration::from_millis(130));
}

async fn copy(from: &Directory, changes: &Changes, to: &Directory) {
    apply_removals(to, &changes.removed).unwrap();
    let (mut source, mut target) = (pack(from, changes).unwrap(), unpack(to).unwrap());
    let (mut reader, mut writer) = (source.stdout.take().unwrap(), target.stdin.take().unwrap());
    tokio::io::copy(&mut reader, &mut writer).await.unwrap();
    drop(writer);
    source.finish().await.unwrap();
    target.finish().await.unwrap();
}

/// Contents and attributes of a tree, for comparison.
fn picture(root: &Path) -> Vec<String> {
    let format = "%P %y %m %U %G %s %l %T@ %n";
    let output = Command::new("find")
        .arg(root)
        .args(["-not", "-type", "s", "-not", "-type", "d", "-printf", &format!("{format}\\n"), "-o", "-type", "d", "-printf", "%P %y %m %U %G\\n"])
        .output()
        .unwrap();
    let mut lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let sums = Command::new("sh").args(["-c", "cd \"$1\" && find . -type f -print0 | sort -z | xargs -0r sha256sum", "sh"]).arg(root).output().unwrap();
    lines.extend(String::from_utf8(sums.stdout).unwrap().lines().map(str::to_owned));
    lines.sort();
    lines
}

#[tokio::test]
async fn a_tree_arrives_as_it_was_and_then_only_what_changed() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (plain(a.path()), plain(b.path()));
    let at = |name: &str| a.path().join(name);
    fs::create_dir_all(at("dir/deep")).unwrap();
    fs::write(at("dir/deep/file"), "one").unwrap();
    fs::write(at("-dash and space\n"), "x").unwrap();
    fs::write(at("gone"), "x").unwrap();
    fs::hard_link(at("dir/deep/file"), at("hard")).unwrap();
    symlink("/nowhere", at("link")).unwrap();
    fs::set_permissions(at("gone"), fs::Permissions::from_mode(0o4711)).unwrap();
    let mut sparse = File::create(at("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(64 << 20)).unwrap();
    sparse.write_all(b"end").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let user_attributes = rustix::fs::setxattr(at("gone"), "user.note", b"v", rustix::fs::XattrFlags::empty()).is_ok();
    let root = nix::unistd::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(at("hard"), Some(12345), Some(54321)).unwrap();
    }
    let first = read(&from);
    assert!(first.bytes() < 1 << 20 && first.len() == 11, "{first:?}");
    copy(&from, &first.changes(&Index::empty()), &to).await;
    assert_eq!(picture(a.path()), picture(b.path()));
    assert!(fs::metadata(b.path().join("sparse")).unwrap().blocks() < 1000);
    let ino = |name: &str| fs::metadata(b.path().join(name)).unwrap().ino();
    assert_eq!(ino("hard"), ino("dir/deep/file"));
    if user_attributes {
        let mut value = [0; 8];
        assert_eq!(rustix::fs::getxattr(b.path().join("gone"), "user.note", value.as_mut_slice()).unwrap(), 1);
    }

    settle();
    let second = read(&from);
    settle();
    assert!(read(&from).changes(&second).is_empty());
    // A directory becomes a file, a file a directory, one goes, one keeps its size and (by its own doing) its time.
    fs::remove_dir_all(at("dir")).unwrap();
    fs::write(at("dir"), "now a file").unwrap();
    fs::remove_file(at("link")).unwrap();
    fs::create_dir(at("link")).unwrap();
    fs::write(at("link/inside"), "y").unwrap();
    fs::remove_file(at("gone")).unwrap();
    let hard = OpenOptions::new().write(true).open(at("hard")).unwrap();
    let modified = hard.metadata().unwrap().modified().unwrap();
    hard.write_all_at(b"two", 0).unwrap();
    hard.set_modified(modified).unwrap();
    let third = read(&from);
    let changes = third.changes(&second);
    assert!(!changes.changed.contains(&"sparse".into()) && changes.bytes < 1 << 20, "{changes:?}");
    copy(&from, &changes, &to).await;
    assert_eq!(picture(a.path()), picture(b.path()));
}

#[test]
fn changes_near_the_old_read_and_through_mappings_are_never_missed() {
    let a = tempfile::tempdir().unwrap();
    let directory = plain(a.path());
    fs::write(a.path().join("f"), "x").unwrap();
    let old = read(&directory);
    assert_eq!(read(&directory).changes(&old).changed, [PathBuf::new(), "f".into()]);
    settle();
    let old = read(&directory);
    assert!(read(&directory).changes(&old).is_empty());
    let mapped = Index::read(&directory, BTreeSet::from(["f".into()])).unwrap();
    assert_eq!(mapped.changes(&old).changed, [PathBuf::from("f")]);
    assert_eq!(read(&directory).changes(&mapped).changed, [PathBuf::from("f")]);
    let memory = Directory { memory: true, ..directory };
    assert_eq!(read(&memory).changes(&old).changed, [PathBuf::from("f")]);
}

#[test]
fn own_shared_mappings_are_found() {
    let a = tempfile::tempdir().unwrap();
    let path = a.path().canonicalize().unwrap();
    fs::write(path.join("f"), "x").unwrap();
    let mut child = Command::new("python3")
        .args(["-c", "import mmap,sys,time\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nprint('ready',flush=True)\ntime.sleep(60)"])
        .arg(path.join("f"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0; 6]).unwrap();
    let directory = Directory { seen_at: vec![("c".into(), path.clone())], ..plain(&path) };
    let pid = child.id().cast_signed();
    assert_eq!(mapped(&directory, &[("c".into(), vec![pid, i32::MAX])]), BTreeSet::from(["f".into()]));
    assert!(mapped(&directory, &[("other".into(), vec![pid])]).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn removals_never_leave_the_directory() {
    let (a, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("precious"), "x").unwrap();
    fs::create_dir_all(a.path().join("d/e/f")).unwrap();
    symlink(outside.path(), a.path().join("way-out")).unwrap();
    symlink(outside.path(), a.path().join("d/e/way-out")).unwrap();
    let to = plain(a.path());
    for bad in ["../x", "/etc", "", "d/../x"] {
        let error = apply_removals(&to, &[Removal::Tree(bad.into())]).unwrap_err();
        assert_eq!(error.finding().reason, "VolumeUnsafe", "{bad}");
    }
    let behind = [Removal::Tree("way-out/precious".into()), Removal::Content("way-out/x".into()), Removal::Obstacle("d/e/way-out/precious".into())];
    assert_eq!(apply_removals(&to, &behind).unwrap(), 0);
    assert_eq!(apply_removals(&to, &[Removal::Content("way-out".into()), Removal::Obstacle("way-out".into()), Removal::Obstacle("absent".into())]).unwrap(), 0);
    assert_eq!(apply_removals(&to, &[Removal::Tree("absent/x".into()), Removal::Tree("d".into()), Removal::Tree("way-out".into())]).unwrap(), 2);
    assert!(outside.path().join("precious").exists() && fs::read_dir(a.path()).unwrap().next().is_none());
}

#[tokio::test]
async fn a_directory_of_the_source_replaces_a_link_of_the_target() {
    let (a, b, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(a.path().join("d/e")).unwrap();
    fs::write(a.path().join("d/e/f"), "x").unwrap();
    symlink(outside.path(), b.path().join("d")).unwrap();
    let from = plain(a.path());
    let only_the_file = Changes { changed: vec!["d/e/f".into()], ..Changes::default() };
    copy(&from, &only_the_file, &plain(b.path())).await;
    assert!(fs::read_dir(outside.path()).unwrap().next().is_none(), "written through a symbolic link");
    assert_eq!(fs::read(b.path().join("d/e/f")).unwrap(), b"x");
}

#[tokio::test]
async fn tar_says_why_it_failed() {
    let b = tempfile::tempdir().unwrap();
    let mut target = unpack(&plain(b.path())).unwrap();
    let mut stdin = target.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, &[7; 2000]).await.ok();
    drop(stdin);
    let error = target.finish().await.unwrap_err();
    assert!(error.to_string().contains("tar"), "{error}");
}

/// An overlay below a directory of its own, in this process's mount namespace, unmounted at the end.
struct Overlay(tempfile::TempDir);

impl Overlay {
    fn new(lower: &Path) -> Option<Self> {
        let home = tempfile::tempdir_in("/run").ok()?;
        for name in ["upper", "work", "merged"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        let at = |name: &str| home.path().join(name).display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={},index=off", lower.display(), at("upper"), at("work"));
        let mounted = Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options, &at("merged")]).output().ok()?;
        if !mounted.status.success() {
            eprintln!("skipped: cannot mount an overlay: {}", String::from_utf8_lossy(&mounted.stderr));
            return None;
        }
        Some(Self(home))
    }

    fn directory(&self) -> Directory {
        Directory {
            kind: Kind::Rootfs,
            container: Some("c".into()),
            index: self.0.path().join("upper"),
            data: self.0.path().join("merged"),
            memory: false,
            seen_at: Vec::new(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join("merged").join(name)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path().join("merged")).status().ok();
    }
}

#[tokio::test]
async fn what_a_container_changed_in_its_overlay_arrives_in_another() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root to mount an overlay");
        return;
    }
    let lower = tempfile::tempdir().unwrap();
    for name in ["keep/a", "keep/b", "whole/x", "whole/y", "anew/old", "becomes-file/x", "etc/config"] {
        fs::create_dir_all(lower.path().join(name).parent().unwrap()).unwrap();
        fs::write(lower.path().join(name), name).unwrap();
    }
    fs::write(lower.path().join("becomes-dir"), "f").unwrap();
    symlink("/run", lower.path().join("var-run")).unwrap();
    let (Some(a), Some(b)) = (Overlay::new(lower.path()), Overlay::new(lower.path())) else { return };
    fs::remove_file(a.at("keep/a")).unwrap();
    fs::remove_dir_all(a.at("whole")).unwrap();
    fs::remove_dir_all(a.at("anew")).unwrap();
    fs::create_dir(a.at("anew")).unwrap();
    fs::write(a.at("anew/new"), "n").unwrap();
    fs::remove_dir_all(a.at("becomes-file")).unwrap();
    fs::write(a.at("becomes-file"), "now").unwrap();
    fs::remove_file(a.at("becomes-dir")).unwrap();
    fs::create_dir(a.at("becomes-dir")).unwrap();
    fs::write(a.at("becomes-dir/f"), "f").unwrap();
    fs::remove_file(a.at("var-run")).unwrap();
    fs::create_dir(a.at("var-run")).unwrap();
    fs::write(a.at("var-run/pid"), "1").unwrap();
    OpenOptions::new().append(true).open(a.at("etc/config")).unwrap().write_all(b" changed").unwrap();
    settle();
    let first = read(&a.directory());
    copy(&a.directory(), &first.changes(&Index::empty()), &b.directory()).await;
    assert_eq!(picture(&a.at("")), picture(&b.at("")));
    assert!(!b.at("anew/old").exists() && !b.at("whole").exists());

    // And on, with the container running: made anew once more, removed, brought back.
    fs::remove_dir_all(a.at("anew")).unwrap();
    fs::create_dir(a.at("anew")).unwrap();
    fs::write(a.at("anew/third"), "3").unwrap();
    fs::remove_dir_all(a.at("becomes-dir")).unwrap();
    fs::remove_file(a.at("keep/b")).unwrap();
    fs::create_dir(a.at("whole")).unwrap();
    OpenOptions::new().create(true).truncate(true).write(true).mode(0o640).open(a.at("whole/x")).unwrap();
    let second = read(&a.directory());
    copy(&a.directory(), &second.changes(&first), &b.directory()).await;
    assert_eq!(picture(&a.at("")), picture(&b.at("")));
    let left = fs::read_dir(b.at("anew")).unwrap().count();
    assert_eq!(left, 1);
}
