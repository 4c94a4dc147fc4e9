//! Archives around images of a real dump: read, checked, converted, made an OCI image.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use godwit_criu::Problem;
use godwit_criu::archive::convert::convert;
use godwit_criu::archive::{Archive, CRIO_ANNOTATIONS, Layout, oci, unpacked};
use godwit_criu::images::{MANIFEST, seal_whole};
use godwit_criu::inspect::inspect;
use serde_json::{Value, json};
use tempfile::TempDir;

const IMAGE_ID: &str = "9c7a54a9a43cca047013b82af109fe963fde787f63f9e016fdc3384500c2823d";

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// An archive as CRI-O writes it, around the images of a shell.
fn crio(sealed: bool) -> (TempDir, PathBuf) {
    let images = common::shell();
    if sealed {
        seal_whole(images.path()).unwrap();
    }
    let annotations = json!({"io.kubernetes.container.hash": "77", "io.kubernetes.container.restartCount": "0"});
    let spec = json!({"ociVersion": "1.2.0", "annotations": {
        CRIO_ANNOTATIONS: annotations.to_string(), "io.kubernetes.container.name": "shell", "io.kubernetes.pod.name": "web-0", "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.cri-o.Labels": json!({"io.kubernetes.container.name": "shell"}).to_string(),
        "io.kubernetes.cri-o.Metadata": json!({"name": "shell", "attempt": 0}).to_string(),
    }, "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": "/var/lib/kubelet/pods/u/volumes/x", "options": ["rbind", "ro"]},
        {"destination": "/etc/hosts", "type": "bind", "source": "/var/lib/kubelet/pods/u/etc-hosts", "options": ["rbind"]},
    ]});
    let config = json!({"id": "abc", "name": "k8s_shell_web-0", "rootfsImage": IMAGE_ID, "rootfsImageRef": IMAGE_ID,
        "rootfsImageName": "docker.io/library/shell:1", "runtime": "runc", "createdTime": "2026-08-22T17:21:51.5Z", "checkpointedTime": "2026-08-22T17:22:51Z"});
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::from([
        ("config.dump".into(), config.to_string().into_bytes()),
        ("spec.dump".into(), spec.to_string().into_bytes()),
        ("bind.mounts".into(), b"[]".to_vec()),
        ("deleted.files".into(), br#"["/etc/motd"]"#.to_vec()),
        ("rootfs-diff.tar".into(), tar_of(&[("root/new", b"hello")])),
        ("io.kubernetes.cri-o.LogPath".into(), b"2026 stdout F hi\n".to_vec()),
        ("dump.log".into(), b"(00.1) Dumping finished successfully\n".to_vec()),
    ]);
    for entry in fs::read_dir(images.path()).unwrap() {
        let entry = entry.unwrap();
        files.insert(format!("checkpoint/{}", entry.file_name().to_str().unwrap()), fs::read(entry.path()).unwrap());
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crio.tar");
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    fs::write(&path, tar_of(&files)).unwrap();
    (directory, path)
}

fn content(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut tar = tar::Archive::new(File::open(path).unwrap());
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap() == Path::new(name) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            return Some(bytes);
        }
    }
    None
}

#[test]
fn an_archive_is_read_in_every_packing_and_as_a_directory() {
    let (directory, path) = crio(true);
    let plain = fs::read(&path).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &plain).unwrap();
    let packed = directory.path().join("packed");
    for (bytes, has_places) in [(plain.clone(), true), (gzip.finish().unwrap(), false), (zstd::encode_all(plain.as_slice(), 1).unwrap(), false)] {
        fs::write(&packed, bytes).unwrap();
        let mut archive = Archive::open(&packed).unwrap();
        assert_eq!(archive.layout, Layout::CriO);
        assert!(archive.verify().unwrap().sealed);
        let told = inspect(&archive.set, Some(&archive));
        assert_eq!(told.processes[0].arguments, if has_places { vec!["sh", "/opt/shell.sh"] } else { Vec::new() });
    }
    let unpacked = tempfile::tempdir().unwrap();
    tar::Archive::new(plain.as_slice()).unpack(unpacked.path()).unwrap();
    let mut archive = Archive::open(unpacked.path()).unwrap();
    assert_eq!((archive.layout, archive.verify().unwrap().processes.len()), (Layout::CriO, 2));
    assert_eq!(archive.logs().count(), 1);
}

