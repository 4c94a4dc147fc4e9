//! What the target prepares for the external mounts of a container, and the lines for the configuration of its CRIU.
//!
//! ```text
//!   scratch/            a tmpfs of our own, private to the node
//!     null empty/       what masks are made of
//!     0 1 2 …           one mount for each key `godwit:…`: a tmpfs /dev, a bind of the container's cgroup, of a volume with its flags, of a mask
//! ```
//! CRIU binds from there; afterwards the container holds what it needs and the scratch directory goes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mounts::{External, What};
use crate::scratch::{Mount, Scratch, Stuff};
use crate::{Problem, mounts};

/// Flags of `runc restore`, besides the ones that name the container, its bundle and the images.
pub const FLAGS: &[&str] = &["--tcp-established", "--file-locks", "--ext-unix-sk", "--manage-cgroups-mode", "ignore"];

/// Lines that belong into the CRIU configuration of every restore; [`Prepared::lines`] begins with them. The first would crash CRIU in a configuration
/// file that is named over its RPC: they belong into `$HOME/.criu/default.conf`.
pub const LINES: &[&str] = &["network-lock skip", "mntns-compat-mode", "skip-in-flight", "link-remap", "ghost-limit 1G"];

/// A container that waits for its processes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its OCI configuration.
    pub spec: &'a Value,
    /// A directory on the node that is ours alone; it need not exist yet.
    pub scratch: &'a Path,
    /// Where the node has its cgroups: `/sys/fs/cgroup`.
    pub cgroups: &'a Path,
    /// The container's cgroup, below that (v2) or below each hierarchy (v1).
    pub cgroup: &'a Path,
    /// Whether the node has cgroup v2.
    pub v2: bool,
}

/// What to mount and what to tell CRIU.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Prepared {
    /// Lines for CRIU's configuration file.
    pub lines: Vec<String>,
    /// What will be different at the target, in words.
    pub warnings: Vec<String>,
    scratch: Scratch,
}

/// The lines that tell CRIU where the external mounts of our own keys are, if they are made in `scratch`: the same as those at the end of [`Prepared::lines`], before there is a
/// container.
///
/// # Errors
/// [`Problem::UnknownMount`] for a key that cannot stand in a configuration file.
pub fn lines(externals: &[External], scratch: &Path) -> Result<Vec<String>, Problem> {
    let own = externals.iter().filter(|external| external.is_own()).enumerate();
    own.map(|(number, external)| line(external, &scratch.join(number.to_string()))).collect()
}

fn line(external: &External, path: &Path) -> Result<String, Problem> {
    if !external.is_sound() {
        return Err(Problem::UnknownMount { mountpoint: external.mountpoint.clone(), kind: "unusable key".into() });
    }
    Ok(format!("external mnt[{}]:{}", external.key, path.display()))
}

/// Matches the source's external mounts with the target's configuration. Touches nothing.
///
/// # Errors
/// [`Problem::MissingMount`] and [`Problem::ReadOnlyMount`] name a mount that the target's container lacks.
pub fn prepare(externals: &[External], target: &Target<'_>) -> Result<Prepared, Problem> {
    // The images are verified inside the freeze: what that needs is made ready now.
    crate::images::schema::ready();
    let binds = binds(target.spec)?;
    let mut prepared = Prepared { lines: LINES.iter().map(|line| (*line).to_owned()).collect(), warnings: Vec::new(), scratch: Scratch::new(target.scratch) };
    for external in externals {
        let bind = match &external.what {
            What::Bind { destination } => Some(binds.get(&clean(destination)).ok_or_else(|| Problem::MissingMount { destination: destination.clone() })?),
            _ => None,
        };
        if !external.is_own() {
            if bind.is_some_and(|bind| bind.read_only) {
                return Err(Problem::ReadOnlyMount { destination: external.mountpoint.clone() });
            }
            continue;
        }
        let mut flags = external.flags.clone();
        if bind.is_some_and(|bind| bind.read_only) && !flags.iter().any(|flag| flag == "ro") {
            flags.push("ro".into());
        }
        let stuff = match &external.what {
            What::Bind { .. } => bind.map(|bind| Stuff::Bind(bind.source.clone())).ok_or(Problem::Spec("mounts"))?,
            What::Device if devices(target.spec).any(|path| path == external.mountpoint) => Stuff::Bind(external.mountpoint.clone().into()),
            What::Device => return Err(Problem::MissingMount { destination: external.mountpoint.clone() }),
            What::Cgroup { controllers } => cgroup(controllers, external, target, &mut prepared.warnings),
            What::Mask => Stuff::Null,
            What::Empty => Stuff::Empty,
            What::Tmpfs(snapshot) => Stuff::Tmpfs(snapshot.clone()),
        };
        let path = prepared.scratch.add(Mount { stuff, flags, shared: external.slave });
        prepared.lines.push(line(external, &path)?);
    }
    prepared.warnings.extend(differences(externals, target.spec, &binds));
    Ok(prepared)
}

