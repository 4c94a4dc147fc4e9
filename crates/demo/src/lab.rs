//! The handle of a running lab: its nodes, kubectl, commands inside nodes. See `godwit-lab --help` for what it is.
//!
//! A program that uses it must be in the clients' network of the lab; [`Lab::enter`] sees to that by starting the program anew through `godwit-lab run`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::shell::{self, Output};

/// Set in programs that were started anew inside the clients' network.
const INSIDE: &str = "GODWIT_LAB_INSIDE";
/// Where the lab's program is, if not beside the running one.
const PROGRAM: &str = "GODWIT_LAB_PROGRAM";
/// Address of the clients' network, which pods can reach.
pub const CLIENT_ADDRESS: &str = "10.88.0.1";
/// The same of IPv6, on a network that has it.
pub const CLIENT_ADDRESS_SIX: &str = "fd88::1";
/// How long a single command of kubectl may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A node of the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name in Kubernetes.
    pub name: String,
    /// `containerd` or `crio`.
    pub runtime: String,
    /// Its address.
    pub address: String,
    /// Whose kernel it has, `trixie` or `sid`, if it is a virtual machine.
    pub vm: Option<String>,
}

/// Two nodes between which pods are moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Container runtime of both.
    pub runtime: String,
    /// Whether both are virtual machines, with different kernels.
    pub vm: bool,
    /// First node.
    pub a: String,
    /// Second node.
    pub b: String,
}

impl Pair {
    /// A word for the pair: its runtime, and what its nodes are if they are no sets of namespaces.
    #[must_use]
    pub fn label(&self) -> String {
        if self.vm { format!("vm-{}", self.runtime) } else { self.runtime.clone() }
    }

    /// The node that is not `node`.
    #[must_use]
    pub fn other<'a>(&'a self, node: &str) -> &'a str {
        if node == self.a { &self.b } else { &self.a }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Lab {
    program: String,
    nodes: Vec<Node>,
    network: String,
    state: PathBuf,
}

impl Lab {
    /// Brings the lab up if it is not, and goes on inside its clients' network: the running program is started anew there.
    ///
    /// # Errors
    /// When the lab cannot be brought up.
    pub fn enter() -> Result<Self> {
        let program = find_program()?;
        if std::env::var_os(INSIDE).is_some() {
            return Self::open(program);
        }
        let status = shell::run(&program, &["status"], None, LIMIT)?;
        if status.code != 0 {
            let up = Command::new(&program).arg("up").status().context("godwit-lab cannot be started")?;
            ensure!(up.success(), "the lab did not come up; see above");
        }
        let own = std::env::current_exe().context("the path of this program is unknown")?;
        let error = Command::new(&program).arg("run").arg("--").arg(own).args(std::env::args_os().skip(1)).env(INSIDE, "1").exec();
        Err(anyhow!(error).context("godwit-lab cannot be started"))
    }

    fn open(program: String) -> Result<Self> {
        let paths = shell::run(&program, &["paths"], None, LIMIT)?.success()?;
        let nodes = read_nodes(&paths);
        ensure!(!nodes.is_empty(), "the lab has no nodes; start it with: godwit-lab up");
        let network = paths.lines().find_map(|line| line.strip_prefix("NETWORK=")).unwrap_or("bridge").to_owned();
        let state = paths.lines().find_map(|line| line.strip_prefix("GODWIT_LAB=")).context("the lab does not say where it is")?.into();
        Ok(Self { program, nodes, network, state })
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The pods' network: `bridge` or `routed`.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Certificate and key of the lab's authority, as PEM files.
    #[must_use]
    pub fn authority(&self) -> [PathBuf; 2] {
        ["ca.crt", "ca.key"].map(|name| self.state.join("pki").join(name))
    }

    /// All pairs of nodes of one container runtime, virtual machines left out: the first pair of each runtime, then the second, and so on.
    #[must_use]
    pub fn pairs(&self) -> Vec<Pair> {
        let mut plain: Vec<Node> = self.nodes.iter().filter(|node| node.vm.is_none()).cloned().collect();
        let mut all = Vec::new();
        loop {
            let found = pairs(&plain, |_, _| true);
            if found.is_empty() {
                return all;
            }
            plain.retain(|node| found.iter().all(|pair| pair.a != node.name && pair.b != node.name));
            all.extend(found);
        }
    }

    /// Two virtual machines with different kernels for every container runtime that has them.
    #[must_use]
    pub fn vm_pairs(&self) -> Vec<Pair> {
        let machines: Vec<Node> = self.nodes.iter().filter(|node| node.vm.is_some()).cloned().collect();
        pairs(&machines, |one, other| one.vm != other.vm)
    }

    /// The same lab as it is now: nodes may have come or gone.
    ///
    /// # Errors
    /// When it is down.
    pub fn again(&self) -> Result<Self> {
        Self::open(self.program.clone())
    }

    /// Runs `godwit-lab` with other arguments.
    ///
    /// # Errors
    /// When it does not succeed.
    pub fn command(&self, arguments: &[&str], limit: Duration) -> Result<String> {
        shell::run(&self.program, arguments, None, limit)?.success()
    }

    /// Runs kubectl and returns however it ended.
    ///
    /// # Errors
    /// When it hangs or cannot be started.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<Output> {
        shell::run("kubectl", arguments, None, LIMIT)
    }

