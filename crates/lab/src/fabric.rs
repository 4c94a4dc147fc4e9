//! The two kinds of pod network that a lab can have, and their addresses.
//!
//! ```text
//!   bridge   pods 10.88.N.10-200, one flat network with nodes and clients: a bridge on every node, joined by the switch
//!   routed   pods 10.90.N.0/24, a block for each node; every pod a /32 with the gateway 169.254.1.1, as Calico has it
//! ```
//! Nodes are 10.88.N.1 in both.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::topology::{CLUSTER_NETWORK, Node};

/// Environment variable that chooses the kind where no option does.
pub const VARIABLE: &str = "GODWIT_LAB_NETWORK";
/// Addresses of all pods of the routed network.
pub const ROUTED_PODS: &str = "10.90.0.0/16";
/// The gateway of every pod of the routed network; no machine has it, the node's end of the wire answers for it.
pub const GATEWAY: &str = "169.254.1.1";

/// The kind of pod network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fabric {
    /// One flat network: Debian's CNI plugin `bridge`.
    #[default]
    Bridge,
    /// Routed /32 addresses behind a proxy-ARP gateway; routes by BGP.
    Routed,
}

impl Fabric {
    /// The word used in options and in the environment.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Routed => "routed",
        }
    }

    /// The network that holds every pod's address.
    pub fn pods(self) -> &'static str {
        match self {
            Self::Bridge => CLUSTER_NETWORK,
            Self::Routed => ROUTED_PODS,
        }
    }

    /// What the option says, else the environment, else what the running lab has, else the default.
    pub fn choose(option: Option<Self>, environment: Option<&str>, running: Option<Self>) -> anyhow::Result<Self> {
        let chosen = match (option, environment.filter(|word| !word.is_empty())) {
            (None, Some(word)) => Some(
                <Self as clap::ValueEnum>::from_str(word, false)
                    .map_err(|_| anyhow::anyhow!("{VARIABLE} is {word:?}; it may be {} or {}", Self::Bridge.name(), Self::Routed.name()))?,
            ),
            (option, _) => option,
        };
        Ok(chosen.or(running).unwrap_or_default())
    }
}

/// The addresses from which a node gives its pods theirs on the routed network.
pub fn block(node: &Node) -> String {
    format!("10.90.{}.0/24", node.number)
}

/// Whether a network, `10.90.0.0/16`, holds an address.
pub fn holds(network: &str, address: Ipv4Addr) -> bool {
    let Some((base, length)) = network.split_once('/') else {
        return false;
    };
    let (Ok(base), Ok(length @ 0..=32)) = (base.parse::<Ipv4Addr>(), length.parse::<u32>()) else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    base.to_bits() & mask == address.to_bits() & mask
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_option_wins_then_the_environment_then_what_runs() {
        use Fabric::{Bridge, Routed};
        for (option, environment, running, expected) in [
            (None, None, None, Bridge),
            (None, Some(""), Some(Routed), Routed),
            (None, Some("routed"), Some(Bridge), Routed),
            (Some(Bridge), Some("routed"), Some(Routed), Bridge),
        ] {
            assert_eq!(Fabric::choose(option, environment, running).unwrap(), expected);
        }
        let error = Fabric::choose(None, Some("vxlan"), None).unwrap_err().to_string();
        assert!(error.contains("\"vxlan\"") && error.contains("bridge or routed"), "{error}");
    }

    #[test]
    fn blocks_are_apart_and_inside_the_pods_network() {
        let topology: crate::topology::Topology = "a,b".parse().unwrap();
        let blocks: Vec<String> = topology.nodes.iter().map(block).collect();
        assert_eq!(blocks, ["10.90.1.0/24", "10.90.2.0/24"]);
        let address = "10.90.2.7".parse().unwrap();
        assert!(holds(ROUTED_PODS, address) && holds(&blocks[1], address) && !holds(&blocks[0], address));
        assert!(!holds(ROUTED_PODS, "10.88.2.1".parse().unwrap()));
    }

    #[test]
    fn networks_hold_what_their_length_says() {
        let address = "10.1.2.3".parse().unwrap();
        assert!(holds("0.0.0.0/0", address) && holds("10.1.2.3/32", address) && holds("10.1.0.0/16", address));
        assert!(!holds("10.1.2.2/32", address) && !holds("10.1.2.3", address) && !holds("10.1.2.3/33", address) && !holds("x/8", address));
    }
}
