//! Which nodes there are, and their addresses.
//!
//! ```text
//!   10.88.0.1/16   switch: bridge br0, control plane, clients
//!   10.88.N.1/16   node N, joined to br0 by a veth pair
//!   pods           see [`crate::fabric`]
//!   10.99.0.0/16   Services; 10.99.0.1 the API server, 10.99.0.10 DNS
//! ```

use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::fabric::Fabric;

/// Address of the switch, where the API server listens.
pub const SWITCH_ADDRESS: &str = "10.88.0.1";
/// Name of the switch's machine and of its network namespace.
pub const SWITCH: &str = "godwit-lab";
/// Network of the nodes, and of the pods of [`Fabric::Bridge`].
pub const CLUSTER_NETWORK: &str = "10.88.0.0/16";
/// Network of Services.
pub const SERVICE_NETWORK: &str = "10.99.0.0/16";
/// Address of the Service `kubernetes`.
pub const API_SERVICE: &str = "10.99.0.1";
/// Address of the cluster's DNS Service.
pub const DNS_SERVICE: &str = "10.99.0.10";

/// The container runtime of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// containerd.
    Containerd,
    /// CRI-O.
    Crio,
}

impl Runtime {
    /// The word used in labels, options and service names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Crio => "crio",
        }
    }

    /// The CRI socket inside the node.
    pub fn socket(self) -> &'static str {
        match self {
            Self::Containerd => "/run/containerd/containerd.sock",
            Self::Crio => "/run/crio/crio.sock",
        }
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Name in Kubernetes, `node-a`.
    pub name: String,
    /// Third octet of its addresses, from 1.
    pub number: u8,
    /// Its container runtime.
    pub runtime: Runtime,
}

impl Node {
    /// The node's own address.
    pub fn address(&self) -> String {
        format!("10.88.{}.1", self.number)
    }
}

/// All nodes of a lab, and what joins their pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// In the order of their numbers.
    pub nodes: Vec<Node>,
    /// The pods' network.
    #[serde(default)]
    pub fabric: Fabric,
}

impl Topology {
    /// Two nodes on containerd; two more on CRI-O if it is there.
    pub fn standard(with_crio: bool) -> Self {
        let mut runtimes = vec![("a", Runtime::Containerd), ("b", Runtime::Containerd)];
        if with_crio {
            runtimes.extend([("c", Runtime::Crio), ("d", Runtime::Crio)]);
        }
        Self::of(runtimes.into_iter())
    }

    /// Whether a node runs CRI-O.
    pub fn needs_crio(&self) -> bool {
        self.nodes.iter().any(|node| node.runtime == Runtime::Crio)
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// These nodes, and those of `others` whose names are not here, with the next free numbers.
    pub fn joined(mut self, others: &Self) -> Self {
        for other in &others.nodes {
            if self.node(&other.name).is_some() {
                continue;
            }
            let taken = |number: u8| self.nodes.iter().any(|node| node.number == number);
            if let Some(number) = (1..=u8::MAX).find(|number| !taken(*number)) {
                let node = Node { number, ..other.clone() };
                self.nodes.push(node);
            }
        }
        self
    }

    fn of<'a>(nodes: impl Iterator<Item = (&'a str, Runtime)>) -> Self {
        let nodes = nodes.zip(1u8..).map(|((letter, runtime), number)| Node { name: format!("node-{letter}"), number, runtime }).collect();
        Self { nodes, fabric: Fabric::default() }
    }
}

impl FromStr for Topology {
    type Err = anyhow::Error;

    /// Parses `a:containerd,b:crio`.
    fn from_str(text: &str) -> Result<Self> {
        let mut nodes = Vec::new();
        for part in text.split(',') {
            let (name, runtime) = part.split_once(':').unwrap_or((part, "containerd"));
            let plain = !name.is_empty() && name.len() <= 8 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            ensure!(plain, "node name {name:?}: one to eight of a-z and 0-9 are allowed");
            ensure!(nodes.iter().all(|(other, _)| *other != name), "node {name:?} is named twice");
            let runtime = match runtime {
                "containerd" => Runtime::Containerd,
                "crio" => Runtime::Crio,
                other => bail!("node {name}: runtime {other:?} is neither containerd nor crio"),
            };
            nodes.push((name, runtime));
        }
        ensure!(nodes.len() <= 16, "at most 16 nodes, not {}", nodes.len());
        Ok(Self::of(nodes.into_iter()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nodes_are_named_numbered_and_addressed_in_order() {
        let topology: Topology = "a,b:crio".parse().unwrap();
        assert_eq!(topology.nodes[1].name, "node-b");
        assert_eq!(topology.nodes[1].address(), "10.88.2.1");
        assert!(topology.needs_crio());
    }

    #[test]
    fn joining_keeps_what_is_there() {
        let running: Topology = "b,x".parse().unwrap();
        let joined = running.clone().joined(&Topology::standard(true));
        let names: Vec<_> = joined.nodes.iter().map(|n| format!("{} {}", n.name, n.number)).collect();
        assert_eq!(names, ["node-b 1", "node-x 2", "node-a 3", "node-c 4", "node-d 5"]);
        assert_eq!(joined.clone().joined(&running), joined);
    }

    #[test]
    fn bad_names_and_runtimes_are_refused() {
        for text in ["", "a,a", "a:docker", "A", "a/b", "averylongname"] {
            assert!(text.parse::<Topology>().is_err(), "{text}");
        }
    }
}
