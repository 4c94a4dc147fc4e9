//! From one node to another over the nodes' network, through a plain TCP connection.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use godwit_demo::lab::{Lab, Pair};

/// How long one step of a peer may take.
pub const LIMIT: Duration = Duration::from_secs(300);
const PORT: u16 = 8874;

/// What a shell on a node prints.
pub fn shell(lab: &Lab, node: &str, script: &str) -> Result<String> {
    lab.command(&["node", "exec", node, "--", "bash", "-euc", script], LIMIT)
}

/// The same on both nodes of a pair.
pub fn on_both(lab: &Lab, pair: &Pair, script: &str) -> Result<()> {
    [&pair.a, &pair.b].into_iter().try_for_each(|node| shell(lab, node, script).map(drop))
}

/// The address of a node.
fn address(lab: &Lab, node: &str) -> Result<String> {
    let found = lab.nodes().iter().find(|one| one.name == node);
    found.map(|node| node.address.clone()).with_context(|| format!("the lab has no {node}"))
}

/// Brings a file from one node to a path on another.
pub fn bring(lab: &Lab, (from, file): (&str, &str), (to, path): (&str, &str)) -> Result<()> {
    stream(lab, (from, &format!("cat {file}")), (to, &format!("cat > {path}")))
}

/// Gives what a command on one node writes to a command on another.
pub fn stream(lab: &Lab, (from, writes): (&str, &str), (to, reads): (&str, &str)) -> Result<()> {
    let address = address(lab, to)?;
    thread::scope(|scope| {
        let listener = scope.spawn(|| shell(lab, to, &format!("set -o pipefail; timeout 200 socat -b 1048576 -u TCP-LISTEN:{PORT},reuseaddr - | {reads}")));
        shell(lab, from, &format!("set -o pipefail; {writes} | socat -b 1048576 -u - TCP:{address}:{PORT},retry=200,interval=0.02"))?;
        listener.join().map_err(|_| anyhow!("the listener panicked"))?.map(drop)
    })
}