#[test]
fn a_changed_byte_in_an_archive_is_refused() {
    let (_directory, path) = crio(true);
    let whole = fs::read(&path).unwrap();
    let mut at = 0;
    let mut flipped = 0;
    // Every 512 bytes inside of files below checkpoint/.
    let places: Vec<(u64, u64)> = tar::Archive::new(whole.as_slice())
        .entries()
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.path().unwrap().starts_with("checkpoint"))
        .map(|entry| (entry.raw_file_position(), entry.size()))
        .collect();
    for (place, length) in places {
        for offset in (0..length).step_by(512) {
            at = usize::try_from(place + offset).unwrap();
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, changed).unwrap();
            assert!(Archive::open(&path).unwrap().verify().is_err(), "byte {at}");
            flipped += 1;
        }
    }
    assert!(flipped > 400 && at > 0);
    for length in [whole.len() / 3, whole.len() / 2] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(Archive::open(&path).and_then(|mut archive| archive.verify()).is_err(), "{length} bytes");
    }
}

#[test]
fn layouts_are_converted_there_and_back() {
    let (directory, path) = crio(true);
    let (there, back) = (directory.path().join("containerd.tar"), directory.path().join("back.tar"));
    convert(&path, &there, Layout::Containerd).unwrap();
    let mut archive = Archive::open(&there).unwrap();
    assert_eq!(archive.layout, Layout::CriO, "it can be restored by both: CRI-O's annotations stay in the spec");
    archive.verify().unwrap();
    assert_eq!((archive.config["rootfsImageRef"].as_str(), archive.status["metadata"]["name"].as_str()), (Some("docker.io/library/shell:1"), Some("shell")));
    assert_eq!(archive.status["created_at"], json!(1_787_419_311_500_000_000_i64));
    assert_eq!(archive.status["mounts"][0], json!({"container_path": "/data", "host_path": "/var/lib/kubelet/pods/u/volumes/x", "readonly": true}));
    assert_eq!(content(&there, "container.log").unwrap(), b"2026 stdout F hi\n");
    assert!(content(&there, "deleted.files").is_none() && content(&there, "bind.mounts").is_none() && content(&there, "status").is_some());
    let layer = content(&there, "rootfs-diff.tar").unwrap();
    assert_eq!(names(&layer), ["root/new", "etc/.wh.motd"]);
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&there).unwrap().permissions()) & 0o777, 0o600);

    // As containerd itself writes it: without CRI-O's annotations.
    let own = directory.path().join("own.tar");
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for entry in tar::Archive::new(File::open(&there).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let (name, mut bytes) = (entry.path().unwrap().to_str().unwrap().to_owned(), Vec::new());
        entry.read_to_end(&mut bytes).unwrap();
        if name == "spec.dump" {
            let mut spec: Value = serde_json::from_slice(&bytes).unwrap();
            spec["annotations"] = json!({"io.kubernetes.cri.container-name": "shell"});
            bytes = spec.to_string().into_bytes();
        }
        files.push((name, bytes));
    }
    fs::write(&own, tar_of(&files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect::<Vec<_>>())).unwrap();
    assert_eq!(Archive::open(&own).unwrap().layout, Layout::Containerd);
    convert(&own, &back, Layout::CriO).unwrap();
    let mut archive = Archive::open(&back).unwrap();
    assert_eq!(archive.layout, Layout::CriO);
    archive.verify().unwrap();
    let annotations: Value = serde_json::from_str(archive.spec["annotations"][CRIO_ANNOTATIONS].as_str().unwrap()).unwrap();
    assert_eq!(annotations["io.kubernetes.container.hash"], "77");
    assert!(archive.config.get("rootfsImageRef").is_none(), "not an id of CRI-O's store");
    assert_eq!(
        (names(&content(&back, "rootfs-diff.tar").unwrap()), content(&back, "deleted.files").unwrap()),
        (vec!["root/new".to_owned()], br#"["/etc/motd"]"#.to_vec())
    );
    let types: Value = serde_json::from_slice(&content(&back, "bind.mounts").unwrap()).unwrap();
    assert_eq!((types[0]["file_type"].as_str(), types[1]["file_type"].as_str()), (Some("directory"), Some("file")));
    assert!(content(&back, "status.dump").is_none());
    assert!(matches!(convert(&back, &there, Layout::Containerd), Err(Problem::Read { .. })), "never over another file");
}

