//! What takes long to make and is kept between labs. An entry is made under another name and renamed when it is whole;
//! beside it lies `<entry>.key`, a digest of what it was made from: another digest means that it is made again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// One entry: a file or folder.
pub struct Entry {
    path: PathBuf,
    key: String,
}

impl Entry {
    /// The entry at `path`, made from `parts`.
    pub fn new(path: PathBuf, parts: &[&str]) -> Self {
        Self { path, key: digest(parts) }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The digest of what it is made from.
    pub fn key(&self) -> &str {
        &self.key
    }

    fn key_file(&self) -> PathBuf {
        suffixed(&self.path, ".key")
    }

    /// Whether it is there and made from the same parts.
    pub fn is_fresh(&self) -> bool {
        self.path.exists() && fs::read_to_string(self.key_file()).is_ok_and(|text| text.trim() == self.key)
    }

    /// Makes it unless it is fresh: `make` gets the temporary path to fill.
    pub fn ensure(&self, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if self.is_fresh() {
            return Ok(());
        }
        let temporary = suffixed(&self.path, ".new");
        let old = suffixed(&self.path, ".old");
        remove(&temporary)?;
        remove(&old)?;
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        }
        make(&temporary)?;
        // The key goes first and comes last: an entry without one is made again.
        remove(&self.key_file())?;
        if self.path.exists() {
            fs::rename(&self.path, &old)?;
        }
        fs::rename(&temporary, &self.path)?;
        fs::write(self.key_file(), format!("{}\n", self.key))?;
        remove(&old)
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes a file or folder if it is there.
pub fn remove(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.with_context(|| format!("{} cannot be removed", path.display()))
}

/// Digest of a list of texts.
pub fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize())
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Runs a command with its output in a log; on failure says the log's last lines and path. When this process dies, however, nothing of the command is left.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = File::create(log).with_context(|| format!("{} cannot be made", log.display()))?;
    let program = command.get_program().to_string_lossy().into_owned();
    let status = bound(command).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).status().with_context(|| format!("{program} cannot be run"))?;
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n  ");
        bail!("{program} failed ({status}), log {}:\n  {tail}", log.display());
    }
    Ok(())
}

/// The same command in namespaces of its own: all its processes and mounts (debootstrap makes some) end with this process, even if that is killed.
fn bound(command: &Command) -> Command {
    let mut all = Command::new("setpriv");
    all.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"]);
    all.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => all.env(name, value),
            None => all.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        all.current_dir(folder);
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_entry_is_made_once_and_again_when_its_parts_change() {
        let folder = std::env::temp_dir().join(format!("godwit-cache-{}", std::process::id()));
        let mut made = 0;
        for (part, expected) in [("1", 1), ("1", 1), ("2", 2)] {
            let entry = Entry::new(folder.join("entry"), &[part]);
            entry
                .ensure(|path| {
                    made += 1;
                    Ok(fs::write(path, part)?)
                })
                .unwrap();
            assert_eq!(made, expected);
            assert_eq!(fs::read_to_string(entry.path()).unwrap(), part);
        }
        remove(&folder).unwrap();
    }

    #[test]
    fn a_bound_command_is_still_the_same() {
        let mut command = Command::new("go");
        command.args(["build", "x y"]).env("A", "1").current_dir("/tmp");
        let bound = bound(&command);
        let words: Vec<_> = bound.get_args().filter_map(|word| word.to_str()).collect();
        assert_eq!(words[words.len() - 3..], ["go", "build", "x y"]);
        assert_eq!(bound.get_current_dir(), Some(Path::new("/tmp")));
        assert!(bound.get_envs().any(|(name, value)| name == "A" && value == Some("1".as_ref())));
    }

    #[test]
    fn a_failed_make_leaves_the_old_entry() {
        let folder = std::env::temp_dir().join(format!("godwit-cache-f-{}", std::process::id()));
        let old = Entry::new(folder.join("entry"), &["1"]);
        old.ensure(|path| Ok(fs::write(path, "1")?)).unwrap();
        let new = Entry::new(folder.join("entry"), &["2"]);
        assert!(new.ensure(|_| bail!("no")).is_err());
        assert!(old.is_fresh() && !new.is_fresh());
        remove(&folder).unwrap();
    }
}
