//! What `create` leaves for the keeper and for every later command.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A container that a keeper holds.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Record {
    /// The container's id.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// The (target) pod's UID.
    pub pod_uid: String,
    /// The migration's UID.
    pub migration: String,
    /// The source pod's UID.
    pub source_uid: String,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root file system, absolute.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339.
    pub created: String,
    /// Version of the OCI specification of the bundle.
    pub oci_version: String,
    /// The runtime below.
    pub runtime: PathBuf,
    /// Global flags for the runtime, without those of its log.
    pub globals: Vec<String>,
    /// `--no-pivot` was given.
    pub no_pivot: bool,
    /// Where the keeper's pid goes.
    pub pid_file: Option<PathBuf>,
    /// Directories of the container's cgroup, one for each hierarchy.
    pub cgroup: Vec<PathBuf>,
    /// Directories of the cgroup from which `create` was called.
    pub origin: Vec<PathBuf>,
    /// The pod's namespaces: kind as in the OCI specification, and file.
    pub namespaces: Vec<(String, PathBuf)>,
    /// The container has a cgroup namespace of its own, which neither runc nor CRIU makes in a restore.
    pub cgroup_namespace: bool,
}

/// The global flags without `--log` and `--log-format`, because an attempt logs into its own directory, and without `--criu`: the stand-in must be what is found in `$PATH`.
#[must_use]
pub fn globals_for_restore(globals: &[std::ffi::OsString]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = globals.iter().map(|word| word.to_string_lossy().into_owned());
    while let Some(word) = words.next() {
        let name = word.trim_start_matches('-');
        match name {
            "log" | "log-format" | "criu" => {
                words.next();
            }
            _ if ["log=", "log-format=", "criu="].iter().any(|flag| name.starts_with(flag)) => {}
            _ => kept.push(word),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_each_restore_sets_itself_go() {
        let words = ["--root", "/r", "--log", "/l", "--log-format=json", "--criu", "/c", "--systemd-cgroup", "--criu=/c"].map(Into::into);
        assert_eq!(globals_for_restore(&words), ["--root", "/r", "--systemd-cgroup"]);
    }
}
