//! What an agent must remember across crashes and reboots: one file for each role in each migration, replaced atomically and on disk before the call returns
//! ([`crate::slots`]).

use std::{fs, io, path::PathBuf};

use serde::{Serialize, de::DeserializeOwned};

use crate::{durable, slots};

/// A directory of journal entries.
#[derive(Clone, Debug)]
pub struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// Opens (and makes) the directory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    fn file(&self, role: &str, key: &str) -> PathBuf {
        self.directory.join(format!("{key}.{role}"))
    }

    /// Replaces the entry; it is on disk when this returns.
    ///
    /// # Errors
    /// When the disk refuses; the old entry is then still whole.
    pub fn write<T: Serialize>(&self, role: &str, key: &str, entry: &T) -> io::Result<()> {
        slots::write(&self.file(role, key), &serde_json::to_vec(entry)?)
    }

    /// Drops the entry; it may be gone already.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self, role: &str, key: &str) -> io::Result<()> {
        match fs::remove_file(self.file(role, key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => durable::sync(&self.directory),
        }
    }

    /// All entries of a role.
    ///
    /// # Errors
    /// When the directory cannot be read. An entry that cannot be parsed is an error too: forgetting one could let a pod run twice.
    pub fn load<T: DeserializeOwned>(&self, role: &str) -> io::Result<Vec<T>> {
        let suffix = format!(".{role}");
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.directory)? {
            let path = file?.path();
            if path.to_str().is_some_and(|name| name.ends_with(&suffix)) {
                entries.push(serde_json::from_slice(&slots::read(&path)?.1)?);
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keeps_each_role_apart_and_replaces() {
        let directory = std::env::temp_dir().join(format!("godwit-journal-{}", std::process::id()));
        let journal = Journal::open(directory.clone()).unwrap();
        journal.write("source", "uid", &1u32).unwrap();
        journal.write("source", "uid", &2u32).unwrap();
        journal.write("target", "uid", &3u32).unwrap();
        assert_eq!(journal.load::<u32>("source").unwrap(), [2]);
        journal.remove("source", "uid").unwrap();
        journal.remove("source", "uid").unwrap();
        assert!(journal.load::<u32>("source").unwrap().is_empty());
        assert_eq!(journal.load::<u32>("target").unwrap(), [3]);
        fs::write(directory.join("x.target"), "{").unwrap();
        assert!(journal.load::<u32>("target").is_err(), "a broken entry is never skipped");
        fs::remove_dir_all(directory).unwrap();
    }
}
