//! What a scenario is and where it runs.

use anyhow::Result;

use crate::case::Case;

/// RuntimeClasses of source pods: plain runc, which is every lab node's default, and plain crun.
pub const CLASSES: [Option<&str>; 2] = [None, Some("crun")];

/// Whether a scenario runs on virtual machines too: another kernel at each end, cgroup v2, and everything ten times slower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMachines {
    /// It does not.
    Never,
    /// When all of it is asked for.
    All,
    /// Whenever the whole suite runs.
    Always,
    /// The same, and then with a source run by runc only.
    Once,
    /// The same, and only there.
    Only,
}

/// One sentence of the README, proven.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Short name, for filters and namespaces.
    pub name: &'static str,
    /// What is shown.
    pub sentence: &'static str,
    /// Sources run by runc and by crun, or by runc only.
    pub each_class: bool,
    /// Cluster-wide: nothing else may run meanwhile.
    pub alone: bool,
    /// On the first pair only: it is about something that no runtime has a part in.
    pub once: bool,
    /// Whether virtual machines are a place for it.
    pub machines: OnMachines,
    /// Does it.
    pub run: fn(&Case) -> Result<()>,
}

impl Scenario {
    /// A scenario that runs on each pair, its source run by runc.
    #[must_use]
    pub const fn new(name: &'static str, sentence: &'static str, run: fn(&Case) -> Result<()>) -> Self {
        Self { name, sentence, each_class: false, alone: false, once: false, machines: OnMachines::Never, run }
    }

    /// Once more with a source run by crun.
    #[must_use]
    pub const fn each_class(mut self) -> Self {
        self.each_class = true;
        self
    }

    /// Nothing else may run meanwhile.
    #[must_use]
    pub const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// On one pair only.
    #[must_use]
    pub const fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// On virtual machines too.
    #[must_use]
    pub const fn machines(mut self, machines: OnMachines) -> Self {
        self.machines = machines;
        self
    }

    /// The RuntimeClasses of its sources.
    #[must_use]
    pub fn classes(&self) -> &'static [Option<&'static str>] {
        if self.each_class { &CLASSES } else { &CLASSES[..1] }
    }
}
