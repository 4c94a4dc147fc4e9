//! Which mounts of a container CRIU must not make by itself, and the keys under which both sides speak of them.
//!
//! A container's mount table holds mounts that CRIU can make again (proc, sysfs, devpts, mqueue, the binds of `readonlyPaths`) and mounts that come from
//! the node (volumes, cgroups, masks). The latter are *external*: the image has only a key, and the restore is told what to mount for it.
//!
//! | mount | key | what the target mounts |
//! |---|---|---|
//! | writable bind of the OCI configuration | its path, as `runc restore` expects it | `runc restore` names the target's own source |
//! | bind with restricting flags, or a slave mount | `godwit:…` | the target's own source, flags set beforehand |
//! | cgroup hierarchy | `godwit:…` | the cgroup of the target's container |
//! | masked file, masked directory | `godwit:…` | a null device and an empty directory of our own |
//! | tmpfs `/dev`, tmpfs `/sys/fs/cgroup` (v1) | `godwit:…` | a new tmpfs with the same entries |
//!
//! Keys of our own, because `runc restore` would do less well: it shows the container the cgroups of *runc*, binds masks from the node's `/dev/null`,
//! and CRIU 4.2 forgets the flags of an external mount (also `ro`) when another mount of the same file system with the same flags was made before it.
//! A tmpfs that CRIU saves and unpacks by itself costs 10-20 ms on each side.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mountinfo::{self, Mount};
use crate::tmpfs;
use crate::{Problem, dump::Source};

/// Start of the keys that `runc restore` does not know.
const OWN: &str = "godwit:";

/// A mount that the target must provide. Travels from source to target as JSON.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct External {
    /// Its key in the CRIU image.
    pub key: String,
    /// Where it is, inside the container.
    pub mountpoint: String,
    /// Its options, e.g. `ro`, `nosuid`.
    pub flags: Vec<String>,
    /// Whether it receives mounts from the node.
    pub slave: bool,
    /// What it is.
    pub what: What,
}

impl External {
    /// Whether the key is ours, so that `runc restore` does not resolve it.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.key.starts_with(OWN)
    }

    /// Whether the key can stand in a configuration file: it comes from another node.
    pub(crate) fn is_sound(&self) -> bool {
        self.key.bytes().all(is_plain)
    }
}

/// What an external mount is.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A bind mount of the OCI configuration.
    Bind {
        /// `destination` there.
        destination: String,
    },
    /// The container's cgroup.
    Cgroup {
        /// Its controllers, `name=systemd` among them; none for cgroup v2.
        controllers: Vec<String>,
    },
    /// A masked file: a null device.
    Mask,
    /// A masked directory.
    Empty,
    /// A device node of the node, at its own path.
    Device,
    /// A small tmpfs of the runtime's making.
    Tmpfs(tmpfs::Snapshot),
}

/// Sorts the mount table of a container: what is external, under which key.
///
/// # Errors
/// [`Problem::UnknownMount`] names a mount that can neither be made by CRIU nor be explained by the configuration.
pub(crate) fn of(source: &Source<'_>) -> Result<Vec<External>, Problem> {
    let table = mountinfo::read(source.proc, source.pid)?;
    let root = source.proc.join(source.pid.to_string()).join("root");
    let spec = Spec::read(source.spec, &root)?;
    let points: BTreeSet<&str> = table.iter().map(|mount| mount.mountpoint.as_str()).collect();
    let mut externals = Vec::new();
    for (index, mount) in table.iter().enumerate().filter(|(_, mount)| mount.mountpoint != "/") {
        let Some(what) = classify(mount, &table, &spec, &root, &points)? else {
            continue;
        };
        externals.push(External { key: key(&what, mount, index), mountpoint: mount.mountpoint.clone(), flags: mount.flags.clone(), slave: mount.slave, what });
    }
    Ok(externals)
}

/// What means nothing to CRIU's parsers.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/._-:".contains(&byte)
}

fn key(what: &What, mount: &Mount, index: usize) -> String {
    match what {
        What::Bind { .. } if mount.flags.is_empty() && !mount.slave => mount.mountpoint.clone(),
        // The path is for whoever reads a log; blanks and brackets would end the word in a configuration file.
        _ => {
            let path: String = mount.mountpoint.chars().map(|c| if u8::try_from(c).is_ok_and(is_plain) { c } else { '_' }).collect();
            format!("{OWN}{index}{path}")
        }
    }
}

