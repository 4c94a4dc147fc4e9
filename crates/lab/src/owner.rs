//! Whose lab it is. Cgroups, the bridge's addresses and the name of the network namespace are there once on a machine:
//! so only one lab runs at a time, and nobody sweeps away the lab of another state folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cgroups::Cgroups;
use crate::settings::Settings;

/// Names the state folder of the lab that runs; gone after a reboot, as the lab is.
const FILE: &str = "/run/godwit-lab.owner";

/// An error if a lab of another state folder is there.
pub fn check(settings: &Settings) -> Result<()> {
    match other(Path::new(FILE), &settings.state) {
        Some(owner) if Cgroups::detect()?.any() => {
            let owner = owner.display();
            bail!("another lab, of the state folder {owner}, is there; take it down first: GODWIT_LAB={owner} godwit-lab down")
        }
        _ => Ok(()),
    }
}

/// The state folder of a lab that is not this one and was not taken down.
fn other(file: &Path, own: &Path) -> Option<PathBuf> {
    let owner = PathBuf::from(fs::read_to_string(file).ok()?);
    (owner != own && owner.join("lab.json").exists()).then_some(owner)
}

/// Notes that the lab is this one.
pub fn claim(settings: &Settings) -> Result<()> {
    fs::write(FILE, settings.state.as_os_str().as_encoded_bytes()).with_context(|| format!("{FILE} cannot be written"))
}

/// Notes that there is no lab.
pub fn release() -> Result<()> {
    crate::cache::remove(Path::new(FILE))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_lab_that_was_not_taken_down_belongs_to_its_state_folder() {
        let folder = std::env::temp_dir().join(format!("godwit-owner-{}", std::process::id()));
        let state = folder.join("state");
        fs::create_dir_all(&state).unwrap();
        let file = folder.join("owner");
        assert_eq!(other(&file, &state), None, "nobody's");
        fs::write(&file, state.as_os_str().as_encoded_bytes()).unwrap();
        assert_eq!(other(&file, &folder), None, "taken down");
        fs::write(state.join("lab.json"), "{}").unwrap();
        assert_eq!(other(&file, &folder), Some(state.clone()));
        assert_eq!(other(&file, &state), None, "its own");
        fs::remove_dir_all(&folder).unwrap();
    }
}
