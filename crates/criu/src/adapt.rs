//! Images for another place: keys of mounts, host name, addresses, cgroups and paths are changed, everything else stays as it was, byte by byte.
//!
//! ```text
//!   Change ─▶ MountKey   mountpoints-N  mnt_entry.ext_key              crun's `//run/…` is runc's `/run/…`
//!             Hostname   utsns-N        utsns_entry.nodename
//!             Address    files          inet_sk_entry.src_addr, dst_addr
//!             Cgroup     cgroup         cg_member_entry.path, top cgroup_dir_entry.dir_name
//!             Path       files          reg_file_entry.name, unix_sk_entry.name
//! ```
//! Each change must find what it changes: images in which there is nothing to change are other images than the caller believes, and are refused before
//! anything is written.

mod rewrite;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::{fs, io};

use crate::Problem;
use crate::images::{FILES, Set, put_entries, schema::View, write_entries};
use rewrite::{Edits, New, rewrite};

/// Something to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key under which a mount is given to the restore.
    MountKey {
        /// The key in the images.
        from: String,
        /// The key that the restoring runtime uses.
        to: String,
    },
    /// The name of the host. Only if the images bring a UTS namespace.
    Hostname {
        /// The new name.
        to: String,
    },
    /// An address of sockets, their own or the other end's.
    Address {
        /// The old one.
        from: IpAddr,
        /// The new one, of the same family.
        to: IpAddr,
    },
    /// The cgroup of processes, and everything below it.
    Cgroup {
        /// The old one, as `/proc/PID/cgroup` has it.
        from: String,
        /// The new one.
        to: String,
    },
    /// A file or directory that is open, and everything below it.
    Path {
        /// The old one, inside the container.
        from: String,
        /// The new one.
        to: String,
    },
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::MountKey { from, to } => write!(f, "mount key {from} → {to}"),
            Self::Hostname { to } => write!(f, "host name → {to}"),
            Self::Address { from, to } => write!(f, "address {from} → {to}"),
            Self::Cgroup { from, to } => write!(f, "cgroup {from} → {to}"),
            Self::Path { from, to } => write!(f, "path {from} → {to}"),
        }
    }
}

/// Changes the images in a directory, and their list of digests if there is one; gives how often each change was made. Either all are made or none.
///
/// # Errors
/// [`Problem::NothingToAdapt`] if a change finds nothing, [`Problem::Damaged`] if an image is damaged, [`Problem::Read`] if one cannot be read or written.
pub fn adapt(directory: &Path, changes: &[Change]) -> Result<Vec<u32>, Problem> {
    let set = Set::open(directory)?;
    let mut counts = vec![0; changes.len()];
    let mut written: BTreeMap<&String, Vec<Vec<u8>>> = BTreeMap::new();
    for (name, image) in &set.images {
        if !["mountpoints-", "utsns-", "cgroup."].iter().any(|kind| name.starts_with(kind)) && name != FILES {
            continue;
        }
        let mut changed = false;
        let entries: Vec<Vec<u8>> = image
            .views()
            .map(|view| match rewrite(&view, &mut |message| edits(message, changes, &mut counts)) {
                Some(bytes) => {
                    changed = true;
                    bytes
                }
                None => view.bytes.to_vec(),
            })
            .collect();
        if changed {
            written.insert(name, entries);
        }
    }
    if let Some((change, _)) = changes.iter().zip(&counts).find(|(_, count)| **count == 0) {
        return Err(Problem::NothingToAdapt { what: change.to_string() });
    }
    // All are ready before the first takes its place.
    let temporary = |name: &str| directory.join(format!(".{name}.new"));
    for (name, entries) in &written {
        let path = temporary(name);
        write_entries(&path, name, entries).map_err(Problem::read(&path))?;
    }
    for name in written.keys() {
        fs::rename(temporary(name), directory.join(name)).map_err(Problem::read(directory))?;
    }
    let names: Vec<&str> = written.keys().map(|name| name.as_str()).collect();
    crate::images::renew(directory, &names).map_err(Problem::read(directory))?;
    Ok(counts)
}

/// The changes that make mounts of a container that crun ran those of runc: crun's keys keep the double slash of a destination below an absolute symbolic
/// link (`/var/run`), runc's have one. Nothing if there is nothing to change.
///
/// # Errors
/// If the images cannot be read.
pub fn crun_to_runc(directory: &Path) -> Result<Vec<Change>, Problem> {
    let keys = mount_keys(&Set::open(directory)?);
    Ok(keys
        .into_iter()
        .filter_map(|key| Some(Change::MountKey { to: key.strip_prefix('/').filter(|rest| rest.starts_with('/'))?.to_owned(), from: key }))
        .collect())
}

/// The changes that make mounts of a container that runc ran those of crun, for these mountpoints: those whose destination leads through an absolute symbolic
/// link of the image, e.g. `/run/secrets/kubernetes.io/serviceaccount`, which the pod has as `/var/run/secrets/…`.
#[must_use]
pub fn runc_to_crun(mountpoints: &[&str]) -> Vec<Change> {
    mountpoints.iter().map(|path| Change::MountKey { from: (*path).to_owned(), to: format!("/{path}") }).collect()
}