/// The line by which the processes get the SELinux label of the container that takes them: that of the source has other categories, with which they would not get at its files. Runtimes
/// say the same to a CRIU of their own (`lsm-profile` of criu(8)). An AppArmor profile has the same name on both nodes, and CRIU gives it back by itself.
#[must_use]
pub fn label(spec: &Value) -> Option<String> {
    let label = spec["process"]["selinuxLabel"].as_str().filter(|label| !label.is_empty() && !label.contains(char::is_whitespace))?;
    Some(format!("lsm-profile selinux:{label}"))
}

impl Prepared {
    /// Mounts everything, anew if it was there. For the node's mount namespace: the paths are the node's.
    ///
    /// # Errors
    /// The first mount that fails; what was mounted before it is taken away.
    pub fn make(&self) -> io::Result<()> {
        self.scratch.make()
    }

    /// Takes everything away; a container that was restored from it keeps its mounts. Same namespace.
    ///
    /// # Errors
    /// If something could not be unmounted or removed.
    pub fn unmake(&self) -> io::Result<()> {
        self.scratch.unmake()
    }
}

struct Bind {
    source: PathBuf,
    read_only: bool,
}

fn binds(spec: &Value) -> Result<BTreeMap<String, Bind>, Problem> {
    let mounts = spec["mounts"].as_array().ok_or(Problem::Spec("mounts"))?;
    Ok(mounts
        .iter()
        .filter(|mount| mounts::is_bind(mount))
        .filter_map(|mount| {
            let read_only = mount["options"].as_array().into_iter().flatten().filter_map(Value::as_str).fold(false, |ro, option| match option {
                "ro" => true,
                "rw" => false,
                _ => ro,
            });
            Some((clean(mount["destination"].as_str()?), Bind { source: mount["source"].as_str()?.into(), read_only }))
        })
        .collect())
}

fn devices(spec: &Value) -> impl Iterator<Item = &str> {
    spec["linux"]["devices"].as_array().into_iter().flatten().filter_map(|device| device["path"].as_str())
}

fn clean(path: &str) -> String {
    Path::new(path).components().collect::<PathBuf>().to_string_lossy().into_owned()
}

fn cgroup(controllers: &[String], external: &External, target: &Target<'_>, warnings: &mut Vec<String>) -> Stuff {
    let below = target.cgroup.strip_prefix("/").unwrap_or(target.cgroup);
    match (controllers.is_empty(), target.v2) {
        (true, true) => Stuff::Cgroup { hierarchies: vec![target.cgroups.to_path_buf()], below: below.into() },
        (false, false) => {
            // Co-mounted controllers have one directory, named by all of them; single ones may be links to it.
            let names: Vec<&str> = controllers.iter().map(|name| name.strip_prefix("name=").unwrap_or(name)).collect();
            let joined = names.join(",");
            let names = std::iter::once(joined.as_str()).chain(names);
            Stuff::Cgroup { hierarchies: names.map(|name| target.cgroups.join(name)).collect(), below: below.into() }
        }
        _ => {
            warnings.push(format!("{} is empty: source and target have different versions of cgroups", external.mountpoint));
            Stuff::Empty
        }
    }
}

