//! From CRI-O's layout to containerd's and back. Of the images only the mode of the root directory goes, which the runtimes make differently.
//!
//! ```text
//!                      CRI-O                                            containerd
//!   what the pod said  spec.dump: annotations io.kubernetes.cri-o.*     status.dump: the container's status of the CRI
//!   its image          config.dump: rootfsImageRef = id                 config.dump: rootfsImageRef = a name that can be pulled
//!   its files          rootfs-diff.tar, deleted.files                   rootfs-diff.tar with whiteouts, gzip
//!   its log            io.kubernetes.cri-o.LogPath                      container.log
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Archive, CRIO_ANNOTATIONS, IMAGES, Layout, clean, oci, rootfs, unpacked};
use crate::images::{FILES, MANIFEST};
use crate::{Problem, adapt};

/// The log of the container, in CRI-O's layout and containerd's.
const LOGS: (&str, &str) = ("io.kubernetes.cri-o.LogPath", "container.log");
const DIFF: &str = "rootfs-diff.tar";
const DELETED: &str = "deleted.files";

/// Writes an archive in the other layout into a new file that only its owner can read (it holds memory). Needs room for the container's file changes beside it.
///
/// # Errors
/// [`Problem::Damaged`] if the archive lacks what the other layout needs, [`Problem::Read`] if something cannot be read or written.
pub fn convert(source: &Path, target: &Path, to: Layout) -> Result<(), Problem> {
    let archive = Archive::open(source)?;
    let texts = match (archive.layout, to) {
        (Layout::CriO, Layout::Containerd) => to_containerd(&archive)?,
        (Layout::Containerd, Layout::CriO) => to_crio(&archive)?,
        (from, to) => return Err(Problem::damaged("config.dump", format!("an archive of the layout {from:?} cannot be made one of {to:?}"))),
    };
    let deleted: Vec<String> = archive
        .texts
        .get(DELETED)
        .map(|text| serde_json::from_str(text))
        .transpose()
        .map_err(|error| Problem::damaged(DELETED, error.to_string()))?
        .unwrap_or_default();
    let files = adapt::without_root_mode(&archive.set).map_err(Problem::read(source))?;
    let out = oci::private(target).map_err(Problem::read(target))?;
    let written = write(source, out, to, &texts, &deleted, files.as_deref());
    if written.is_err() {
        let _ = std::fs::remove_file(target);
    }
    written.map_err(Problem::read(source))
}

fn write(source: &Path, out: File, to: Layout, texts: &[(&str, Value)], deleted: &[String], files: Option<&[u8]>) -> io::Result<()> {
    let mut tar = tar::Builder::new(io::BufWriter::new(out));
    for (name, value) in texts {
        put(&mut tar, name, value.to_string().as_bytes())?;
    }
    let mut done = false;
    let mut input = tar::Archive::new(unpacked(File::open(source)?)?.1);
    for entry in input.entries()? {
        let mut entry = entry?;
        let Some(name) = clean(&entry.path_bytes()) else { continue };
        let kind = entry.header().entry_type();
        if kind.is_dir() && name == "checkpoint" {
            let mut header = entry.header().clone();
            tar.append_data(&mut header, "checkpoint/", io::empty())?;
        }
        if !kind.is_file() {
            continue;
        }
        if let Some(files) = files
            && name.strip_prefix(IMAGES) == Some(FILES)
        {
            put(&mut tar, &name, files)?;
            continue;
        }
        if let Some(files) = files
            && name.strip_prefix(IMAGES) == Some(MANIFEST)
        {
            let mut list: Value = serde_json::from_reader(&mut entry)?;
            list["files"][FILES] = json!({"length": files.len(), "digest": blake3::hash(files).to_hex().to_string()});
            put(&mut tar, &name, list.to_string().as_bytes())?;
            continue;
        }
        let name = match (name.as_str(), to) {
            (DIFF, Layout::CriO) => {
                let mut plain = tempfile::tempfile()?;
                let deleted = rootfs::without_whiteouts(unpacked_layer(&mut entry)?, &mut plain)?;
                if !deleted.is_empty() {
                    put(&mut tar, DELETED, json!(deleted).to_string().as_bytes())?;
                }
                file(&mut tar, DIFF, plain)?;
                continue;
            }
            (DIFF, _) => {
                file(&mut tar, DIFF, packed_layer(Some(&mut entry), deleted)?)?;
                done = true;
                continue;
            }
            (log, Layout::CriO) if log == LOGS.1 => LOGS.0,
            (log, Layout::Containerd) if log == LOGS.0 => LOGS.1,
            // What the other layout does not have.
            ("status.dump" | "status", Layout::CriO) | ("bind.mounts" | DELETED, Layout::Containerd) => continue,
            (name, _) if texts.iter().any(|(text, _)| *text == name) => continue,
            (name, _) => name,
        };
        let mut header = entry.header().clone();
        let name = name.to_owned();
        tar.append_data(&mut header, name, &mut entry)?;
    }
    if to == Layout::Containerd && !done && !deleted.is_empty() {
        file(&mut tar, DIFF, packed_layer(None::<io::Empty>, deleted)?)?;
    }
    tar.into_inner()?.flush()
}

fn unpacked_layer<'a>(entry: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(unpacked(entry)?.1)
}

fn packed_layer(changes: Option<impl Read>, deleted: &[String]) -> io::Result<File> {
    let mut out = flate2::write::GzEncoder::new(tempfile::tempfile()?, flate2::Compression::fast());
    rootfs::with_whiteouts(changes, deleted, &mut out)?;
    out.finish()
}

fn put(tar: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, name, bytes)
}

