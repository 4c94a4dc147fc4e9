//! The system calls of this crate that Rust cannot check: what runs between fork and exec.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, setns};
use tokio::process::Command;

/// What a child does before it becomes another program: joins the namespaces, in this order, then takes `root` as its root and working directory.
pub struct Entry {
    /// Open files of namespaces, with the flag of their kind.
    pub namespaces: Vec<(File, CloneFlags)>,
    /// A directory opened with `O_PATH`.
    pub root: Option<File>,
}

/// Makes `command`'s child perform `entry` before it executes its program.
pub fn enter_before_exec(command: &mut Command, entry: Entry) {
    let perform = move || -> io::Result<()> {
        for (file, kind) in &entry.namespaces {
            setns(file.as_fd(), *kind)?;
        }
        if let Some(root) = &entry.root {
            rustix::process::fchdir(root)?;
            rustix::process::chroot(".")?;
            rustix::process::chdir("/")?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes bare system calls (setns, fchdir, chroot, chdir) on files that
    // were opened before the fork, takes no lock and allocates nothing: paths are literals that rustix copies to the stack, errors are bare numbers.
    unsafe {
        command.pre_exec(perform);
    }
}
