//! `descriptors.json`: what the first three file descriptors of the container's init process are.
//!
//! `runc restore` reads it from the image directory and offers its own standard streams to CRIU under the names of the pipes in it, so that the restored
//! process writes into the new container's log.

use std::fs;
use std::io;
use std::path::Path;

/// Name of the file in the image directory.
pub const FILE: &str = "descriptors.json";

/// The targets of the links in `/proc/PID/fd` for 0, 1 and 2, e.g. `/dev/null` or `pipe:[4711]`; empty for a closed one.
///
/// # Errors
/// If the process is gone.
pub fn of(proc: &Path, pid: i32) -> io::Result<Vec<String>> {
    let directory = proc.join(pid.to_string()).join("fd");
    (0..3)
        .map(|fd| match fs::read_link(directory.join(fd.to_string())) {
            Ok(target) => Ok(target.to_string_lossy().into_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && directory.exists() => Ok(String::new()),
            Err(error) => Err(error),
        })
        .collect()
}

/// Writes the file into an image directory.
///
/// # Errors
/// If it cannot be written.
pub fn write(directory: &Path, descriptors: &[String]) -> io::Result<()> {
    let text = serde_json::to_vec(descriptors)?;
    fs::write(directory.join(FILE), text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_the_streams_of_this_process() {
        let descriptors = of(Path::new("/proc"), i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(descriptors.len(), 3);
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &descriptors).unwrap();
        let read: Vec<String> = serde_json::from_slice(&fs::read(directory.path().join(FILE)).unwrap()).unwrap();
        assert_eq!(read, descriptors);
    }
}
