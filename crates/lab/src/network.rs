//! The wires between the machines: one flat network.
//!
//! ```text
//!   switch: br0 10.88.0.1/16 ──┬── sw1 ═══ up0 ── cni0 10.88.1.1/16 ── pods 10.88.1.10-200   node 1
//!                              └── sw2 ═══ up0 ── cni0 10.88.2.1/16 ── pods 10.88.2.10-200   node 2
//! ```
//! Clients on the switch reach Services through one of the nodes.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::machine::Machine;
use crate::topology::{Node, SERVICE_NETWORK, SWITCH, SWITCH_ADDRESS};

/// Sets up the switch and gives its network namespace a name for `ip netns`.
pub fn wire_switch(switch: &Machine) -> Result<()> {
    batch(
        switch,
        &format!(
            "link set lo up\n\
             link add br0 address 02:88:00:00:00:01 type bridge\n\
             addr add {SWITCH_ADDRESS}/16 dev br0\n\
             link set br0 up\n"
        ),
    )?;
    let status = std::process::Command::new("ip").args(["netns", "attach", SWITCH, &switch.pid.to_string()]).status()?;
    if !status.success() {
        bail!("the network namespace {SWITCH} cannot be named");
    }
    Ok(())
}

/// Connects a node to the switch.
pub fn wire_node(switch: &Machine, node: &Node, machine: &Machine) -> Result<()> {
    let number = node.number;
    // The wire of an earlier boot may still be there for a moment, or for ever if something holds that namespace.
    let _ = switch.network_command("ip")?.args(["link", "del", &format!("sw{number}")]).stderr(Stdio::null()).status();
    batch(
        switch,
        &format!(
            "link add sw{number} type veth peer name up0 netns {}\n\
             link set sw{number} master br0 up\n",
            machine.pid
        ),
    )?;
    batch(
        machine,
        &format!(
            "link set lo up\n\
             link add cni0 address 02:88:00:00:{number:02x}:01 type bridge\n\
             addr add {}/16 dev cni0\n\
             link set up0 master cni0 up\n\
             link set cni0 up\n\
             route add default via {SWITCH_ADDRESS}\n",
            node.address()
        ),
    )
}

/// Routes the clients' Service traffic through a node.
pub fn route_services(switch: &Machine, node: &Node) -> Result<()> {
    batch(switch, &format!("route replace {SERVICE_NETWORK} via {}\n", node.address()))
}

/// Takes away the name given by [`wire_switch`].
pub fn unname_switch() {
    if std::path::Path::new("/run/netns").join(SWITCH).exists() {
        // `down` looks afterwards whether anything is left.
        let _ = std::process::Command::new("ip").args(["netns", "del", SWITCH]).stderr(Stdio::null()).status();
    }
}

fn batch(machine: &Machine, lines: &str) -> Result<()> {
    let mut child = machine
        .network_command("ip")?
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("ip cannot be run")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("the network of {} cannot be set up: {}", machine.name, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
