//! Who tells whom where a pod is on the routed network: BIRD on every node and on the switch, speaking BGP as Calico's nodes do.
//!
//! ```text
//!   node-a: kernel 10.90.1.7 dev cali…  ─┐                       ┌─▶ node-b: 10.90.1.0/24 via 10.88.1.1
//!           block  10.90.1.0/24 (static) ─┴─ BGP ─▶ switch ─ BGP ─┘   switch: 10.90.1.0/24 via 10.88.1.1
//! ```
//! A node announces its block, not the addresses in it; an address of another node's block by itself (/32), which wins by its length. So a pod may have any
//! address of the network on any node: whoever has a /32 route to it on a `cali…` device is where it is. The switch reflects what it hears to all nodes.

use anyhow::Result;

use crate::fabric::{ROUTED_PODS, block};
use crate::machine::{Machine, Program};
use crate::topology::{CLUSTER_NETWORK, Node, SWITCH_ADDRESS};

/// Path of its configuration in a machine.
pub const CONFIG: &str = "/etc/bird/godwit-lab.conf";
/// The nodes' autonomous system, Calico's default.
const SYSTEM: u32 = 64512;
/// A peer that says nothing for 30 s is gone. On a busy machine processes may not run for seconds.
const PATIENCE: &str = "hold time 30; keepalive time 5; connect delay time 1; connect retry time 2; error wait time 1, 5;";

/// Configuration of a node's.
pub fn node_config(node: &Node) -> String {
    let (address, block) = (node.address(), block(node));
    format!(
        r#"log stderr all;
router id {address};

protocol device {{ }}

# Where other nodes are.
protocol direct {{
  interface "up0";
  ipv4;
}}

# An address of the block that no pod has is nowhere else either.
protocol static own {{
  ipv4;
  route {block} blackhole;
}}

# Pods' routes come from the CNI plugin. They win over what others say of the same address.
protocol kernel {{
  learn;
  persist;
  ipv4 {{
    preference 200;
    import where net ~ [ {ROUTED_PODS}{{32,32}} ];
    export where net ~ {ROUTED_PODS} && source ~ [ RTS_BGP, RTS_STATIC ];
  }};
}}

protocol bgp switch {{
  local {address} as {SYSTEM};
  neighbor {SWITCH_ADDRESS} as {SYSTEM};
  graceful restart on;
  {PATIENCE}
  ipv4 {{
    next hop self;
    import where net ~ {ROUTED_PODS};
    export filter {{
      if net = {block} then accept;
      if net ~ {block} then reject;
      if net ~ {ROUTED_PODS} && source = RTS_INHERIT then accept;
      reject;
    }};
  }};
}}
"#
    )
}

/// Configuration of the switch's: takes every node, says everything on.
pub fn switch_config() -> String {
    format!(
        r#"log stderr all;
router id {SWITCH_ADDRESS};

protocol device {{ }}

protocol direct {{
  interface "br0";
  ipv4;
}}

protocol kernel {{
  persist;
  ipv4 {{
    import none;
    export where source = RTS_BGP;
  }};
}}

protocol bgp nodes {{
  local {SWITCH_ADDRESS} as {SYSTEM};
  neighbor range {CLUSTER_NETWORK} as {SYSTEM};
  dynamic name "node";
  rr client;
  graceful restart on;
  {PATIENCE}
  ipv4 {{
    import where net ~ {ROUTED_PODS};
    export where net ~ {ROUTED_PODS};
  }};
}}
"#
    )
}

/// Starts it on a machine.
pub fn start(machine: &Machine) -> Result<()> {
    machine.keep(&Program { name: "bird", after: &[], reads: &[CONFIG], argv: &["/usr/sbin/bird", "-f", "-c", CONFIG, "-s", "/run/bird.ctl"] })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_node_announces_its_own_block_and_borrowed_addresses() {
        let topology: crate::topology::Topology = "a,b".parse().unwrap();
        let config = node_config(&topology.nodes[1]);
        for line in ["router id 10.88.2.1;", "route 10.90.2.0/24 blackhole;", "if net = 10.90.2.0/24 then accept;", "if net ~ 10.90.2.0/24 then reject;"] {
            assert!(config.contains(line), "{line}\n{config}");
        }
        assert!(!config.contains("10.90.1.0"));
        for config in [config, switch_config()] {
            assert_eq!(config.matches('{').count(), config.matches('}').count());
        }
    }
}
