//! Collecting findings so that a process with a thousand unsupported descriptors becomes one sentence.

use std::collections::BTreeMap;

use super::Findings;
use crate::Finding;
use crate::cri::Container;
use crate::process::Process;

/// How many details one sentence names.
const NAMED: usize = 3;

/// Findings in the making.
#[derive(Debug, Default)]
pub(super) struct Collector {
    whole: Vec<Finding>,
    /// By reason, remedy and process: the details.
    details: BTreeMap<(&'static str, &'static str, String), Vec<String>>,
    warnings: Vec<String>,
}

impl Collector {
    /// Something that is in the way by itself.
    pub fn block(&mut self, finding: Finding) {
        self.whole.push(finding);
    }

    /// Something of a process that is in the way.
    pub fn block_process(&mut self, reason: &'static str, container: &Container, process: &Process, detail: impl Into<String>, remedy: &'static str) {
        self.details.entry((reason, remedy, who(container, process))).or_default().push(detail.into());
    }

    /// Something that will be different.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    pub fn finish(mut self) -> Findings {
        for ((reason, remedy, who), mut details) in self.details {
            details.dedup();
            let more = details.len().saturating_sub(NAMED);
            details.truncate(NAMED);
            let tail = if more > 0 { format!(", and {more} more") } else { String::new() };
            self.whole.push(Finding::new(reason, format!("{who}: {}{tail}", details.join(", ")), remedy));
        }
        self.whole.sort();
        self.whole.dedup();
        self.warnings.sort();
        self.warnings.dedup();
        Findings { blockers: self.whole, warnings: self.warnings }
    }
}

/// Container and process, as users know them.
pub(super) fn who(container: &Container, process: &Process) -> String {
    format!("container {}, process {} (pid {} in the container, {} on the node)", container.name, process.comm, process.nspid, process.pid)
}