    /// What kubectl prints.
    ///
    /// # Errors
    /// When it does not succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.try_kubectl(arguments)?.success()
    }

    /// An object or a list, as JSON.
    ///
    /// # Errors
    /// When kubectl does not succeed.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["get", "-o", "json"];
        all.extend(arguments);
        Ok(serde_json::from_str(&self.kubectl(&all)?)?)
    }

    /// An object, if it is there.
    ///
    /// # Errors
    /// When kubectl does not succeed.
    pub fn find(&self, arguments: &[&str]) -> Result<Option<Value>> {
        let mut all = vec!["get", "-o", "json", "--ignore-not-found"];
        all.extend(arguments);
        let text = self.kubectl(&all)?;
        if text.trim().is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text)?)) }
    }

    /// Applies objects.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        shell::run("kubectl", &["apply", "-f", "-"], Some(&list.to_string()), LIMIT)?.success().map(drop)
    }

    /// Runs `godwit-lab` with other arguments, however it ends.
    ///
    /// # Errors
    /// When it hangs or cannot be started.
    pub fn try_command(&self, arguments: &[&str], limit: Duration) -> Result<Output> {
        shell::run(&self.program, arguments, None, limit)
    }

    /// What a command inside a node prints.
    ///
    /// # Errors
    /// When it does not succeed.
    pub fn on_node(&self, node: &str, command: &[&str]) -> Result<String> {
        self.try_on_node(node, command)?.success()
    }

    /// Runs a command inside a node, however it ends.
    ///
    /// # Errors
    /// When it hangs or cannot be started.
    pub fn try_on_node(&self, node: &str, command: &[&str]) -> Result<Output> {
        let mut all = vec!["node", "exec", node, "--"];
        all.extend(command);
        shell::run(&self.program, &all, None, LIMIT)
    }

    /// A shell script inside a node, as [`Lab::on_node`].
    ///
    /// # Errors
    /// When it does not succeed.
    pub fn script_on_node(&self, node: &str, script: &str) -> Result<String> {
        self.on_node(node, &["sh", "-euc", script])
    }

    /// The folder of a node's logs, as seen from this machine: its /var/log.
    #[must_use]
    pub fn logs_of(&self, node: &str) -> PathBuf {
        let state = std::env::var_os("GODWIT_LAB").map_or_else(|| PathBuf::from("/var/lib/godwit-lab"), PathBuf::from);
        state.join("machines").join(node).join("log")
    }
}

fn find_program() -> Result<String> {
    if let Some(path) = std::env::var_os(PROGRAM) {
        return Ok(path.to_string_lossy().into_owned());
    }
    let own = std::env::current_exe().context("the path of this program is unknown")?;
    // Tests lie one folder deeper than programs.
    for folder in own.ancestors().skip(1).take(2) {
        let candidate = folder.join("godwit-lab");
        if candidate.is_file() {
            return Ok(candidate.to_string_lossy().into_owned());
        }
    }
    bail!("godwit-lab is not beside {}; build it first: cargo build --release -p godwit-lab", own.display())
}

fn read_nodes(paths: &str) -> Vec<Node> {
    let rows = paths.lines().filter_map(|line| line.strip_prefix("NODE="));
    rows.filter_map(|row| {
        let mut words = row.split_whitespace().map(str::to_owned);
        let (name, runtime, address) = (words.next()?, words.next()?, words.next()?);
        let vm = words.next().and_then(|word| Some(word.strip_prefix("vm=")?.to_owned()));
        Some(Node { name, runtime, address, vm })
    })
    .collect()
}

/// The first two nodes of each runtime that fit.
fn pairs(nodes: &[Node], fit: impl Fn(&Node, &Node) -> bool) -> Vec<Pair> {
    let of = |runtime: &str| {
        let nodes: Vec<&Node> = nodes.iter().filter(|node| node.runtime == runtime).collect();
        let (a, b) = nodes.iter().enumerate().find_map(|(index, a)| Some((a, nodes.iter().skip(index + 1).find(|b| fit(a, b))?)))?;
        Some(Pair { runtime: runtime.to_owned(), vm: a.vm.is_some(), a: a.name.clone(), b: b.name.clone() })
    };
    ["containerd", "crio"].into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn nodes_are_paired_by_runtime_and_kind() {
        let nodes = read_nodes(
            "SERVER=x\nNODE=n1 containerd 10.0.0.1\nNODE=n2 crio 10.0.0.2\nNODE=n3 containerd 10.0.0.3\n\
             NODE=v1 crio 10.0.0.4 vm=trixie\nNODE=v2 crio 10.0.0.5 vm=trixie\nNODE=v3 crio 10.0.0.6 vm=sid\n\
             NODE=n4 containerd 10.0.0.7\nNODE=n5 crio 10.0.0.8\nNODE=n6 containerd 10.0.0.9\n",
        );
        assert_eq!(nodes.len(), 9);
        let lab = Lab { program: String::new(), network: String::new(), nodes, state: PathBuf::new() };
        let pair = |runtime: &str, a: &str, b: &str| Pair { runtime: runtime.into(), vm: false, a: a.into(), b: b.into() };
        assert_eq!(lab.pairs(), [pair("containerd", "n1", "n3"), pair("crio", "n2", "n5"), pair("containerd", "n4", "n6")]);
        assert_eq!(lab.pairs()[0].other("n1"), "n3");
        assert_eq!(lab.vm_pairs(), [Pair { runtime: "crio".into(), vm: true, a: "v1".into(), b: "v3".into() }]);
        assert_eq!(lab.vm_pairs()[0].label(), "vm-crio");
    }
}
