//! OCI images as layout folders, with uncompressed layers.
//!
//! ```text
//!   oci-layout  index.json ─▶ manifest ─▶ config (diff ids)
//!                                     └─▶ layers: tar files, named by their digest, hard links to the packed layers
//! ```
//! A layer that does not change is packed and hashed once: images share it, and nodes that have it are not sent it again.
//! Source of the formats: the OCI image specification 1.1.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cache::{hex, remove};

/// A layer: an uncompressed tar and its digest.
#[derive(Debug, Clone)]
pub struct Layer {
    path: PathBuf,
    digest: String,
    size: u64,
}

/// What was found when a layer file was hashed, and which state of the file that was.
#[derive(Serialize, Deserialize)]
struct Hashed {
    digest: String,
    size: u64,
    inode: u64,
    modified: (i64, i64),
}

impl Layer {
    /// Packs a folder as a layer file; `except` are folders relative to it that stay out. A file that is there is
    /// replaced, not changed: images may share it.
    pub fn pack(folder: &Path, except: &[&str], target: &Path) -> Result<()> {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(folder).args([
            "--sort=name",
            "--numeric-owner",
            "--mtime=@0",
            "--format=pax",
            "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
            "--xattrs",
            "--xattrs-include=security.capability",
            "--anchored",
        ]);
        for path in except {
            tar.arg(format!("--exclude=./{path}/*"));
        }
        remove(target)?;
        let status = tar.arg("-cf").arg(target).arg(".").status();
        if !status.context("tar cannot be run")?.success() {
            bail!("tar could not pack {}", folder.display());
        }
        Ok(())
    }

    /// A layer file that is there already; hashed only if it has changed since the last time.
    pub fn existing(path: &Path) -> Result<Self> {
        let unreadable = || format!("{} is unreadable", path.display());
        let about = fs::metadata(path).with_context(unreadable)?;
        let modified = (about.mtime(), about.mtime_nsec());
        let note = path.with_extension("digest");
        let known = fs::read(&note)
            .ok()
            .and_then(|text| serde_json::from_slice::<Hashed>(&text).ok())
            .filter(|known| (known.size, known.inode, known.modified) == (about.len(), about.ino(), modified));
        let digest = match known {
            Some(known) => known.digest,
            None => {
                let digest = digest_of(path).with_context(unreadable)?;
                let hashed = Hashed { digest: digest.clone(), size: about.len(), inode: about.ino(), modified };
                fs::write(&note, serde_json::to_vec(&hashed)?)?;
                digest
            }
        };
        Ok(Self { path: path.to_path_buf(), digest, size: about.len() })
    }
}

fn digest_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
            return Ok(hex(&hash.finalize()));
        };
        hash.update(bytes);
    }
}

