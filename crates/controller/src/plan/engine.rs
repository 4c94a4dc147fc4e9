//! What makes the pod anew on its new node: decided from what the user wants and what the agents say.

use godwit_api::PodCheckpointStatus;
use godwit_api::migration::{Engine, Failure};
use godwit_rpc::v1::InspectReply;

use crate::candidates::Candidate;
use crate::failure;

/// Godwit's runtime handler.
pub const LIVE: &str = "Live";
/// The container runtime's own import of checkpoint images.
pub const CHECKPOINT: &str = "Checkpoint";

/// Why a node cannot take a pod by this engine; empty: it can.
#[must_use]
pub fn unable<'a>(engine: &str, candidate: &'a Candidate) -> &'a str {
    if engine == CHECKPOINT { &candidate.reply.no_import } else { &candidate.reply.no_handler }
}

/// Chooses; [`LIVE`] or [`CHECKPOINT`]. `importable`: whether the container runtime can make this pod at all.
///
/// # Errors
/// What is in the way of the only one, or of both.
pub fn choose(wish: Engine, importable: impl FnOnce() -> Result<(), Failure>, candidates: &[Candidate]) -> Result<&'static str, Failure> {
    let missing = |engine: &'static str| {
        if candidates.iter().any(|candidate| unable(engine, candidate).is_empty()) {
            return String::new();
        }
        let why = candidates.iter().map(|candidate| format!("node {}: {}", candidate.node, unable(engine, candidate)));
        why.collect::<Vec<_>>().join("; ")
    };
    let (no_handler, no_import) = (missing(LIVE), missing(CHECKPOINT));
    match wish {
        Engine::Live | Engine::Auto if no_handler.is_empty() => Ok(LIVE),
        Engine::Live => {
            Err(failure::new("NoHandler", format!("the pod cannot come by Godwit's runtime handler: {no_handler}"), "Use engine: Auto or Checkpoint."))
        }
        Engine::Auto | Engine::Checkpoint if no_import.is_empty() => importable().map(|()| CHECKPOINT),
        Engine::Checkpoint => Err(failure::new(
            "NoImport",
            format!("the pod cannot come by a checkpoint image: {no_import}"),
            "Use engine: Auto or Live, or have it allowed: the chart's value engines.checkpoint.",
        )),
        Engine::Auto => Err(failure::new(
            "NoHandler",
            format!("the pod cannot come by Godwit's runtime handler ({no_handler}), nor by a checkpoint image ({no_import})"),
            "Install the handler (the chart's value engines.live), or allow the other way (engines.checkpoint).",
        )),
    }
}

/// Whether the container runtime can make a running pod anew.
///
/// # Errors
/// Why not.
pub fn importable(inspected: &InspectReply) -> Result<(), Failure> {
    match inspected.containers.as_slice() {
        [one] if !one.archived.is_empty() => Ok(()),
        [one] => Err(failure::new(
            "NoImport",
            format!("what a checkpoint image of container {} would have to say cannot be told", one.name),
            "Look at the log of the agent on the pod's node; engine: Live may do.",
        )),
        several => Err(several_containers(several.len())),
    }
}

/// Whether the container runtime can make a pod of a checkpoint.
///
/// # Errors
/// Why not.
pub fn restorable(checkpoint: &PodCheckpointStatus) -> Result<(), Failure> {
    match (checkpoint.containers.len(), checkpoint.importable) {
        (count @ 2.., _) => Err(several_containers(count)),
        (_, true) => Ok(()),
        (_, false) => Err(failure::new(
            "NoImport",
            "the checkpoint does not say what a container runtime would have to know: restores without Godwit's runtime handler were not allowed where it was made, or cannot be (crun below containerd)",
            "Use engine: Live, or make another checkpoint where the chart's value engines.checkpoint is on.",
        )),
    }
}

fn several_containers(count: usize) -> Failure {
    let message = format!("the pod has {count} containers, and without Godwit's runtime handler the kubelet starts one only when the one before runs");
    failure::new("SeveralContainers", message, "Use engine: Live.")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use godwit_rpc::v1::{AssessReply, Container};

    use super::*;

    fn node(name: &str, no_handler: &str, no_import: &str) -> Candidate {
        let reply = AssessReply { no_handler: no_handler.into(), no_import: no_import.into(), ..AssessReply::default() };
        Candidate { node: name.into(), reply }
    }

    fn pod(containers: usize) -> InspectReply {
        let container = Container { name: "web".into(), archived: vec![1], ..Container::default() };
        InspectReply { containers: vec![container; containers], ..InspectReply::default() }
    }

    fn reason(wish: Engine, inspected: &InspectReply, candidates: &[Candidate]) -> String {
        choose(wish, || importable(inspected), candidates).unwrap_err().reason
    }

    #[test]
    fn the_handler_is_taken_where_it_is() {
        let both = [node("a", "", ""), node("b", "none", "")];
        let choose = |wish, containers, candidates: &[Candidate]| super::choose(wish, || importable(&pod(containers)), candidates);
        assert_eq!(choose(Engine::Auto, 1, &both).unwrap(), LIVE);
        assert_eq!(choose(Engine::Checkpoint, 1, &both).unwrap(), CHECKPOINT);
        assert_eq!(choose(Engine::Auto, 1, &both[1..]).unwrap(), CHECKPOINT);
        assert_eq!(choose(Engine::Auto, 2, &both[..1]).unwrap(), LIVE);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let (none, handler, import) = ([node("a", "none", "off")], [node("a", "", "off")], [node("a", "none", "")]);
        assert_eq!(reason(Engine::Live, &pod(1), &import), "NoHandler");
        assert_eq!(reason(Engine::Checkpoint, &pod(1), &handler), "NoImport");
        assert_eq!(reason(Engine::Checkpoint, &pod(2), &import), "SeveralContainers");
        assert!(choose(Engine::Auto, || Ok(()), &none).unwrap_err().message.contains("node a: none"));
        assert_eq!(reason(Engine::Checkpoint, &InspectReply { containers: vec![Container::default()], ..pod(0) }, &import), "NoImport");
    }
}
