//! Mounts.

use serde::Serialize;

use crate::images::{Set, schema, schema::View};

/// A mount inside the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where.
    pub mountpoint: String,
    /// Type of its file system, e.g. `overlay`; empty if it comes from outside and is of a kind that CRIU does not know.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Which directory of it.
    pub root: String,
    /// `ro`, `nosuid` …
    pub flags: Vec<&'static str>,
    /// If the restore must be given it from outside: under which key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<String>,
}

/// `MS_…`.
const FLAGS: [(u64, &str); 7] = [(1, "ro"), (2, "nosuid"), (4, "nodev"), (8, "noexec"), (1 << 10, "noatime"), (1 << 20, "shared"), (1 << 19, "slave")];

/// All of them, the root first.
pub fn all(set: &Set) -> Vec<Mount> {
    let images = set.images.iter().filter(|(name, _)| name.starts_with("mountpoints-"));
    // CRIU writes them in the opposite order.
    let mut mounts: Vec<Mount> = images.flat_map(|(_, image)| image.views()).map(|entry| mount(&entry)).collect();
    mounts.reverse();
    mounts
}

fn mount(entry: &View<'_>) -> Mount {
    let text = |field| entry.text(field).unwrap_or_default();
    let flags = entry.number("flags").unwrap_or(0);
    // `ext_key` alone since CRIU 3.x; `ext_mount` before that.
    let external = entry.text("ext_key").or_else(|| entry.flag("ext_mount").then(String::new));
    let kind = entry.text("fsname").or_else(|| schema::value("fstype", entry.number("fstype")?)).unwrap_or_default().to_lowercase();
    Mount {
        mountpoint: text("mountpoint"),
        kind: match kind.as_str() {
            "overlayfs" => "overlay".into(),
            // A file system that CRIU would not make again; one that the restore is given needs no name.
            "unsupported" if external.is_some() => String::new(),
            _ => kind,
        },
        source: text("source"),
        root: text("root"),
        flags: FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, word)| *word).collect(),
        external,
    }
}
