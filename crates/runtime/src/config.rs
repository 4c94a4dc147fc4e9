//! Which runtime and which CRIU lie below: `/opt/godwit/etc/runtime.json`, e.g. `{"runtime": "/usr/sbin/runc", "criu": "/usr/sbin/criu"}`, both optional.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The file, written by the agent when it installs the wrapper.
pub const PATH: &str = "/opt/godwit/etc/runtime.json";
/// Looked through after `$PATH`: callers may run with an empty one.
const USUAL: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The file's content.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Config {
    /// The OCI runtime below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<PathBuf>,
    /// CRIU; without it the first `criu` in `$PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub criu: Option<PathBuf>,
}

impl Config {
    /// Reads the file. A missing or broken one counts as empty: plain containers must go on.
    #[must_use]
    pub fn load() -> Self {
        fs::read(PATH).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// The runtime below.
    ///
    /// # Errors
    /// [`Error::NoRuntime`].
    pub fn runtime(&self) -> Result<PathBuf, Error> {
        if let Some(path) = &self.runtime {
            return Ok(path.clone());
        }
        find("runc").ok_or_else(|| Error::NoRuntime { looked: "runc in $PATH and in the usual directories".into(), config: PATH.into() })
    }

    /// The real CRIU.
    #[must_use]
    pub fn criu(&self) -> Option<PathBuf> {
        self.criu.clone().or_else(|| find("criu"))
    }
}

/// This program's file.
#[must_use]
pub fn own_path() -> PathBuf {
    let path = env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    // The kernel marks a file that was replaced while it runs; the new one is what the links should lead to.
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(text) => text.into(),
        None => path,
    }
}

/// The first executable of this name in `$PATH` and the usual directories that is not this program under another name.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = fs::metadata("/proc/self/exe").ok().map(|meta| (meta.dev(), meta.ino()));
    search(name, &path, own)
}

/// See [`find`]; `own` is device and inode of this program.
fn search(name: &str, path: &OsString, own: Option<(u64, u64)>) -> Option<PathBuf> {
    env::split_paths(path)
        .chain(USUAL.iter().map(PathBuf::from))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|file| executable(file).is_some_and(|identity| Some(identity) != own))
}

/// Device and inode of an executable file.
fn executable(file: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(file).ok()?;
    (meta.is_file() && meta.permissions().mode() & 0o111 != 0).then(|| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn skips_itself_and_what_cannot_run() {
        let directory = tempfile::tempdir().unwrap();
        let make = |sub: &str, mode: u32| {
            let place = directory.path().join(sub);
            fs::create_dir_all(&place).unwrap();
            let file = place.join("criu-for-test");
            fs::write(&file, "x").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            place
        };
        let (own, plain, good) = (make("a", 0o755), make("b", 0o644), make("c", 0o755));
        let path = env::join_paths([&own, &plain, &good]).unwrap();
        let identity = executable(&own.join("criu-for-test"));
        assert_eq!(search("criu-for-test", &path, identity), Some(good.join("criu-for-test")));
        assert_eq!(search("criu-for-test", &OsString::new(), None), None);
    }
}
