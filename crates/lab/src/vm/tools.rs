//! Programs of Debian sid that run virtual machines on this machine, from a root of their own: this machine's may be too old (qemu 7.2 of bookworm
//! crashes Linux 6.12). They are started by that root's own loader, with its libraries, so nothing is installed here.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Entry;
use crate::ingredients::{Ingredient, debian};
use crate::settings::Settings;

/// Packages of the tools' root.
const PACKAGES: &str = "qemu-system-x86,seabios,virtiofsd,busybox-static,kmod,xz-utils,zstd,e2fsprogs";

/// The tools' root.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// Where it lies, or will.
    pub fn of(settings: &Settings) -> Self {
        Self { root: root(settings) }
    }

    /// One of its programs, by its path there, to be completed by arguments; `name` is what it is to think that it is called.
    pub fn command_as(&self, program: &str, name: &str) -> Command {
        let libraries = self.path("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(self.path("lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(&libraries).args(["--argv0", name]).arg(self.path(program)).env("QEMU_MODULE_DIR", libraries.join("qemu"));
        command
    }

    /// One of its programs.
    pub fn command(&self, program: &str) -> Command {
        let name = Path::new(program).file_name().and_then(OsStr::to_str).unwrap_or(program);
        self.command_as(program, name)
    }

    /// A file in it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

fn root(settings: &Settings) -> PathBuf {
    settings.cache.join("rootfs/vm-tools")
}

/// The root, to be made.
pub fn ingredient(settings: &Settings) -> Ingredient {
    debian(settings, "vm-tools", root(settings), PACKAGES)
}

/// What it is made from.
pub fn key(settings: &Settings) -> String {
    Entry::new(root(settings), &["debian", "sid", PACKAGES]).key().to_owned()
}
