//! Nodes as places for a pod: which could take it, and how their agents are reached.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use godwit_api::migration::Failure;
use godwit_api::names;

use crate::failure;

/// Whether `node` could take `pod`, which runs on `source` now. What the scheduler looks at (room, taints, affinity) is left to it.
///
/// # Errors
/// The first thing that is in the way.
pub fn check(node: &Node, pod: &str, source: &str) -> Result<(), Failure> {
    let name = node.name_any();
    if name == source {
        return Err(failure::same_node(pod, &name));
    }
    let ready = node.status.iter().flat_map(|status| status.conditions.iter().flatten()).find(|condition| condition.type_ == "Ready");
    match ready {
        Some(condition) if condition.status == "True" => {}
        Some(condition) => return Err(failure::node_not_ready(&name, condition.message.as_deref().unwrap_or("no reason given"))),
        None => return Err(failure::node_not_ready(&name, "it has never reported")),
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        return Err(failure::node_unschedulable(&name));
    }
    if !has_agent(node) {
        return Err(failure::no_agent(&name));
    }
    Ok(())
}

/// Whether the node's agent has said that it is ready.
#[must_use]
pub fn has_agent(node: &Node) -> bool {
    node.labels().contains_key(names::NODE_LABEL_READY)
}

/// host:port of the agent of `node`: its InternalIP.
#[must_use]
pub fn agent_address(node: &Node) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let address = &addresses.iter().find(|address| address.type_ == "InternalIP")?.address;
    Some(if address.contains(':') { format!("[{address}]:{}", names::AGENT_PORT) } else { format!("{address}:{}", names::AGENT_PORT) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn node(ready: &str, agent: bool, cordoned: bool) -> Node {
        let labels = if agent { serde_json::json!({names::NODE_LABEL_READY: "ready"}) } else { serde_json::json!({}) };
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "node-b", "labels": labels},
            "spec": {"unschedulable": cordoned},
            "status": {
                "conditions": [{"type": "Ready", "status": ready, "message": "kubelet stopped posting node status"}],
                "addresses": [{"type": "Hostname", "address": "node-b"}, {"type": "InternalIP", "address": "10.0.0.2"}],
            },
        }))
        .unwrap()
    }

    fn reason(node: &Node, source: &str) -> String {
        check(node, "web-0", source).err().map(|failure| failure.reason).unwrap_or_default()
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        assert_eq!(reason(&node("True", true, false), "node-a"), "");
        assert_eq!(reason(&node("True", true, false), "node-b"), "SameNode");
        assert_eq!(reason(&node("Unknown", true, false), "node-a"), "NodeNotReady");
        assert_eq!(reason(&node("True", false, false), "node-a"), "NoAgent");
        assert_eq!(reason(&node("True", true, true), "node-a"), "NodeUnschedulable");
    }

    #[test]
    fn agents_are_reached_at_the_internal_address() {
        assert_eq!(agent_address(&node("True", true, false)).unwrap(), "10.0.0.2:7410");
        let mut six = node("True", true, false);
        six.status.as_mut().unwrap().addresses.as_mut().unwrap()[1].address = "fd00::2".into();
        assert_eq!(agent_address(&six).unwrap(), "[fd00::2]:7410");
    }
}
