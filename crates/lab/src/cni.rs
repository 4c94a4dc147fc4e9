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
use crate::six;
use crate::topology::{CLUSTER_NETWORK, Node};

/// Where the runtime looks for it.
pub const CONFIG: &str = "/etc/cni/net.d/10-lab.conflist";

/// The configuration for a node.
pub fn config(fabric: Fabric, node: &Node, six: bool) -> Value {
    let network = match fabric {
        Fabric::Bridge => bridge(node, six),
        Fabric::Routed => routed(node, six),
    };
    json!({
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [network, {"type": "portmap", "capabilities": {"portMappings": true}}],
    })
}

fn bridge(node: &Node, six: bool) -> Value {
    let address = |last: u8| format!("10.88.{}.{last}", node.number);
    let mut config = json!({
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
    });
    if six {
        let ipam = &mut config["ipam"];
        ipam["ranges"] = json!([ipam["ranges"][0], six::range(node)]);
        ipam["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
    }
    config
}

fn routed(node: &Node, six: bool) -> Value {
    let of_six = six.then(|| json!([{"subnet": six::block(node)}]));
    let ranges: Vec<Value> = std::iter::once(json!([{"subnet": block(node)}])).chain(of_six).collect();
    json!({
        "type": plugin::ROUTED,
        "capabilities": {plugin::ANNOTATIONS: true},
        "ipam": {
            "type": plugin::IPAM,
            "pods": Fabric::Routed.pods(),
            "ranges": ranges,
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
        let range = |fabric, node| config(fabric, &topology.nodes[node], false)["plugins"][0]["ipam"]["ranges"][0][0].clone();
        assert_eq!(range(Fabric::Bridge, 0)["rangeStart"], "10.88.1.10");
        assert_eq!(range(Fabric::Bridge, 1)["gateway"], "10.88.2.1");
        assert_eq!(range(Fabric::Routed, 1), json!({"subnet": "10.90.2.0/24"}));
        assert_eq!(config(Fabric::Routed, &topology.nodes[1], true)["plugins"][0]["ipam"]["ranges"][1][0], json!({"subnet": "fd90::2:0/112"}));
        let both = config(Fabric::Bridge, &topology.nodes[1], true)["plugins"][0]["ipam"]["ranges"].clone();
        assert_eq!((&both[0][0]["gateway"], &both[1][0]["gateway"], both.as_array().map(Vec::len)), (&json!("10.88.2.1"), &json!("fd88::2:1"), Some(2)));
    }
}
