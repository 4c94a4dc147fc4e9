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
}

/// Two nodes between which pods are moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Container runtime of both.
    pub runtime: String,
    /// First node.
    pub a: String,
    /// Second node.
    pub b: String,
}

impl Pair {
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
        Ok(Self { program, nodes, network })
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

    /// Two nodes for every container runtime that has two.
    #[must_use]
    pub fn pairs(&self) -> Vec<Pair> {
        pairs(&self.nodes)
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

    /// The root directory of a node, as seen from this machine.
    ///
    /// # Errors
    /// When the node does not run.
    pub fn root_of(&self, node: &str) -> Result<PathBuf> {
        let state = std::env::var_os("GODWIT_LAB").map_or_else(|| PathBuf::from("/var/lib/godwit-lab"), PathBuf::from);
        let path = state.join("machines").join(node).join("pid");
        let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let pid: u32 = text.split_whitespace().next().unwrap_or_default().parse().with_context(|| format!("no process id in {}", path.display()))?;
        Ok(PathBuf::from(format!("/proc/{pid}/root")))
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
        Some(Node { name: words.next()?, runtime: words.next()?, address: words.next()? })
    })
    .collect()
}

fn pairs(nodes: &[Node]) -> Vec<Pair> {
    let of = |runtime: &str| {
        let mut names = nodes.iter().filter(|node| node.runtime == runtime).map(|node| node.name.clone());
        Some(Pair { runtime: runtime.to_owned(), a: names.next()?, b: names.next()? })
    };
    ["containerd", "crio"].into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn nodes_are_paired_by_runtime() {
        let nodes = read_nodes("SERVER=x\nNODE=n1 containerd 10.0.0.1\nNODE=n2 crio 10.0.0.2\nNODE=n3 containerd 10.0.0.3\n");
        assert_eq!(nodes.len(), 3);
        assert_eq!(pairs(&nodes), [Pair { runtime: "containerd".into(), a: "n1".into(), b: "n3".into() }]);
        assert_eq!(pairs(&nodes)[0].other("n1"), "n3");
    }
}