/// Writes an image as a layout folder.
pub fn write_layout(name: &str, layers: &[Layer], command: &[&str], target: &Path) -> Result<()> {
    remove(target)?;
    let blobs = target.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |value: &serde_json::Value| -> Result<(String, usize)> {
        let bytes = serde_json::to_vec(value)?;
        let digest = hex(&Sha256::digest(&bytes));
        fs::write(blobs.join(&digest), &bytes)?;
        Ok((digest, bytes.len()))
    };
    for layer in layers {
        let blob = blobs.join(&layer.digest);
        if fs::hard_link(&layer.path, &blob).is_err() {
            fs::copy(&layer.path, &blob)?;
        }
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let ids: Vec<String> = layers.iter().map(|l| format!("sha256:{}", l.digest)).collect();
    let (config, config_size) = put(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": command,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": ids},
    }))?;
    let described: Vec<_> = layers
        .iter()
        .map(|layer| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": format!("sha256:{}", layer.digest),
                "size": layer.size,
            })
        })
        .collect();
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let (manifest, manifest_size) = put(&json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{config}"),
            "size": config_size,
        },
        "layers": described,
    }))?;
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": manifest_type,
        "digest": format!("sha256:{manifest}"),
        "size": manifest_size,
        "annotations": {
            "org.opencontainers.image.ref.name": name,
            "io.containerd.image.name": name,
        },
    }]});
    fs::write(target.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(target.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

/// Digest of the config of a layout's only image, `sha256:…`: what container runtimes call the image's id.
pub fn image_id(layout: &Path) -> Result<String> {
    let odd = || format!("{} is no image layout", layout.display());
    let read = |path: PathBuf| -> Result<serde_json::Value> { Ok(serde_json::from_slice(&fs::read(path).with_context(odd)?)?) };
    let index = read(layout.join("index.json"))?;
    let manifest = index.pointer("/manifests/0/digest").and_then(|d| d.as_str());
    let digest = manifest.and_then(|digest| digest.strip_prefix("sha256:")).with_context(odd)?;
    let manifest = read(layout.join("blobs/sha256").join(digest))?;
    let id = manifest.pointer("/config/digest").and_then(|d| d.as_str());
    Ok(id.with_context(odd)?.to_owned())
}

/// The names of the images in an archive (a tar of a layout); an error if there is none, or one that a shell would
/// not take as it is.
pub fn names_in_archive(archive: &Path) -> Result<Vec<String>> {
    let read = |member: &str| Command::new("tar").arg("-xOf").arg(archive).arg(member).output();
    let mut output = read("./index.json")?;
    if !output.status.success() {
        output = read("index.json")?;
    }
    let index: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{} is no OCI image archive", archive.display()))?;
    let names: Vec<String> = index
        .get("manifests")
        .and_then(|manifests| manifests.as_array())
        .into_iter()
        .flatten()
        .filter_map(|manifest| manifest.pointer("/annotations/org.opencontainers.image.ref.name"))
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let odd = |name: &String| !name.chars().all(|c| c.is_ascii_alphanumeric() || "/:.-_".contains(c));
    if names.is_empty() || names.iter().any(odd) {
        bail!("{} holds no image with a plain name", archive.display());
    }
    Ok(names)
}

/// Digests of the blobs in a layout, without `sha256:`.
pub fn blobs(layout: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(layout.join("blobs/sha256"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_layout_names_its_image_and_shares_its_layers() {
        let folder = std::env::temp_dir().join(format!("godwit-oci-{}", std::process::id()));
        fs::create_dir_all(folder.join("root/etc")).unwrap();
        fs::write(folder.join("root/etc/file"), "content").unwrap();
        let pack = |name: &str| {
            Layer::pack(&folder.join("root"), &[], &folder.join(name)).unwrap();
            Layer::existing(&folder.join(name)).unwrap()
        };
        let layer = pack("one.layer");
        assert_eq!(layer.digest, pack("two.layer").digest, "reproducible");

        let layout = folder.join("layout");
        let layers = std::slice::from_ref(&layer);
        write_layout("localhost/test:1", layers, &["/bin/true"], &layout).unwrap();
        let all = blobs(&layout).unwrap();
        assert_eq!(all.len(), 3, "layer, config and manifest");
        assert!(all.contains(&layer.digest));
        let id = image_id(&layout).unwrap();
        assert!(all.contains(&id.trim_start_matches("sha256:").to_owned()));

        fs::write(folder.join("root/etc/file"), "another").unwrap();
        assert_ne!(pack("one.layer").digest, layer.digest);
        let kept = fs::read(layout.join("blobs/sha256").join(&layer.digest)).unwrap();
        assert_eq!(hex(&Sha256::digest(&kept)), layer.digest, "not overwritten");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_archive_without_a_plain_name_is_refused() {
        let file = std::env::temp_dir().join(format!("godwit-no-image-{}", std::process::id()));
        fs::write(&file, "no tar").unwrap();
        assert!(names_in_archive(&file).is_err());
        fs::remove_file(&file).unwrap();
    }
}
