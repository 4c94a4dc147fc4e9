//! What the lab writes down about its cluster: `$GODWIT_LAB/lab.json`.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::settings::Settings;
use crate::topology::Topology;

/// The record of one cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Digest of what its machines stand on; another one means that the cluster must be made anew.
    #[serde(default)]
    pub base: String,
    /// Its nodes and its network.
    pub topology: Topology,
    /// Folder with CRI-O's programs.
    #[serde(default)]
    pub crio: Option<PathBuf>,
    /// Whether this lab mounted the hugetlb hierarchy.
    pub mounted_hugetlb: bool,
    /// Digest of the objects that were applied last.
    #[serde(default)]
    pub objects: String,
}

impl Record {
    /// The record of the current lab, if there is one.
    pub fn read(settings: &Settings) -> Option<Self> {
        let text = fs::read(settings.state.join("lab.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes it at once or not at all.
    pub fn write(&self, settings: &Settings) -> Result<()> {
        let temporary = settings.state.join("lab.json.new");
        fs::write(&temporary, serde_json::to_vec_pretty(self)?)?;
        Ok(fs::rename(&temporary, settings.state.join("lab.json"))?)
    }
}