/// The image of open files in which nothing is said of the mode of the root directory; `None` if nothing was said before. Runtimes make that directory with
/// different modes (containerd 0755, CRI-O 0555), and CRIU refuses an open file that has another mode than before, but does not ask for one that is not said.
///
/// # Errors
/// If the image cannot be written.
pub(crate) fn without_root_mode(set: &Set) -> io::Result<Option<Vec<u8>>> {
    let Some(files) = set.images.get(FILES) else { return Ok(None) };
    let mut changed = false;
    let entries: Vec<Vec<u8>> = files
        .views()
        .map(|view| {
            let new = rewrite(&view, &mut |message| {
                // Opened as root, as current directory, or by a descriptor.
                let is_root = message.descriptor.name() == "reg_file_entry" && matches!(message.bytes("name"), Some(b"/" | b"." | b""));
                if is_root && message.number("mode").is_some() { vec![("mode", Vec::new())] } else { Vec::new() }
            });
            changed |= new.is_some();
            new.unwrap_or_else(|| view.bytes.to_vec())
        })
        .collect();
    if changed { put_entries(FILES, &entries).map(Some) } else { Ok(None) }
}

/// The keys of all mounts that the restore must be given.
#[must_use]
pub fn mount_keys(set: &Set) -> Vec<String> {
    let images = set.images.iter().filter(|(name, _)| name.starts_with("mountpoints-"));
    images.flat_map(|(_, image)| image.views()).filter_map(|mount| mount.text("ext_key")).filter(|key| !key.is_empty()).collect()
}

/// What is to be changed in one message: fields and their new values.
fn edits(message: &View<'_>, changes: &[Change], counts: &mut [u32]) -> Edits {
    let mut edits: Edits = Vec::new();
    for (change, count) in changes.iter().zip(counts) {
        let found = match (change, message.descriptor.name()) {
            (Change::MountKey { from, to }, "mnt_entry") => text(message, "ext_key", |key| (key == from).then(|| to.clone())),
            (Change::Hostname { to }, "utsns_entry") => text(message, "nodename", |_| Some(to.clone())),
            (Change::Cgroup { from, to }, "cg_member_entry") => text(message, "path", |path| below(path, from, to)),
            // Only the directories at the top have whole paths.
            (Change::Cgroup { from, to }, "cg_controller_entry") => directories(message, from, to),
            (Change::Path { from, to }, "reg_file_entry") => text(message, "name", |path| below(path, from, to)),
            (Change::Path { from, to }, "unix_sk_entry") => name(message, from, to),
            (Change::Address { from, to }, "inet_sk_entry") => {
                ["src_addr", "dst_addr"].into_iter().filter(|field| address(message, field) == Some(*from)).map(|field| (field, words(*to))).collect()
            }
            _ => Vec::new(),
        };
        *count += u32::try_from(found.len()).unwrap_or(u32::MAX);
        // The first change of a field counts.
        edits.extend(found.into_iter().filter(|(field, _)| !message_has(&edits, field)).collect::<Vec<_>>());
    }
    edits
}

fn message_has(edits: &[(&'static str, Vec<New>)], field: &str) -> bool {
    edits.iter().any(|(other, _)| *other == field)
}

fn text(message: &View<'_>, field: &'static str, change: impl Fn(&str) -> Option<String>) -> Edits {
    // What is no UTF-8 is not what a caller can name.
    let new = message.bytes(field).and_then(|bytes| std::str::from_utf8(bytes).ok()).and_then(change);
    new.map(|new| (field, vec![New::Bytes(new.into_bytes())])).into_iter().collect()
}

/// A path that is `from` or below it, moved to `to`. CRIU leaves out the slash at the beginning of some.
fn below(path: &str, from: &str, to: &str) -> Option<String> {
    let (slash, bare) = path.strip_prefix('/').map_or(("", path), |bare| ("/", bare));
    let rest = bare.strip_prefix(from.trim_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then(|| format!("{slash}{}{rest}", to.trim_matches('/')))
}

/// The path of a unix socket, which ends with a zero.
fn name(socket: &View<'_>, from: &str, to: &str) -> Edits {
    let Some(bytes) = socket.bytes("name").filter(|bytes| bytes.first() == Some(&b'/')) else { return Vec::new() };
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let new = std::str::from_utf8(&bytes[..end]).ok().and_then(|path| below(path, from, to));
    new.map(|new| ("name", vec![New::Bytes([new.as_bytes(), &bytes[end..]].concat())])).into_iter().collect()
}

fn directories(controller: &View<'_>, from: &str, to: &str) -> Edits {
    let mut found = false;
    let all = controller.views("dirs").into_iter().map(|directory| {
        let new = rewrite(&directory, &mut |message| {
            if message.bytes == directory.bytes { text(message, "dir_name", |path| below(path, from, to)) } else { Vec::new() }
        });
        found |= new.is_some();
        New::Bytes(new.unwrap_or_else(|| directory.bytes.to_vec()))
    });
    let all: Vec<New> = all.collect();
    if found { vec![("dirs", all)] } else { Vec::new() }
}

fn address(socket: &View<'_>, field: &str) -> Option<IpAddr> {
    let bytes: Vec<u8> = socket.numbers(field).into_iter().flat_map(|word| (word as u32).to_le_bytes()).collect();
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// CRIU keeps addresses as the words that the kernel has in memory.
fn words(address: IpAddr) -> Vec<New> {
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    bytes.chunks(4).map(|word| New::Number(word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_parts_of_paths_are_moved() {
        assert_eq!(below("/data/x", "/data", "/new/data").as_deref(), Some("/new/data/x"));
        assert_eq!(below("data/x", "/data/", "/new").as_deref(), Some("new/x"));
        assert_eq!(below("/data", "/data", "/new").as_deref(), Some("/new"));
        assert_eq!(below("/database", "/data", "/new"), None);
    }

    #[test]
    fn addresses_are_words_of_memory() {
        assert_eq!(words(IpAddr::from([10, 0, 0, 1])), [New::Number(0x0100_000a)]);
        assert_eq!(words(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])).len(), 4);
    }
}
