//! What has been measured already: a run that was ended goes on with the next job. Figures of different builds or machines are never mixed: each run is side by side.
//!
//! ```text
//!   target/bench.json   {"identity": image of the agents, boot of the machine, extent; "jobs": {"small pod on crio": [row, …]}}
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result};
use godwit_demo::install::NAMESPACE;
use godwit_demo::lab::Lab;
use godwit_demo::notice::{line, step};
use godwit_demo::numbers::Row;
use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Ledger {
    identity: String,
    jobs: BTreeMap<String, Vec<Row>>,
    #[serde(skip)]
    path: PathBuf,
}

impl Ledger {
    /// What an earlier run of the same build on the same machine has measured, unless `anew`.
    ///
    /// # Errors
    /// When the cluster does not say which image runs.
    pub fn open(lab: &Lab, extent: &str, anew: bool) -> Result<Self> {
        let image = lab.kubectl(&[
            "get",
            "pods",
            "-n",
            NAMESPACE,
            "-l",
            "app.kubernetes.io/name=godwit-agent",
            "-o",
            "jsonpath={.items[*].status.containerStatuses[0].imageID}",
        ])?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").context("this machine has no boot id")?;
        // Each container runtime names the same image in its own way, and the pods come in any order.
        let images: BTreeSet<&str> = image.split_whitespace().collect();
        let identity = format!("{extent} · {} · {}", images.into_iter().collect::<Vec<_>>().join(" "), boot.trim());
        let own = std::env::current_exe().context("the path of this program is unknown")?;
        let path = own.with_file_name("bench.json");
        let earlier = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        let jobs = earlier.filter(|earlier| !anew && earlier.identity == identity).map(|earlier| earlier.jobs).unwrap_or_default();
        Ok(Self { identity, jobs, path })
    }

    /// The rows of a job: measured now, or by an earlier run.
    ///
    /// # Errors
    /// Those of the job, or its rows cannot be kept.
    pub fn job(&mut self, title: &str, measure: impl FnOnce() -> Result<Vec<Row>>) -> Result<Vec<Row>> {
        if let Some(rows) = self.jobs.get(title) {
            line(&format!("✔ {title}: measured by the run before, which was ended; --anew measures everything again"));
            return Ok(rows.clone());
        }
        let rows = step(title, measure)?;
        self.jobs.insert(title.to_owned(), rows.clone());
        let text = serde_json::to_string(self)?;
        std::fs::write(&self.path, text).with_context(|| format!("{} cannot be written", self.path.display()))?;
        Ok(rows)
    }

    /// The rows of a job if this build has measured it.
    #[must_use]
    pub fn known(&self, title: &str) -> Option<&Vec<Row>> {
        self.jobs.get(title)
    }

    /// Forgets everything: the run has come to its end.
    pub fn close(self) {
        // Another run begins anew whether or not it was there.
        let _ = std::fs::remove_file(&self.path);
    }
}