fn file(tar: &mut tar::Builder<impl Write>, name: &str, mut file: File) -> io::Result<()> {
    io::Seek::rewind(&mut file)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(file.metadata()?.len());
    header.set_mode(0o600);
    tar.append_data(&mut header, name, file)
}

/// The files of containerd's layout that say what CRI-O's annotations say.
fn to_containerd(archive: &Archive) -> Result<Vec<(&'static str, Value)>, Problem> {
    let spec = &archive.spec["annotations"];
    let parsed = |name: &str| spec[name].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let annotations = parsed(CRIO_ANNOTATIONS).ok_or_else(|| Problem::damaged("spec.dump", format!("{CRIO_ANNOTATIONS} is no JSON")))?;
    let labels = parsed("io.kubernetes.cri-o.Labels").unwrap_or_else(|| json!({}));
    let metadata = parsed("io.kubernetes.cri-o.Metadata").unwrap_or_else(|| json!({"name": labels["io.kubernetes.container.name"]}));
    let mut config = archive.config.clone();
    // containerd pulls this reference: CRI-O's is the id of an image, which nobody can pull.
    let image =
        ["rootfsImageName", "rootfsImage"].iter().filter_map(|name| config[*name].as_str()).find(|name| !name.is_empty() && !is_id(name)).map(str::to_owned);
    let image = image.ok_or_else(|| Problem::damaged("config.dump", "it names no image that could be pulled"))?;
    for name in ["rootfsImageRef", "rootfsImageName"] {
        config[name] = json!(image);
    }
    let nanos = |name: &str| config[name].as_str().and_then(nanoseconds).unwrap_or(0);
    let (created, mounts) = (nanos("createdTime"), archive.spec["mounts"].as_array().cloned().unwrap_or_default());
    let binds = mounts.iter().filter(|mount| mount["type"] == "bind").map(|mount| {
        let read_only = mount["options"].as_array().into_iter().flatten().any(|option| option == "ro");
        json!({"container_path": mount["destination"], "host_path": mount["source"], "readonly": read_only})
    });
    let status = json!({
        "id": config["id"], "metadata": metadata, "state": 1, "created_at": created, "started_at": created,
        "image": {"image": image, "user_specified_image": image}, "image_ref": image,
        "labels": labels, "annotations": annotations, "mounts": binds.collect::<Vec<_>>(), "log_path": spec["io.kubernetes.cri-o.LogPath"],
    });
    let own = json!({"Version": "v1", "Pid": 0, "CreatedAt": created, "StartedAt": created, "FinishedAt": 0, "ExitCode": 0, "Reason": "", "Message": ""});
    Ok(vec![("config.dump", config), ("status.dump", status), ("status", own)])
}

/// The files of CRI-O's layout that say what containerd's status says.
fn to_crio(archive: &Archive) -> Result<Vec<(&'static str, Value)>, Problem> {
    let (mut spec, mut config) = (archive.spec.clone(), archive.config.clone());
    if !spec.is_object() {
        return Err(Problem::damaged("spec.dump", "it is no OCI configuration"));
    }
    let text = |value: &Value| match value {
        Value::Null => "{}".to_owned(),
        value => value.to_string(),
    };
    if !spec["annotations"].is_object() {
        spec["annotations"] = Value::Object(Map::new());
    }
    for (name, value) in [
        (CRIO_ANNOTATIONS, &archive.status["annotations"]),
        ("io.kubernetes.cri-o.Labels", &archive.status["labels"]),
        ("io.kubernetes.cri-o.Metadata", &archive.status["metadata"]),
    ] {
        spec["annotations"][name] = json!(text(value));
    }
    for (name, value) in archive.status["labels"].as_object().into_iter().flatten() {
        spec["annotations"][name] = value.clone();
    }
    // CRI-O takes the reference for an id of its store if it is there; by the name it finds the image.
    if let Some(config) = config.as_object_mut()
        && !config.get("rootfsImageRef").and_then(Value::as_str).is_some_and(is_id)
    {
        config.remove("rootfsImageRef");
    }
    let binds = archive.spec["mounts"].as_array().into_iter().flatten().filter(|mount| mount["type"] == "bind");
    let types: Vec<Value> = binds
        .filter(|mount| !matches!(mount["destination"].as_str(), Some("/dev" | "/dev/shm" | "/proc" | "/run" | "/run/.containerenv" | "/run/secrets" | "/sys")))
        .map(|mount| {
            // The kubelet's own files; everything else that is bound into a pod is a directory, unless a subPath names a file.
            let path = mount["destination"].as_str().unwrap_or_default();
            let is_file = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"].contains(&path) || mount["source"].as_str().is_some_and(|source| source.contains("/etc-hosts") || source.contains("/containers/"));
            json!({"source": mount["source"], "destination": path, "file_type": if is_file { "file" } else { "directory" }, "permissions": if is_file { 0o644 } else { 0o755 }})
        })
        .collect();
    let mut files = vec![("config.dump", config), ("spec.dump", spec)];
    if !types.is_empty() {
        files.push(("bind.mounts", Value::Array(types)));
    }
    Ok(files)
}

/// Whether it is the id of an image in CRI-O's store.
fn is_id(reference: &str) -> bool {
    reference.len() == 64 && reference.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Nanoseconds since 1970 of a time as Go writes it (RFC 3339).
fn nanoseconds(time: &str) -> Option<i64> {
    i64::try_from(time.parse::<jiff::Timestamp>().ok()?.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_go_are_read() {
        assert_eq!(nanoseconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(nanoseconds("2026-08-22T17:21:51.000000005Z"), Some(1_787_419_311_000_000_005));
        assert_eq!(nanoseconds("2026-08-22T19:21:51.5+02:00"), Some(1_787_419_311_500_000_000));
        assert_eq!(nanoseconds("soon"), None);
    }
}
