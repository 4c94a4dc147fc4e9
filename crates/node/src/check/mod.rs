//! Whether a node can take part in migrations: everything that is looked at, each with what was found and the exact way to mend it.
//!
//! ```text
//!   kernel   version, checkpoint/restore, trackers of memory, namespaces, security modules
//!   criu     its version, what `criu check` says, the capability that it needs
//!   oci      versions of runc and crun
//!   runtime  containerd's or CRI-O's settings as far as they touch Godwit's handler
//!   network  nftables, and the links that an anchor is made of
//!   room     /run and memory
//! ```
//!
//! Looking and judging are apart: each `judge` is a plain function with tests.

mod criu;
mod kernel;
mod network;
mod oci;
mod room;
mod runtime;

use std::time::Duration;

use crate::Host;
use crate::cri::Client;
use crate::facts::Facts;

/// How long a program of the node may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As it should be.
    Ok,
    /// Could not be looked at.
    Unknown,
    /// Pods can move, but not as well as they could.
    Warning,
    /// Pods cannot move from or to this node.
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What part of the node; see the module.
    pub area: &'static str,
    /// What, in a few words.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do; empty when it is as it should be.
    pub fix: String,
}

impl Check {
    /// As it should be.
    #[must_use]
    pub fn ok(area: &'static str, name: &'static str, found: impl Into<String>) -> Self {
        Self { area, name, state: State::Ok, found: found.into(), fix: String::new() }
    }

    /// Not as it should be.
    #[must_use]
    pub fn bad(area: &'static str, name: &'static str, state: State, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { area, name, state, found: found.into(), fix: fix.into() }
    }
}

/// Looks at everything. Touches nothing. `handler`: the node is to have Godwit's runtime handler.
pub async fn all(host: &Host, client: &Client, facts: &Facts, handler: bool) -> Vec<Check> {
    let mut checks = kernel::all(&facts.kernel);
    let (criu, oci, network) = tokio::join!(criu::all(host, facts.criu.as_deref()), oci::all(host), network::all());
    checks.extend(criu);
    checks.extend(oci);
    checks.extend(runtime::all(host, client, handler));
    checks.extend(network);
    checks.push(network::cni(host));
    checks.extend(room::all(host, facts));
    checks
}

/// What a program prints, whether it succeeds or not; `None` when it cannot be started or does not end.
async fn output(command: std::io::Result<tokio::process::Command>) -> Option<(bool, String)> {
    let mut command = command.ok()?;
    command.kill_on_drop(true).stdin(std::process::Stdio::null());
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Some((output.status.success(), text))
}

/// The first two numbers of a version in a text.
fn version(text: &str) -> Option<(u32, u32)> {
    let start = text.find(|char: char| char.is_ascii_digit())?;
    let mut parts = text[start..].split(|char: char| !char.is_ascii_digit()).filter_map(|part| part.parse().ok());
    Some((parts.next()?, parts.next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("runc version 1.3.6+ds1\ncommit: x"), Some((1, 3)));
        assert_eq!(version("6.18.5-cloud"), Some((6, 18)));
        assert_eq!(version("none"), None);
    }

    #[tokio::test]
    async fn this_machine_can_be_looked_at() {
        let mut checks = kernel::all(&crate::facts::gather(&Host::at("/")).await.kernel);
        checks.extend(network::all().await);
        checks.extend(oci::all(&Host::at("/")).await);
        for check in checks {
            println!("{check:?}");
            assert!(check.state == State::Ok || !check.fix.is_empty(), "{check:?} has no way out");
        }
    }
}
