//! OCI images of checkpoints: a scratch image with one layer, which is the archive, and annotations by which CRI-O and containerd know it.
//!
//! ```text
//!   oci-layout  index.json ─▶ blobs/sha256/MANIFEST ─┬▶ blobs/sha256/CONFIG
//!                                annotations of both └▶ blobs/sha256/LAYER = the archive
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Archive, Packing, unpacked};
use crate::Problem;

/// The list of images of a layout.
pub const INDEX: &str = "index.json";
/// Annotation that makes CRI-O restore an image instead of running it (its `internal/annotations/checkpoint.go`).
pub const CRIO_NAME: &str = "io.kubernetes.cri-o.annotations.checkpoint.name";
/// The same for containerd (checkpointctl's `lib/annotations.go`).
pub const CRIU_NAME: &str = "org.criu.checkpoint.container.name";

/// The name of the layer's blob of the only image in a layout, whose small files are given by name.
///
/// # Errors
/// If it is not the image of a checkpoint.
pub fn layer(blob: impl Fn(&str) -> Option<Vec<u8>>) -> Result<String, Problem> {
    let json = |name: &str| -> Result<Value, Problem> {
        let bytes = blob(name).ok_or_else(|| Problem::MissingImage { file: name.to_owned() })?;
        serde_json::from_slice(&bytes).map_err(|error| Problem::damaged(name, error.to_string()))
    };
    let path = |name: &str, value: &Value| match value["digest"].as_str().and_then(|digest| digest.split_once(':')) {
        Some((kind, hex)) if kind.bytes().all(|byte| byte.is_ascii_alphanumeric()) && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(format!("blobs/{kind}/{hex}"))
        }
        _ => Err(Problem::damaged(name, "it names no blob")),
    };
    let index = json(INDEX)?;
    let manifest = path(INDEX, &index["manifests"][0])?;
    let image = json(&manifest)?;
    let layers = image["layers"].as_array().map_or(0, Vec::len);
    if layers != 1 {
        return Err(Problem::damaged(&manifest, format!("{layers} layers: the image of a checkpoint has one")));
    }
    path(&manifest, &image["layers"][0])
}

/// The annotations of an image of this checkpoint: both families.
#[must_use]
pub fn annotations(archive: &Archive) -> BTreeMap<String, String> {
    let config = |name: &str| archive.config[name].as_str().map(str::to_owned);
    let labels = |name: &str| archive.status["labels"][name].as_str().map(str::to_owned);
    let spec = |name: &str| archive.spec["annotations"][name].as_str().map(str::to_owned);
    // The container's own name, as the pod calls it.
    let name = labels("io.kubernetes.container.name")
        .or_else(|| spec("io.kubernetes.container.name"))
        .or_else(|| spec("io.kubernetes.cri.container-name"))
        .or_else(|| config("name"));
    let pod = spec("io.kubernetes.pod.name").or_else(|| spec("io.kubernetes.cri.sandbox-name"));
    let namespace = spec("io.kubernetes.pod.namespace").or_else(|| spec("io.kubernetes.cri.sandbox-namespace"));
    let uid = spec("io.kubernetes.pod.uid").or_else(|| spec("io.kubernetes.cri.sandbox-uid"));
    let pairs = [
        (CRIO_NAME, name.clone()),
        ("io.kubernetes.cri-o.annotations.checkpoint.rawImageName", config("rootfsImage")),
        ("io.kubernetes.cri-o.annotations.checkpoint.rootfsImageID", config("rootfsImageRef")),
        ("io.kubernetes.cri-o.annotations.checkpoint.rootfsImageName", config("rootfsImageName")),
        (CRIU_NAME, name),
        ("org.criu.checkpoint.pod.name", pod),
        ("org.criu.checkpoint.pod.namespace", namespace),
        ("org.criu.checkpoint.pod.uid", uid),
        ("org.criu.checkpoint.rawImageName", config("rootfsImage")),
        ("org.criu.checkpoint.rootfsImageID", config("rootfsImageRef")),
        ("org.criu.checkpoint.rootfsImageName", config("rootfsImageName")),
        ("org.criu.checkpoint.runtime.name", config("runtime")),
    ];
    pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.filter(|value| !value.is_empty())?))).collect()
}

/// Writes an archive as an OCI layout into an empty directory. The layer is what the file is: if it is not compressed, neither is the layer.
///
/// # Errors
/// If something cannot be read or written, or the archive names no container.
pub fn write(source: &Path, directory: &Path, reference: &str) -> Result<(), Problem> {
    let archive = Archive::open(source)?;
    let annotations = annotations(&archive);
    if !annotations.contains_key(CRIU_NAME) {
        return Err(Problem::damaged("config.dump", "it names no container: runtimes would not know this for a checkpoint"));
    }
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(Problem::read(&blobs))?;
    let (layer, length, packing) = copy(source, &blobs).map_err(Problem::read(source))?;
    let diff = if packing == Packing::None { layer.clone() } else { plain_digest(source).map_err(Problem::read(source))? };
    let kind = match packing {
        Packing::None => "application/vnd.oci.image.layer.v1.tar",
        Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    };
    let architecture = architecture();
    let put = |value: &Value| -> Result<(String, usize), Problem> {
        let bytes = value.to_string().into_bytes();
        let digest = format!("{:x}", Sha256::digest(&bytes));
        fs::write(blobs.join(&digest), &bytes).map_err(Problem::read(&blobs))?;
        Ok((format!("sha256:{digest}"), bytes.len()))
    };
    let (config, config_size) =
        put(&json!({"architecture": architecture, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff}")]}}))?;
    let (manifest, manifest_size) = put(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers": [{"mediaType": kind, "digest": format!("sha256:{layer}"), "size": length}],
        "annotations": annotations,
    }))?;
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": manifest_size,
            "annotations": {"org.opencontainers.image.ref.name": reference, "io.containerd.image.name": reference},
            "platform": {"architecture": architecture, "os": "linux"},
        }],
    });
    for (name, text) in [("oci-layout", json!({"imageLayoutVersion": "1.0.0"})), (INDEX, index)] {
        let path = directory.join(name);
        fs::write(&path, text.to_string()).map_err(Problem::read(&path))?;
    }
    Ok(())
}

/// This machine's processor, as images name it (OCI image specification, config.md).
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Copies the layer; gives digest, length and compression.
fn copy(source: &Path, blobs: &Path) -> io::Result<(String, u64, Packing)> {
    let packing = unpacked(File::open(source)?)?.0;
    let temporary = blobs.join("layer");
    let mut out = private(&temporary)?;
    let (digest, length) = hash(File::open(source)?, &mut out)?;
    fs::rename(&temporary, blobs.join(&digest))?;
    Ok((digest, length, packing))
}

fn plain_digest(source: &Path) -> io::Result<String> {
    Ok(hash(unpacked(File::open(source)?)?.1, &mut io::sink())?.0)
}

fn hash(mut reader: impl Read, out: &mut impl Write) -> io::Result<(String, u64)> {
    let (mut hasher, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = match reader.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Ok((format!("{:x}", hasher.finalize()), length));
        }
        hasher.update(&buffer[..read]);
        out.write_all(&buffer[..read])?;
        length += read as u64;
    }
}

/// A new file that only its owner can read: it holds memory.
pub(super) fn private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().write(true).create_new(true).mode(0o600).open(path)
}
