//! Planning: can the pod that runs there go on here? Decided from what both agents reported, before anything is touched.
//!
//! ```text
//!   the pod's object ── blockers, warnings (controller) ─┐
//!   source agent ── Inspection ──────────────────────────┼──▶ decide ──▶ Ok(Plan) | Err(blockers, all of them)
//!   target agent ── Assessment ──────────────────────────┘       │
//!                                                             nodes::compare
//! ```

pub mod network;
pub mod nodes;

use serde::{Deserialize, Serialize};

use crate::Failure;
pub use nodes::{Comparison, Node, compare};

/// What the pod's own object says about whether it can move.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct PodFacts {
    /// What is in the way.
    pub blockers: Vec<Failure>,
    /// What will be different.
    pub warnings: Vec<String>,
}

/// What the source's agent found in the running pod.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Inspection {
    /// Containers that run.
    pub containers: u32,
    /// Processes in them.
    pub processes: u32,
    /// Their open file descriptors.
    pub fds: u32,
    /// Established TCP connections to outside the pod.
    pub connections: u32,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// What cannot be dumped.
    pub blockers: Vec<Failure>,
    /// What will be different.
    pub warnings: Vec<String>,
    /// The node.
    pub node: Node,
}

/// What the target's agent says.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Assessment {
    /// Why it cannot take the pod.
    pub blockers: Vec<Failure>,
    /// What will be different.
    pub warnings: Vec<String>,
    /// The node.
    pub node: Node,
}

/// What will be done.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Plan {
    /// Containers that move.
    pub containers: u32,
    /// Processes in them.
    pub processes: u32,
    /// Their open file descriptors.
    pub fds: u32,
    /// TCP connections that end.
    pub connections: u32,
    /// Bytes of memory that travel.
    pub bytes: u64,
    /// What will be different afterwards.
    pub warnings: Vec<String>,
}

/// Puts together what everybody said.
///
/// # Errors
/// Everything that is in the way, at once: the pod's own obstacles, then the source's, the target's, and the differences between the nodes.
pub fn decide(pod: &PodFacts, source: &Inspection, target: &Assessment) -> Result<Plan, Vec<Failure>> {
    let nodes = compare(&source.node, &target.node);
    let mut blockers = Vec::new();
    for blocker in [&pod.blockers, &source.blockers, &target.blockers, &nodes.blockers].into_iter().flatten() {
        if !blockers.contains(blocker) {
            blockers.push(blocker.clone());
        }
    }
    if !blockers.is_empty() {
        return Err(blockers);
    }
    let mut warnings: Vec<String> = Vec::new();
    for warning in [&pod.warnings, &source.warnings, &target.warnings, &nodes.warnings].into_iter().flatten() {
        if !warnings.contains(warning) {
            warnings.push(warning.clone());
        }
    }
    Ok(Plan {
        containers: source.containers,
        processes: source.processes,
        fds: source.fds,
        connections: source.connections,
        bytes: source.resident_bytes,
        warnings,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn node(name: &str) -> Node {
        Node {
            name: name.into(),
            architecture: "x86_64".into(),
            cpu_flags: vec!["avx".into(), "sse".into()],
            kernel: "6.12.0".into(),
            criu: "4.2".into(),
            cgroup: "v2".into(),
            agent: "0.1.0".into(),
        }
    }

    #[test]
    fn like_nodes_make_a_plan() {
        let source = Inspection { containers: 1, resident_bytes: 7, node: node("a"), warnings: vec!["w".into()], ..Inspection::default() };
        let target = Assessment { node: node("b"), warnings: vec!["w".into()], ..Assessment::default() };
        let plan = decide(&PodFacts::default(), &source, &target).unwrap();
        assert_eq!(plan, Plan { containers: 1, bytes: 7, warnings: vec!["w".into()], ..Plan::default() });
    }

    #[test]
    fn all_obstacles_are_named_at_once() {
        let obstacle = |reason: &str| Failure::new(reason, "seen", "do");
        let pod = PodFacts { blockers: vec![obstacle("HostPath")], ..PodFacts::default() };
        let source = Inspection { blockers: vec![obstacle("IoUring"), obstacle("HostPath")], node: node("a"), ..Inspection::default() };
        let target = Assessment { blockers: vec![obstacle("NotEnoughMemory")], node: node("a"), ..Assessment::default() };
        let blockers = decide(&pod, &source, &target).unwrap_err();
        let reasons: Vec<_> = blockers.iter().map(|blocker| blocker.reason.as_str()).collect();
        assert_eq!(reasons, ["HostPath", "IoUring", "NotEnoughMemory", "SameNode"]);
        assert!(blockers.iter().all(|blocker| !blocker.message.is_empty() && !blocker.remedy.is_empty()));
    }
}
