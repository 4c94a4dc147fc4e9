//! Folders of machines that are off for good. To remove gigabytes of images takes longer than to bring a cluster up: so `up` throws them away and goes on,
//! and a process of its own empties the trash. `down` waits until it is empty.
//!
//! ```text
//!   $GODWIT_LAB/machines ──rename──▶ $GODWIT_LAB/trash/N ── nice rm -rf
//! ```

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cache::remove;
use crate::settings::Settings;

/// How long `down` tries: mounts go a moment after a machine's last process, and somebody else may be emptying too.
const PATIENCE: Duration = Duration::from_secs(20);

fn folder(settings: &Settings) -> PathBuf {
    settings.state.join("trash")
}

/// Throws a folder away, if it is there, and begins to remove all that was thrown away. Returns at once.
pub fn throw(settings: &Settings, what: &Path) -> Result<()> {
    let trash = folder(settings);
    if what.exists() {
        fs::create_dir_all(&trash).with_context(|| format!("{} cannot be made", trash.display()))?;
        let free = (0u32..).map(|number| trash.join(number.to_string())).find(|path| !path.exists());
        let target = free.with_context(|| format!("{} is full", trash.display()))?;
        fs::rename(what, &target).with_context(|| format!("{} cannot be thrown away", what.display()))?;
    }
    go_on(settings)
}

/// Begins again to remove what a killed run left there.
pub fn go_on(settings: &Settings) -> Result<()> {
    let trash = folder(settings);
    if trash.exists() {
        // Killed with whoever called this it is begun again by the next one; a group of its own spares it Ctrl-C.
        Command::new("nice")
            .args(["rm", "-rf", "--one-file-system"])
            .arg(&trash)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("rm cannot be run")?;
    }
    Ok(())
}

/// Returns when nothing is left of what was thrown away.
pub fn empty(settings: &Settings) -> Result<()> {
    let trash = folder(settings);
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = remove(&trash) {
        if Instant::now() > deadline {
            return Err(error);
        }
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_thrown_away_is_gone_at_once_and_removed_in_the_end() {
        let state = std::env::temp_dir().join(format!("godwit-trash-{}", std::process::id()));
        let settings = Settings { state: state.clone(), cache: state.clone(), crio: None };
        for _ in 0..2 {
            fs::create_dir_all(state.join("machines/node-a/upper")).unwrap();
            fs::write(state.join("machines/node-a/upper/file"), "").unwrap();
            throw(&settings, &state.join("machines")).unwrap();
            assert!(!state.join("machines").exists());
        }
        go_on(&settings).unwrap();
        empty(&settings).unwrap();
        assert!(!folder(&settings).exists());
        fs::remove_dir_all(&state).unwrap();
    }
}
