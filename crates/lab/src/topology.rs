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

/// The kernel of a node that is a virtual machine, by the Debian release it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// Linux 6.12.
    Trixie,
    /// Linux 7.
    Sid,
}

impl Kernel {
    /// Debian's name of the release.
    pub fn suite(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
            Self::Sid => "sid",
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
    /// Its kernel, if it is a virtual machine; else it is a set of namespaces on this machine's kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Kernel>,
}

impl Node {
    /// The node's own address.
    pub fn address(&self) -> String {
        format!("10.88.{}.1", self.number)
    }

    /// Whether its PID 1 is systemd, which makes all cgroups there.
    pub fn systemd(&self) -> bool {
        self.vm.is_some()
    }

    /// Who makes its pods' cgroups, as the kubelet and CRI-O call it.
    pub fn cgroup_driver(&self) -> &'static str {
        if self.systemd() { "systemd" } else { "cgroupfs" }
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
        let mut nodes = vec![("a", Runtime::Containerd, None), ("b", Runtime::Containerd, None)];
        if with_crio {
            nodes.extend([("c", Runtime::Crio, None), ("d", Runtime::Crio, None)]);
        }
        Self::of(nodes)
    }

    /// Whether a node runs CRI-O.
    pub fn needs_crio(&self) -> bool {
        self.nodes.iter().any(|node| node.runtime == Runtime::Crio)
    }

    /// The kernels of virtual machines, each once.
    pub fn kernels(&self) -> Vec<Kernel> {
        [Kernel::Trixie, Kernel::Sid].into_iter().filter(|kernel| self.nodes.iter().any(|node| node.vm == Some(*kernel))).collect()
    }

    /// The runtimes of virtual machines, each once.
    pub fn vm_runtimes(&self) -> Vec<Runtime> {
        [Runtime::Containerd, Runtime::Crio].into_iter().filter(|runtime| self.nodes.iter().any(|node| node.vm.is_some() && node.runtime == *runtime)).collect()
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

    /// All of these that are not called so; an error if one is not there or none is left.
    pub fn without(mut self, names: &[String]) -> Result<Self> {
        for name in names {
            ensure!(self.node(name).is_some(), "the lab has no node {name:?}; see: godwit-lab status");
            self.nodes.retain(|node| node.name != *name);
        }
        ensure!(!self.nodes.is_empty(), "the lab's last node is taken away by: godwit-lab down");
        Ok(self)
    }

    fn of<'a>(nodes: impl IntoIterator<Item = (&'a str, Runtime, Option<Kernel>)>) -> Self {
        let nodes = nodes.into_iter().zip(1u8..).map(|((letter, runtime, vm), number)| Node { name: format!("node-{letter}"), number, runtime, vm }).collect();
        Self { nodes, fabric: Fabric::default() }
    }
}

impl FromStr for Topology {
    type Err = anyhow::Error;

    /// Parses `a,b:containerd,c:crio,v:containerd:vm=trixie`.
    fn from_str(text: &str) -> Result<Self> {
        let mut nodes: Vec<(&str, Runtime, Option<Kernel>)> = Vec::new();
        for part in text.split(',') {
            let mut words = part.split(':');
            let name = words.next().unwrap_or_default();
            let plain = !name.is_empty() && name.len() <= 8 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            ensure!(plain, "node name {name:?}: one to eight of a-z and 0-9 are allowed");
            ensure!(nodes.iter().all(|(other, ..)| *other != name), "node {name:?} is named twice");
            let (mut runtime, mut vm) = (None, None);
            for word in words {
                let again = match word {
                    "containerd" => runtime.replace(Runtime::Containerd).is_some(),
                    "crio" => runtime.replace(Runtime::Crio).is_some(),
                    "vm=trixie" => vm.replace(Kernel::Trixie).is_some(),
                    "vm=sid" => vm.replace(Kernel::Sid).is_some(),
                    other => match other.strip_prefix("vm") {
                        Some(kernel) => bail!(
                            "node {name}: {:?} names no kernel; a virtual machine is vm=trixie (Linux 6.12) or vm=sid (Linux 7)",
                            kernel.trim_start_matches('=')
                        ),
                        None => bail!("node {name}: runtime {other:?} is neither containerd nor crio; a node is NAME[:containerd|:crio][:vm=trixie|:vm=sid]"),
                    },
                };
                ensure!(!again, "node {name}: {word:?} says again what was said; a node is NAME[:containerd|:crio][:vm=trixie|:vm=sid]");
            }
            nodes.push((name, runtime.unwrap_or(Runtime::Containerd), vm));
        }
        ensure!(nodes.len() <= 16, "at most 16 nodes, not {}", nodes.len());
        Ok(Self::of(nodes))
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
        for text in ["", "a,a", "a:docker", "A", "a/b", "averylongname", "a:", "a:crio:containerd", "a:vm=trixie:vm=sid"] {
            assert!(text.parse::<Topology>().is_err(), "{text}");
        }
        for text in ["v:vm", "v:vm=", "v:crio:vm=buster"] {
            let error = text.parse::<Topology>().unwrap_err().to_string();
            assert!(error.contains("vm=trixie (Linux 6.12) or vm=sid"), "{error}");
        }
    }

    #[test]
    fn virtual_machines_stand_beside_other_nodes() {
        let topology: Topology = "a,v:vm=trixie,w:crio:vm=sid".parse().unwrap();
        let kinds: Vec<_> = topology.nodes.iter().map(|node| (node.runtime, node.vm)).collect();
        assert_eq!(kinds, [(Runtime::Containerd, None), (Runtime::Containerd, Some(Kernel::Trixie)), (Runtime::Crio, Some(Kernel::Sid))]);
        assert_eq!((topology.kernels().len(), topology.vm_runtimes().len()), (2, 2));
        let left = topology.clone().without(&["node-v".to_owned()]).unwrap();
        assert_eq!(left.nodes.iter().map(|node| node.number).collect::<Vec<_>>(), [1, 3]);
        assert!(left.clone().without(&["node-v".to_owned()]).is_err());
        // Written as before where there are none: a lab of an older build stays readable, and its nodes are not disturbed.
        assert!(!serde_json::to_string(&Topology::standard(true)).unwrap().contains("vm"));
    }
}