/// What the target's configuration has and the source's mounts have not: nothing mounts that at a restore.
fn differences(externals: &[External], spec: &Value, binds: &BTreeMap<String, Bind>) -> Vec<String> {
    let has = |path: &str| {
        externals.iter().any(|external| match &external.what {
            What::Bind { destination } => clean(destination) == path,
            _ => external.mountpoint == path,
        })
    };
    let unbound =
        binds.keys().filter(|path| !has(path)).map(|path| format!("mount {path} of the target's container is not there after the move: the source has none"));
    let masked = spec["linux"]["maskedPaths"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let unmasked =
        masked.filter(|path| !has(path) && Path::new(path).exists()).map(|path| format!("{path} is not masked after the move: the source's kernel has none"));
    unbound.chain(unmasked).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn external(key: &str, mountpoint: &str, flags: &[&str], what: What) -> External {
        External { key: key.into(), mountpoint: mountpoint.into(), flags: flags.iter().map(|flag| (*flag).to_owned()).collect(), slave: false, what }
    }

    fn bind(destination: &str) -> What {
        What::Bind { destination: destination.into() }
    }

    fn target(spec: &Value) -> Target<'_> {
        Target { spec, scratch: Path::new("/run/godwit/s"), cgroups: Path::new("/sys/fs/cgroup"), cgroup: Path::new("/kubepods/x"), v2: false }
    }

    #[test]
    fn only_own_keys_get_lines() {
        let spec = json!({"mounts": [
            {"destination": "/data", "type": "bind", "source": "/vol", "options": ["rbind", "rw"]},
            {"destination": "/var/run/secrets/sa", "type": "bind", "source": "/token", "options": ["rbind", "ro"]}]});
        let externals = [
            external("/data", "/data", &[], bind("/data")),
            external("godwit:3/run/secrets/sa", "/run/secrets/sa", &["ro"], bind("/var/run/secrets/sa")),
            external("godwit:4/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu", &["ro"], What::Cgroup { controllers: vec!["cpu".into(), "cpuacct".into()] }),
        ];
        let prepared = prepare(&externals, &target(&spec)).unwrap();
        assert_eq!(prepared.lines[LINES.len()..], lines(&externals, Path::new("/run/godwit/s")).unwrap());
        assert_eq!(
            prepared.lines[LINES.len()..],
            ["external mnt[godwit:3/run/secrets/sa]:/run/godwit/s/0", "external mnt[godwit:4/sys/fs/cgroup/cpu]:/run/godwit/s/1"]
        );
        assert_eq!(prepared.warnings, Vec::<String>::new());
        let again: Prepared = serde_json::from_str(&serde_json::to_string(&prepared).unwrap()).unwrap();
        assert_eq!(again, prepared);
    }

    #[test]
    fn a_mount_that_the_target_lacks_is_named() {
        let spec = json!({"mounts": [{"destination": "/data", "type": "bind", "source": "/vol", "options": ["ro"]}]});
        let missing = prepare(&[external("/cache", "/cache", &[], bind("/cache"))], &target(&spec)).unwrap_err();
        assert!(missing.failure().message.contains("/cache"));
        let read_only = prepare(&[external("/data", "/data", &[], bind("/data"))], &target(&spec)).unwrap_err();
        assert_eq!(read_only.failure().reason, "MountReadOnly");
    }

    #[test]
    fn nothing_that_another_node_says_reaches_the_configuration_unseen() {
        let spec = json!({"mounts": []});
        for key in ["godwit:1/x\naction-script /tmp/x", "godwit:1/x y", "godwit:1]x", "godwit:1#"] {
            assert!(prepare(&[external(key, "/x", &[], What::Empty)], &target(&spec)).is_err(), "{key:?}");
        }
        assert!(prepare(&[external("godwit:1/dev/sda", "/dev/sda", &[], What::Device)], &target(&spec)).is_err());
    }

    #[test]
    fn another_version_of_cgroups_is_said() {
        let spec = json!({"mounts": []});
        let prepared = prepare(&[external("godwit:4/sys/fs/cgroup", "/sys/fs/cgroup", &[], What::Cgroup { controllers: Vec::new() })], &target(&spec)).unwrap();
        assert_eq!(prepared.warnings.len(), 1);
    }
}
