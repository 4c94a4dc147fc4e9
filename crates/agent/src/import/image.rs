//! A checkpoint image of a container with no memory in it: what the container runtime reads before it calls CRIU. CRIU itself finds everything elsewhere ([`super::conf`]).
//!
//! ```text
//!   checkpoint/inventory.img      empty: the runtime only looks whether it is there
//!   checkpoint/descriptors.json   read by runc
//!   config.dump, spec.dump        read by CRI-O (server/container_restore.go): the container's own image, its annotations and mounts
//!   …, status.dump                read by containerd (internal/cri/server/container_checkpoint_linux.go), likewise
//! ```
//! A CRIU that is not led elsewhere finds no inventory, and restores nothing.

use std::io;

use aws_lc_rs::digest::{SHA256, digest};
use godwit_criu::archive::{CRIO_ANNOTATIONS, MADE_BY_CRIO, oci};
use serde_json::{Value, json};

use godwit_api::names::IMAGES_PORT;
use godwit_node::cri::Kind;

use super::archived::Archived;

/// Media type of the manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of the configuration.
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The repository of a container's own image under its other name; of no image in particular, what all of them begin with.
#[must_use]
pub fn base_name(image_id: &str) -> String {
    format!("127.0.0.1:{IMAGES_PORT}/base/{image_id}")
}

/// Another name for an image that containerd has: it pulls the container's own image once more before a restore, by a name that needs no login and no way to a registry. Of the image only
/// the configuration is pulled, by whose digest containerd knows what it has (the snapshots of its layers).
#[must_use]
pub fn base(image_id: &str) -> Blob {
    let config = json!({"mediaType": CONFIG, "digest": format!("sha256:{image_id}"), "size": 0});
    Blob::of(json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}).to_string().into_bytes())
}

/// Something that is pulled by its digest.
#[derive(Clone, Debug)]
pub struct Blob {
    /// `sha256:…`.
    pub digest: String,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl Blob {
    fn of(bytes: Vec<u8>) -> Self {
        let hex: String = digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { digest: format!("sha256:{hex}"), bytes }
    }

    fn described(&self, kind: &str) -> Value {
        json!({"mediaType": kind, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// Such an image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its manifest.
    pub manifest: Blob,
    /// Its configuration and its only layer.
    pub blobs: [Blob; 2],
}

impl Image {
    /// The image of a container, whose own image is `image`; `id` is a word that no other has.
    ///
    /// # Errors
    /// When it cannot be packed.
    pub fn of(container: &str, image: &str, archived: &Archived, id: &str, runtime: Kind) -> io::Result<Self> {
        let layer = Blob::of(layer(container, image, archived, runtime)?);
        // The word makes each image one of its own: one that is removed takes nothing else along.
        let config =
            json!({"architecture": oci::architecture(), "os": "linux", "author": id, "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer.digest]}});
        let config = Blob::of(config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": config.described(CONFIG),
            "layers": [layer.described("application/vnd.oci.image.layer.v1.tar")],
            "annotations": {oci::CRIO_NAME: container, oci::CRIU_NAME: container},
        });
        Ok(Self { manifest: Blob::of(manifest.to_string().into_bytes()), blobs: [config, layer] })
    }
}

fn layer(container: &str, image: &str, archived: &Archived, runtime: Kind) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut folder = tar::Header::new_gnu();
    folder.set_entry_type(tar::EntryType::Directory);
    folder.set_mode(0o700);
    folder.set_size(0);
    tar.append_data(&mut folder, "checkpoint/", io::empty())?;
    let now = jiff::Timestamp::now();
    let mut config = json!({
        "id": container, "name": container, "rootfsImage": image, "rootfsImageName": image, "runtime": "",
        "createdTime": now, "checkpointedTime": now, "restoredTime": now, "restored": false,
    });
    if runtime == Kind::Containerd {
        let name = base_name(&archived.image_id);
        config["rootfsImageName"] = json!(format!("{name}:1"));
        config["rootfsImageRef"] = json!(format!("{name}@{}", base(&archived.image_id).digest));
    }
    let mut annotations = archived.annotations.clone();
    annotations.insert("io.kubernetes.container.restartCount".into(), "0".into());
    // CRI-O puts in the new container's if there is one.
    annotations.entry("io.kubernetes.container.hash".into()).or_default();
    let binds = archived.binds.iter().filter(|path| !MADE_BY_CRIO.contains(&path.as_str()));
    let spec = json!({
        "ociVersion": "1.2.0",
        "annotations": {CRIO_ANNOTATIONS: serde_json::to_string(&annotations)?},
        "mounts": binds.map(|path| json!({"destination": path, "type": "bind"})).collect::<Vec<_>>(),
        "linux": {"maskedPaths": archived.masked, "readonlyPaths": archived.readonly},
    });
    let status = json!({
        "metadata": {"name": container}, "annotations": annotations, "labels": {},
        "image": {"image": format!("sha256:{}", archived.image_id), "user_specified_image": image},
    });
    for (name, bytes) in [
        // No runtime can mount /proc and /dev on files: one that does not import starts nothing of this image.
        ("proc", Vec::new()),
        ("dev", Vec::new()),
        ("checkpoint/inventory.img", Vec::new()),
        ("checkpoint/descriptors.json", serde_json::to_vec(&archived.descriptors)?),
        ("config.dump", config.to_string().into_bytes()),
        ("spec.dump", spec.to_string().into_bytes()),
        ("status.dump", status.to_string().into_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, name, bytes.as_slice())?;
    }
    tar.into_inner()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_image_holds_what_crio_reads() {
        let archived = Archived {
            descriptors: vec!["/dev/null".into(), "pipe:[1]".into(), "pipe:[2]".into()],
            annotations: BTreeMap::from([("io.kubernetes.container.restartCount".into(), "3".into())]),
            binds: vec!["/data".into(), "/etc/resolv.conf".into()],
            ..Archived::default()
        };
        let image = Image::of("web", "registry/app:1", &archived, "uid", Kind::CriO).unwrap();
        let manifest: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
        assert_eq!(manifest["layers"][0]["digest"], image.blobs[1].digest);
        assert_eq!(manifest["annotations"]["io.kubernetes.cri-o.annotations.checkpoint.name"], "web");
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(image.blobs[1].bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let (mut text, name) = (String::new(), entry.path().unwrap().to_string_lossy().into_owned());
            io::Read::read_to_string(&mut entry, &mut text).unwrap();
            found.insert(name, text);
        }
        assert_eq!(found["checkpoint/descriptors.json"], r#"["/dev/null","pipe:[1]","pipe:[2]"]"#);
        let spec: Value = serde_json::from_str(&found["spec.dump"]).unwrap();
        assert_eq!(spec["mounts"], json!([{"destination": "/data", "type": "bind"}]));
        let annotations: Value = serde_json::from_str(spec["annotations"][CRIO_ANNOTATIONS].as_str().unwrap()).unwrap();
        assert_eq!((annotations["io.kubernetes.container.restartCount"].as_str(), annotations["io.kubernetes.container.hash"].as_str()), (Some("0"), Some("")));
        let config: Value = serde_json::from_str(&found["config.dump"]).unwrap();
        assert_eq!(config["rootfsImageName"], "registry/app:1");
    }
}