fn names(layer: &[u8]) -> Vec<String> {
    let plain = unpacked(layer).unwrap().1;
    tar::Archive::new(plain).entries().unwrap().map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn an_oci_image_has_both_families_of_annotations_and_is_read_again() {
    let (directory, path) = crio(true);
    let layout = directory.path().join("layout");
    fs::create_dir(&layout).unwrap();
    oci::write(&path, &layout, "localhost/checkpoint:1").unwrap();
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let blob = |digest: &Value| fs::read(layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"))).unwrap();
    let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0]["digest"])).unwrap();
    for name in [oci::CRIO_NAME, oci::CRIU_NAME] {
        assert_eq!(manifest["annotations"][name], "shell");
    }
    assert_eq!(manifest["annotations"]["org.criu.checkpoint.pod.name"], "web-0");
    assert_eq!(blob(&manifest["layers"][0]["digest"]), fs::read(&path).unwrap());
    let config: Value = serde_json::from_slice(&blob(&manifest["config"]["digest"])).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    // As a directory and as an archive of its own.
    let mut archive = Archive::open(&layout).unwrap();
    assert_eq!((archive.layout, archive.verify().unwrap().sealed), (Layout::CriO, true));
    let packed = directory.path().join("image.tar");
    let mut tar = tar::Builder::new(File::create(&packed).unwrap());
    tar.append_dir_all(".", &layout).unwrap();
    tar.finish().unwrap();
    let mut archive = Archive::open(&packed).unwrap();
    assert!(archive.verify().unwrap().sealed);
    assert_eq!(inspect(&archive.set, Some(&archive)).processes[0].arguments, ["sh", "/opt/shell.sh"]);
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.tar");
    fs::write(&path, b"neither").unwrap();
    assert!(matches!(Archive::open(&path), Err(Problem::Read { .. })));
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..16].copy_from_slice(b"checkpoint/../x\0");
    header.set_size(1);
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, b"x".as_slice()).unwrap();
    fs::write(&path, tar.into_inner().unwrap()).unwrap();
    assert!(matches!(Archive::open(&path), Err(Problem::Read { source, .. }) if source.to_string().contains("outside")));
    let (_keep, whole) = crio(false);
    assert!(!Archive::open(&whole).unwrap().verify().unwrap().sealed);
    assert!(content(&whole, &format!("checkpoint/{MANIFEST}")).is_none());
    let empty = directory.path().join("layout");
    fs::create_dir(&empty).unwrap();
    fs::write(&path, tar_of(&[("checkpoint/inventory.img", b"x")])).unwrap();
    assert!(oci::write(&path, &empty, "x").is_err());
}

#[test]
fn archives_of_real_runtimes_are_read_and_converted() {
    for (name, layout, other) in [("crio", Layout::CriO, Layout::Containerd), ("containerd", Layout::Containerd, Layout::CriO)] {
        let directory = tempfile::tempdir().unwrap();
        let mut archive = Archive::open(&common::archive(name)).unwrap();
        assert_eq!(archive.layout, layout);
        let summary = archive.verify().unwrap();
        assert_eq!((summary.processes.len(), summary.unknown, summary.processes[0].comm.as_str()), (2, 0, "sh"));
        assert!(inspect(&archive.set, None).hostname.unwrap().starts_with("shell-node-"));
        let converted = directory.path().join("converted.tar");
        convert(&common::archive(name), &converted, other).unwrap();
        let mut archive = Archive::open(&converted).unwrap();
        archive.verify().unwrap();
        assert_eq!(inspect(&archive.set, Some(&archive)).processes[0].arguments[0], "sh");
        assert_eq!(oci::annotations(&archive)[oci::CRIO_NAME], "main");
        let changes = names(&content(&converted, "rootfs-diff.tar").unwrap());
        assert!(changes.iter().any(|name| name.trim_end_matches('/') == "root/new"), "{changes:?}");
        let gone = |path: &str| match other {
            Layout::CriO => content(&converted, "deleted.files").is_some_and(|list| String::from_utf8(list).unwrap().contains(path)),
            _ => changes.iter().any(|name| *name == path.replace("/etc/", "etc/.wh.")),
        };
        assert!(gone("/etc/motd") && gone("/etc/issue"), "{changes:?}");
        if other == Layout::Containerd {
            assert_eq!(
                (archive.status["metadata"]["name"].as_str(), archive.status["image"]["image"].as_str()),
                (Some("main"), Some("localhost/godwit-lab/app:1"))
            );
            assert!(archive.status["created_at"].as_i64().unwrap() > 0);
        } else {
            let annotations: Value = serde_json::from_str(archive.spec["annotations"][CRIO_ANNOTATIONS].as_str().unwrap()).unwrap();
            assert!(annotations["io.kubernetes.container.hash"].is_string(), "{annotations}");
        }
    }
}
