//! The wires between the machines.
//!
//! ```text
//!   bridge   switch: br0 10.88.0.1/16 ──┬── sw1 ═══ up0 ── cni0 10.88.1.1/16 ── pods 10.88.1.10-200   node 1
//!                                       └── sw2 ═══ up0 ── cni0 10.88.2.1/16 ── pods 10.88.2.10-200   node 2
//!   routed   switch: br0 10.88.0.1/16 ──┬── sw1 ═══ up0 10.88.1.1/16   cali… ── pod 10.90.1.7/32      node 1
//!                                       └── sw2 ═══ up0 10.88.2.1/16   cali… ── pod 10.90.2.7/32      node 2
//! ```
//! Clients on the switch reach Services through one of the nodes. IPv6: [`crate::six`].

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::fabric::{Fabric, block};
use crate::machine::Machine;
use crate::six;
use crate::topology::{Node, SERVICE_NETWORK, SWITCH, SWITCH_ADDRESS, Topology};

/// Sets up the switch and gives its network namespace a name for `ip netns`.
pub fn wire_switch(switch: &Machine) -> Result<()> {
    let six = if six::on() { six::commands("br0", six::SWITCH) } else { String::new() };
    batch(
        switch,
        &format!(
            "link set lo up\n\
             link add br0 address 02:88:00:00:00:01 type bridge\n\
             addr add {SWITCH_ADDRESS}/16 dev br0\n\
             link set br0 up\n\
             {six}"
        ),
    )?;
    name_switch(switch)
}

/// Where `ip netns` looks for named network namespaces.
const NAMES: &str = "/run/netns";

/// `ip netns attach` would do the same, but also mount its folder on itself, which nobody takes away again.
fn name_switch(switch: &Machine) -> Result<()> {
    unname_switch();
    let name = Path::new(NAMES).join(SWITCH);
    let namespace = format!("/proc/{}/ns/net", switch.pid);
    fs::create_dir_all(NAMES)
        .and_then(|()| fs::write(&name, ""))
        .and_then(|()| Ok(mount(Some(namespace.as_str()), &name, None::<&str>, MsFlags::MS_BIND, None::<&str>)?))
        .with_context(|| format!("the network namespace {SWITCH} cannot be named in {NAMES}"))
}

/// Connects a node to the switch.
pub fn wire_node(switch: &Machine, fabric: Fabric, node: &Node, machine: &Machine) -> Result<()> {
    let number = node.number;
    if node.vm.is_some() {
        // A virtual machine comes wired: its qemu makes the port, its PID 1 the rest.
        return Ok(());
    }
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
    batch(machine, &node_side(fabric, node, six::on()))
}

/// Commands of `ip -batch` in the node. The hardware address outlives reboots: who knows it need not ask again.
fn node_side(fabric: Fabric, node: &Node, six: bool) -> String {
    let (address, mac) = (node.address(), format!("02:88:00:00:{:02x}:01", node.number));
    let device = match fabric {
        Fabric::Bridge => {
            format!("link add cni0 address {mac} type bridge\naddr add {address}/16 dev cni0\nlink set up0 master cni0 up\nlink set cni0 up\n")
        }
        Fabric::Routed => format!("link set up0 address {mac}\naddr add {address}/16 dev up0\nlink set up0 up\n"),
    };
    let own = match fabric {
        Fabric::Bridge => "cni0",
        Fabric::Routed => "up0",
    };
    let six = if six { format!("{}route add default via {}\n", six::commands(own, &six::address(node)), six::SWITCH) } else { String::new() };
    format!("link set lo up\n{device}route add default via {SWITCH_ADDRESS}\n{six}")
}

/// Whether the clients know the way to every node's pods.
pub fn is_routed(switch: &Machine, topology: &Topology) -> bool {
    let routes = |family: &str| -> String {
        let routes = switch.network_command("ip").and_then(|mut ip| Ok(ip.args([family, "route", "show"]).output()?));
        routes.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    };
    let all = |family: &str, way: fn(&Node) -> String| {
        let routes = routes(family);
        topology.nodes.iter().all(|node| routes.lines().any(|line| line.starts_with(&way(node))))
    };
    all("-4", |node| format!("{} via {}", block(node), node.address()))
        && (!six::on() || all("-6", |node| format!("{} via {}", six::block(node), six::address(node))))
}

/// The same in a virtual machine, which has a network card.
pub fn inside_vm(fabric: Fabric, node: &Node) -> String {
    format!("link set eth0 name up0\n{}", node_side(fabric, node, six::on()))
}

/// Routes the clients' Service traffic through a node.
pub fn route_services(switch: &Machine, node: &Node) -> Result<()> {
    let six = if six::on() { format!("route replace {} via {}\n", six::SERVICES, six::address(node)) } else { String::new() };
    batch(switch, &format!("route replace {SERVICE_NETWORK} via {}\n{six}", node.address()))
}

/// Takes away the name given by [`wire_switch`], if it is there, and the folder of names if nobody else has one.
pub fn unname_switch() {
    let name = Path::new(NAMES).join(SWITCH);
    // Each of these fails when there is nothing to do.
    let _ = umount2(&name, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(&name);
    let _ = fs::remove_dir(NAMES);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_node_has_its_address_on_the_bridge_or_on_the_wire() {
        let topology: Topology = "a,b".parse().unwrap();
        let commands = |fabric| node_side(fabric, &topology.nodes[1], false);
        assert!(commands(Fabric::Bridge).contains("addr add 10.88.2.1/16 dev cni0\nlink set up0 master cni0 up\n"));
        assert!(commands(Fabric::Routed).contains("addr add 10.88.2.1/16 dev up0\n") && !commands(Fabric::Routed).contains("cni0"));
        for fabric in [Fabric::Bridge, Fabric::Routed] {
            assert!(commands(fabric).contains("02:88:00:00:02:01") && commands(fabric).ends_with("route add default via 10.88.0.1\n"));
        }
        for (fabric, device) in [(Fabric::Bridge, "cni0"), (Fabric::Routed, "up0")] {
            let (more, six) =
                (node_side(fabric, &topology.nodes[1], true), format!("addr add fd88::2:1/64 dev {device} nodad\nroute add default via fd88::1\n"));
            assert_eq!(more.strip_prefix(&commands(fabric)), Some(six.as_str()));
        }
    }
}
