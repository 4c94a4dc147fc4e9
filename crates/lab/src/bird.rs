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
use crate::six;
use crate::topology::{CLUSTER_NETWORK, Node, SWITCH_ADDRESS};

/// Path of its configuration in a machine.
pub const CONFIG: &str = "/etc/bird/godwit-lab.conf";
/// The nodes' autonomous system, Calico's default.
const SYSTEM: u32 = 64512;
/// A peer that says nothing for 30 s is gone. On a busy machine processes may not run for seconds.
const PATIENCE: &str = "hold time 30; keepalive time 5; connect delay time 1; connect retry time 2; error wait time 1, 5;";

/// What a family's part of a configuration is made of.
struct Family {
    /// The channel.
    name: &'static str,
    /// All pods.
    pods: &'static str,
    /// Bits of an address.
    bits: u8,
    /// The node's own, and its block.
    address: String,
    block: String,
}

fn families(node: &Node) -> Vec<Family> {
    let four = Family { name: "ipv4", pods: ROUTED_PODS, bits: 32, address: node.address(), block: block(node) };
    let six = Family { name: "ipv6", pods: six::ROUTED_PODS, bits: 128, address: six::address(node), block: six::block(node) };
    std::iter::once(four).chain(six::on().then_some(six)).collect()
}

/// Configuration of a node's.
pub fn node_config(node: &Node) -> String {
    let (families, address) = (families(node), node.address());
    let every = |part: fn(&Family) -> String| families.iter().map(part).collect::<String>();
    let direct = every(|family| format!("  {};\n", family.name));
    let kernel = every(|Family { name, pods, bits, block, .. }| {
        format!(
            r#"
# An address of the block that no pod has is nowhere else either.
protocol static own_{name} {{
  {name};
  route {block} blackhole;
}}

# Pods' routes come from the CNI plugin. They win over what others say of the same address.
protocol kernel kernel_{name} {{
  learn;
  persist;
  {name} {{
    preference 200;
    import where net ~ [ {pods}{{{bits},{bits}}} ];
    export where net ~ {pods} && source ~ [ RTS_BGP, RTS_STATIC ];
  }};
}}
"#
        )
    });
    // One session for both families: it is one of IPv4, so the next hop for IPv6 has to be said.
    let channels = every(|Family { name, pods, address, block, .. }| {
        format!(
            "  {name} {{
    next hop address {address};
    import where net ~ {pods};
    export filter {{
      if net = {block} then accept;
      if net ~ {block} then reject;
      if net ~ {pods} && source = RTS_INHERIT then accept;
      reject;
    }};
  }};
"
        )
    });
    format!(
        r#"log stderr all;
router id {address};

protocol device {{ }}

# Where other nodes are.
protocol direct {{
  interface "up0";
{direct}}}
{kernel}
protocol bgp switch {{
  local {address} as {SYSTEM};
  neighbor {SWITCH_ADDRESS} as {SYSTEM};
  graceful restart on;
  {PATIENCE}
{channels}}}
"#
    )
}

/// Configuration of the switch's: takes every node, says everything on.
pub fn switch_config() -> String {
    let families: Vec<(&str, &str)> = [("ipv4", ROUTED_PODS)].into_iter().chain(six::on().then_some(("ipv6", six::ROUTED_PODS))).collect();
    let every = |part: fn(&(&str, &str)) -> String| families.iter().map(part).collect::<String>();
    let direct = every(|(name, _)| format!("  {name};\n"));
    let kernel = every(|(name, _)| {
        format!("\nprotocol kernel kernel_{name} {{\n  persist;\n  {name} {{\n    import none;\n    export where source = RTS_BGP;\n  }};\n}}\n")
    });
    let channels = every(|(name, pods)| format!("  {name} {{\n    import where net ~ {pods};\n    export where net ~ {pods};\n  }};\n"));
    format!(
        r#"log stderr all;
router id {SWITCH_ADDRESS};

protocol device {{ }}

protocol direct {{
  interface "br0";
{direct}}}
{kernel}
protocol bgp nodes {{
  local {SWITCH_ADDRESS} as {SYSTEM};
  neighbor range {CLUSTER_NETWORK} as {SYSTEM};
  dynamic name "node";
  rr client;
  graceful restart on;
  {PATIENCE}
{channels}}}
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
