//! Pairs of virtual machines: they join the lab for the scenarios that run on them, and go again.
//!
//! `GODWIT_E2E_VMS` says what runs there: `some` (the default when the whole suite runs) is a few scenarios on containerd, `all` every scenario that is made for
//! it on each runtime, `only` the same and nothing else, `none` nothing.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use godwit_demo::install;
use godwit_demo::lab::{Lab, Pair};
use godwit_demo::notice::{line, step};

use crate::scenario::{OnMachines, Scenario};

/// Nodes that are added, by runtime: two kernels.
const NODES: [(&str, &str); 2] = [("containerd", "v:containerd:vm=trixie,w:containerd:vm=sid"), ("crio", "v:crio:vm=trixie,w:crio:vm=sid")];
/// Their names in the cluster.
const NAMES: [&str; 2] = ["node-v", "node-w"];
/// What `godwit-lab` says by its exit code if this machine cannot run them.
const CANNOT: i32 = 3;
/// How long kernels, disks and boot may take together, on a machine that has none of it yet.
const LIMIT: Duration = Duration::from_secs(1200);

/// What runs on virtual machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Nothing.
    Nothing,
    /// A few scenarios on one runtime.
    Some,
    /// All that are made for it, on each runtime.
    All,
    /// The same, and nothing on other nodes.
    Only,
}

impl Extent {
    /// Reads the environment; without it virtual machines are for whole runs only.
    ///
    /// # Errors
    /// When it says something else.
    pub fn from_env(whole: bool) -> Result<Self> {
        Self::of(std::env::var("GODWIT_E2E_VMS").unwrap_or_default().as_str(), whole)
    }

    fn of(word: &str, whole: bool) -> Result<Self> {
        Ok(match (word, whole) {
            ("", true) | ("some", _) => Self::Some,
            ("", false) | ("none", _) => Self::Nothing,
            ("all", _) => Self::All,
            ("only", _) => Self::Only,
            (other, _) => bail!("GODWIT_E2E_VMS is {other:?}; it can be none, some, all or only"),
        })
    }

    /// The scenarios.
    #[must_use]
    pub fn chosen(self, scenarios: &[Scenario]) -> Vec<Scenario> {
        let fits = |scenario: &Scenario| match (self, scenario.machines) {
            (Self::Nothing, _) | (_, OnMachines::Never) | (Self::Some, OnMachines::All) => None,
            (Self::Some, OnMachines::Once) => Some(Scenario { each_class: false, ..*scenario }),
            _ => Some(*scenario),
        };
        scenarios.iter().filter_map(fits).collect()
    }

    /// The runtimes.
    #[must_use]
    pub fn runtimes(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Nothing => &[],
            Self::Some => &NODES[..1],
            Self::All | Self::Only => &NODES,
        }
    }
}

/// A lab with a pair of virtual machines.
pub struct Joined {
    /// The lab with them.
    pub lab: Lab,
    /// The pair.
    pub pair: Pair,
    /// Whether they go again.
    added: bool,
}

impl Joined {
    /// Two virtual machines of a runtime in the lab, Godwit on them; none, and a line that says why, if this machine cannot run them.
    ///
    /// # Errors
    /// When they do not come up although it can.
    pub fn with(lab: &Lab, runtime: &str, nodes: &str) -> Result<Option<Self>> {
        let of = |lab: &Lab| lab.vm_pairs().into_iter().find(|pair| pair.runtime == runtime);
        if let Some(pair) = of(lab) {
            return Ok(Some(Self { lab: lab.clone(), pair, added: false }));
        }
        if runtime == "crio" && lab.nodes().iter().all(|node| node.runtime != "crio") {
            line("– skipped on virtual machines with CRI-O: the lab has no CRI-O (set GODWIT_CRIO)");
            return Ok(None);
        }
        let output = step(&format!("virtual machines with {runtime} join the lab"), || lab.try_command(&["node", "add", nodes], LIMIT))?;
        if output.code == CANNOT {
            line(&format!("– skipped on virtual machines with {runtime}: {}", output.stderr.trim()));
            return Ok(None);
        }
        output.success()?;
        let lab = lab.again()?;
        let pair = of(&lab).context("the virtual machines have joined, and the lab does not list them")?;
        let joined = Self { lab, pair, added: true };
        match install::wait_ready(&joined.lab) {
            Ok(()) => Ok(Some(joined)),
            Err(error) => joined.leave().and(Err(error)),
        }
    }

    /// Takes them away if they came for this.
    ///
    /// # Errors
    /// When they do not go.
    pub fn leave(self) -> Result<()> {
        if !self.added {
            return Ok(());
        }
        let mut arguments = vec!["node", "remove"];
        arguments.extend(NAMES);
        self.lab.command(&arguments, LIMIT).map(drop)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_single_scenario_boots_no_machine_unless_it_is_asked_for() {
        assert_eq!(Extent::of("", false).unwrap(), Extent::Nothing);
        assert_eq!(Extent::of("", true).unwrap(), Extent::Some);
        assert_eq!(Extent::of("only", false).unwrap(), Extent::Only);
        assert!(Extent::of("yes", true).unwrap_err().to_string().contains("none, some, all or only"));
        assert_eq!((Extent::Some.runtimes().len(), Extent::All.runtimes().len()), (1, 2));
    }
}
