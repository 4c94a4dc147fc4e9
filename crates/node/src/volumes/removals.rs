//! Removing what the source no longer has, in a directory whose contents nobody can vouch for.
//!
//! Every path is resolved by openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS: what is behind a symbolic link is never touched.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat, unlinkat};
use rustix::io::Errno;

use super::{Directory, Error, Removal};

/// Removes `removals` from where the directory's contents are. What is absent already counts as removed. Returns how many were there.
///
/// # Errors
/// A path is not plain and relative, or cannot be removed.
pub fn apply_removals(directory: &Directory, removals: &[Removal]) -> Result<u64, Error> {
    let root = openat(CWD, &directory.data, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(|errno| Error::Unreadable { path: directory.data.clone(), source: errno.into() })?;
    let mut count = 0;
    for removal in removals {
        let failed = |source: io::Error| Error::Removal { path: removal.path().to_owned(), source };
        count += u64::from(apply(&root, removal).map_err(failed)?);
    }
    Ok(count)
}

fn apply(root: &OwnedFd, removal: &Removal) -> io::Result<bool> {
    let path = removal.path();
    if path.components().any(|component| !matches!(component, Component::Normal(_))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain relative path"));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().map(Path::new)) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the directory itself cannot be removed"));
    };
    let done = beneath(root, parent).and_then(|parent| match removal {
        Removal::Tree(_) => remove(&parent, name),
        // What is no directory here, a symbolic link say, is replaced when the archive is unpacked.
        Removal::Content(_) | Removal::Obstacle(_) if !is_directory(&parent, name)? => Err(Errno::NOTDIR),
        Removal::Content(_) => empty(&open(&parent, name)?),
        Removal::Obstacle(_) => remove_directory(&parent, name),
    });
    match done {
        Ok(()) => Ok(true),
        // LOOP: a symbolic link stands where the source has a directory. Nothing of the source's is below it, and unpacking replaces it.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn is_directory(parent: &OwnedFd, name: &Path) -> Result<bool, Errno> {
    let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Opens a directory below `root`.
fn beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn remove(parent: &impl AsFd, name: &Path) -> Result<(), Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return other,
    }
    remove_directory(parent, name)
}

fn remove_directory(parent: &impl AsFd, name: &Path) -> Result<(), Errno> {
    empty(&open(parent, name)?)?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn open(parent: &impl AsFd, name: &Path) -> Result<OwnedFd, Errno> {
    openat(parent, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn empty(directory: &OwnedFd) -> Result<(), Errno> {
    let names: Vec<_> = Dir::read_from(directory)?.filter_map(Result::ok).filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b"..")).collect();
    for entry in names {
        let name = Path::new(std::ffi::OsStr::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(entry.file_name().to_bytes())));
        match if entry.file_type() == FileType::Directory { remove(directory, name) } else { unlinkat(directory, name, AtFlags::empty()) } {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => remove(directory, name)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
