//! `kubectl migrate doctor`: can pods move in this cluster, and what has to be mended first.
//!
//! ```text
//!   nodes ──▶ a NodeCheck for each ──▶ controller ──▶ agents     what each node is          (ask)
//!   pods of Godwit, /configz of the kubelets ─────────────────▶  what only the API tells    (ask)
//!   all of it ──▶ what differs between nodes ─────────────────▶  judged                     (judge)
//!                                                                text, JSON, exit code      (view)
//!   a pod ──▶ a dry run to every other node ──────────────────▶  could it move, and where   (pod)
//! ```

mod ask;
mod judge;
mod pod;
mod view;

use godwit_api::check::{Check, CheckState, Facts};
use serde::Serialize;

pub use ask::ask;
pub use pod::pod;
pub use view::text;

/// One node, or what is about all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Name of the node; `cluster` for what is about all of them.
    pub name: String,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether pods can move: nothing failed.
    pub ok: bool,
    /// Each node in the order of the names, the cluster last.
    pub subjects: Vec<Subject>,
}

impl Report {
    /// Puts everything together, with what differs between the nodes.
    #[must_use]
    pub fn new(mut nodes: Vec<Subject>) -> Self {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let cluster = Subject { name: "cluster".into(), facts: None, checks: judge::differences(&nodes) };
        nodes.push(cluster);
        let failed = nodes.iter().flat_map(|node| &node.checks).any(|check| check.state == CheckState::Failed);
        Self { ok: !failed, subjects: nodes }
    }

    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        u8::from(!self.ok)
    }
}

/// A line.
fn check(area: &str, name: &str, state: CheckState, found: impl Into<String>, fix: impl Into<String>) -> Check {
    Check { area: area.into(), name: name.into(), state, found: found.into(), fix: fix.into() }
}
