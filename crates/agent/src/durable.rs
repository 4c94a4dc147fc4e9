//! Files that are on the disk, or are as they were.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// Writes a file beside its final name, syncs it, renames it and syncs the directory.
///
/// # Errors
/// When the disk refuses; a file that was there before is then still whole.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    // Behind the whole name: entries of several roles differ in what looks like an extension.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync(directory)
}

/// What was made, renamed or removed in a directory is on the disk when this returns.
///
/// # Errors
/// When the disk refuses.
pub fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
