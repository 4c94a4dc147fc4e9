//! What a node's runtime is told about the pods' network: `/etc/cni/net.d/10-lab.conflist`.
//!
//! ```text
//!   bridge   bridge (Debian's) ─── asks godwit-lab-ipam ─┐
//!   routed   godwit-lab-routed ─── asks itself ──────────┴── host-local (Debian's) ── the node's range, or the address that the pod asks for
//! ```
//! The two plugins of the lab's own are this program under other names, see [`crate::plugin`].

use serde_json::{Value, json};

use crate::fabric::{Fabric, block};
use crate::plugin;
use crate::topology::{CLUSTER_NETWORK, Node};

/// Where the runtime looks for it.
pub const CONFIG: &str = "/etc/cni/net.d/10-lab.conflist";

/// The configuration for a node.
pub fn config(fabric: Fabric, node: &Node) -> Value {
    let network = match fabric {
        Fabric::Bridge => bridge(node),
        Fabric::Routed => routed(node),
    };
    json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [network, {"type": "portmap", "capabilities": {"portMappings": true}}],
    })
}

fn bridge(node: &Node) -> Value {
    let address = |last: u8| format!("10.88.{}.{last}", node.number);
    json!({
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": false,
        "ipMasq": false,
        "hairpinMode": true,
        "capabilities": {plugin::ANNOTATIONS: true},
        "ipam": {
            "type": plugin::IPAM,
            "pods": CLUSTER_NETWORK,
            "ranges": [[{
                "subnet": CLUSTER_NETWORK,
                "rangeStart": address(10),
                "rangeEnd": address(200),
                "gateway": node.address(),
            }]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    })
}

fn routed(node: &Node) -> Value {
    json!({
        "type": plugin::ROUTED,
        "capabilities": {plugin::ANNOTATIONS: true},
        "ipam": {
            "type": plugin::IPAM,
            "pods": Fabric::Routed.pods(),
            "ranges": [[{"subnet": block(node)}]],
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_node_has_its_own_range_on_both_networks() {
        let topology: crate::topology::Topology = "a,b".parse().unwrap();
        let range = |fabric, node| config(fabric, &topology.nodes[node])["plugins"][0]["ipam"]["ranges"][0][0].clone();
        assert_eq!(range(Fabric::Bridge, 0)["rangeStart"], "10.88.1.10");
        assert_eq!(range(Fabric::Bridge, 1)["gateway"], "10.88.2.1");
        assert_eq!(range(Fabric::Routed, 1), json!({"subnet": "10.90.2.0/24"}));
    }
}
