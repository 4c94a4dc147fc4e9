//! Files of a directory that are mapped shared: they can change without their times changing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::Directory;

/// The files of `directory` that these processes (by container) have mapped shared, as paths relative to it. Processes that have ended map nothing.
#[must_use]
pub fn mapped(directory: &Directory, processes: &[(String, Vec<i32>)]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for (container, pids) in processes {
        let places: Vec<&Path> = directory.seen_at.iter().filter(|(name, _)| name == container).map(|(_, path)| path.as_path()).collect();
        if places.is_empty() {
            continue;
        }
        for maps in pids.iter().filter_map(|pid| fs::read_to_string(crate::process::directory(*pid).join("maps")).ok()) {
            for file in maps.lines().filter_map(shared_file) {
                found.extend(places.iter().filter_map(|place| Some(file.strip_prefix(place).ok()?.to_owned())));
            }
        }
    }
    found
}

/// `start-end perms offset device inode path`, where perms end with `s` for shared.
fn shared_file(line: &str) -> Option<PathBuf> {
    let mut columns = line.split_ascii_whitespace();
    let permissions = columns.nth(1)?;
    columns.nth(1)?;
    let inode = columns.next()?;
    let path = line.get(line.find(" /")? + 1..)?;
    (permissions.ends_with('s') && inode != "0").then(|| path.strip_suffix(" (deleted)").unwrap_or(path).replace("\\012", "\n").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_files_count() {
        assert_eq!(shared_file("7f00-7f01 rw-s 00000000 00:2a 77    /data/a b"), Some("/data/a b".into()));
        assert_eq!(shared_file("7f00-7f01 r--s 00000000 00:2a 77    /data/a"), Some("/data/a".into()));
        assert_eq!(shared_file("7f00-7f01 rw-p 00000000 00:2a 77    /data/a"), None);
        assert_eq!(shared_file("7f00-7f01 rw-s 00000000 00:00 0 "), None);
    }
}
