//! OCI image archives: a tar of an image layout, with uncompressed layers.
//!
//! ```text
//!   oci-layout  index.json ─▶ manifest ─▶ config (diff ids)
//!                                     └─▶ layers: tar files, named by their digest
//! ```
//! Source of the formats: the OCI image specification 1.1.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
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

impl Layer {
    /// Packs a folder as a layer file; `except` are folders relative to it that stay out.
    pub fn pack(folder: &Path, except: &[&str], target: &Path) -> Result<Self> {
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
        let status = tar.arg("-cf").arg(target).arg(".").status();
        if !status.context("tar cannot be run")?.success() {
            bail!("tar could not pack {}", folder.display());
        }
        Self::existing(target)
    }

    /// A layer file that is there already.
    pub fn existing(path: &Path) -> Result<Self> {
        let (digest, size) = digest_of(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            digest,
            size,
        })
    }
}

fn digest_of(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).with_context(|| format!("{} is unreadable", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let length = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
            return Ok((hex(&hash.finalize()), size));
        };
        hash.update(bytes);
        size += length as u64;
    }
}

/// Writes an image archive; returns the image's id, the digest of its config.
pub fn write_archive(
    name: &str,
    layers: &[Layer],
    command: &[&str],
    target: &Path,
) -> Result<String> {
    let mut folder = target.as_os_str().to_owned();
    folder.push(".layout");
    let folder = PathBuf::from(folder);
    remove(&folder)?;
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |value: &serde_json::Value| -> Result<(String, usize)> {
        let bytes = serde_json::to_vec(value)?;
        let digest = hex(&Sha256::digest(&bytes));
        fs::write(blobs.join(&digest), &bytes)?;
        Ok((digest, bytes.len()))
    };
    for layer in layers {
        std::os::unix::fs::symlink(fs::canonicalize(&layer.path)?, blobs.join(&layer.digest))?;
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let ids: Vec<String> = layers
        .iter()
        .map(|l| format!("sha256:{}", l.digest))
        .collect();
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
    fs::write(folder.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    let status = Command::new("tar")
        .arg("-C")
        .arg(&folder)
        .args(["--dereference", "--numeric-owner", "-cf"])
        .arg(target)
        .arg(".")
        .status()
        .context("tar cannot be run")?;
    remove(&folder)?;
    if !status.success() {
        bail!("tar could not write {}", target.display());
    }
    Ok(config)
}