fn classify(mount: &Mount, table: &[Mount], spec: &Spec, root: &Path, points: &BTreeSet<&str>) -> Result<Option<What>, Problem> {
    let path = mount.mountpoint.as_str();
    if let Some((_, destination)) = spec.binds.iter().find(|(resolved, _)| resolved == path) {
        return Ok(Some(What::Bind { destination: destination.clone() }));
    }
    if matches!(mount.kind.as_str(), "cgroup" | "cgroup2") {
        let named = |option: &&str| !matches!(*option, "rw" | "ro" | "xattr") && !option.starts_with("release_agent") && !option.starts_with("clone_children");
        let controllers = if mount.kind == "cgroup" { mount.options.split(',').filter(named).map(str::to_owned).collect() } else { Vec::new() };
        return Ok(Some(What::Cgroup { controllers }));
    }
    if spec.masked.contains(path) {
        return Ok(Some(if root.join(&path[1..]).is_dir() { What::Empty } else { What::Mask }));
    }
    if mount.kind == "tmpfs" && mount.root == "/" && spec.tmpfs.contains(path) {
        let taken = tmpfs::Snapshot::take(root, path, &mount.options, points)?;
        return Ok(taken.map(What::Tmpfs));
    }
    if mount.kind == "devtmpfs" && spec.devices.contains(path) {
        return Ok(Some(What::Device));
    }
    if made_by_criu(mount, table) {
        return Ok(None);
    }
    // Also a mount of the node below a bind: a volume that brings more than itself.
    Err(Problem::UnknownMount { mountpoint: path.to_owned(), kind: mount.kind.clone() })
}

/// Whether CRIU can make it: a file system of its own, or a bind of one that it makes, or a bind of the container's root.
fn made_by_criu(mount: &Mount, table: &[Mount]) -> bool {
    const KINDS: [&str; 6] = ["proc", "sysfs", "devpts", "mqueue", "tmpfs", "overlay"];
    let whole = |other: &Mount| other.device == mount.device && other.root == "/" && KINDS.contains(&other.kind.as_str());
    table.iter().any(whole)
}

/// What the OCI configuration says of mounts.
struct Spec {
    /// Where each bind mount really is (symbolic links resolved inside the container), and its destination as written.
    binds: Vec<(String, String)>,
    tmpfs: BTreeSet<String>,
    masked: BTreeSet<String>,
    devices: BTreeSet<String>,
}

impl Spec {
    fn read(spec: &Value, root: &Path) -> Result<Self, Problem> {
        let mounts = spec["mounts"].as_array().ok_or(Problem::Spec("mounts"))?;
        let strings = |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect::<BTreeSet<_>>();
        let mut binds = Vec::new();
        let mut tmpfs = BTreeSet::new();
        for mount in mounts {
            let Some(destination) = mount["destination"].as_str() else {
                continue;
            };
            if is_bind(mount) {
                binds.push((resolve(root, destination), destination.to_owned()));
            } else if matches!((mount["type"].as_str(), destination), (Some("tmpfs"), "/dev") | (Some("cgroup"), "/sys/fs/cgroup")) {
                tmpfs.insert(destination.to_owned());
            }
        }
        // The last mount at a place hides the ones before it.
        binds.reverse();
        let devices = spec["linux"]["devices"].as_array().into_iter().flatten().filter_map(|device| device["path"].as_str()).map(str::to_owned).collect();
        Ok(Self { binds, tmpfs, masked: strings(&spec["linux"]["maskedPaths"]), devices })
    }
}

/// As the runtimes decide: the type, or `bind` or `rbind` among the options.
pub(crate) fn is_bind(mount: &Value) -> bool {
    let options = mount["options"].as_array().into_iter().flatten().filter_map(Value::as_str);
    mount["type"].as_str() == Some("bind") || options.into_iter().any(|option| matches!(option, "bind" | "rbind"))
}

/// Follows symbolic links as inside a root directory; parts that do not exist stay as they are.
fn resolve(root: &Path, path: &str) -> String {
    let mut done = PathBuf::from("/");
    let mut left: Vec<std::ffi::OsString> = parts(Path::new(path));
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == ".." {
            done.pop();
            continue;
        }
        let inside = root.join(done.join(&part).strip_prefix("/").unwrap_or(Path::new("")));
        match std::fs::read_link(&inside) {
            Ok(target) if links < 40 => {
                links += 1;
                if target.is_absolute() {
                    done = PathBuf::from("/");
                }
                left.extend(parts(&target));
            }
            _ => done.push(&part),
        }
    }
    done.to_string_lossy().into_owned()
}

/// The parts of a path, last one first.
fn parts(path: &Path) -> Vec<std::ffi::OsString> {
    path.components().rev().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir)).map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_inside_the_container_only() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run/secrets")).unwrap();
        std::fs::create_dir_all(root.path().join("var")).unwrap();
        symlink("/run", root.path().join("var/run")).unwrap();
        symlink("../../../../etc", root.path().join("run/up")).unwrap();
        symlink("loop", root.path().join("run/loop")).unwrap();
        assert_eq!(resolve(root.path(), "/var/run/secrets/kubernetes.io/serviceaccount"), "/run/secrets/kubernetes.io/serviceaccount");
        assert_eq!(resolve(root.path(), "/run/up/hosts"), "/etc/hosts");
        assert_eq!(resolve(root.path(), "/run/loop"), "/run/loop");
        assert_eq!(resolve(root.path(), "/data//x/../y/"), "/data/y");
    }
}
