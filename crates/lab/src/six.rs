//! IPv6 beside IPv4, which stays the first family of everything:
//!
//! ```text
//!   fd88::1              switch
//!   fd88::N:1            node N                     N in hexadecimal
//!   fd88::N:10 to c8     pods of node N             on the bridge network; chosen by host-local, as their IPv4 addresses are
//!   fd90::N:0/112        pods of node N             on the routed network, every pod a /128
//!   fd99::/112           Services that want it (ipFamilyPolicy)
//! ```
//! Nobody waits for duplicate address detection: machines and pods of the routed network have their addresses without it (`nodad`), and Debian's CNI plugin `bridge`
//! switches it off for a pod's interface.

use std::path::Path;

use serde_json::{Value, json};

use crate::fabric::Fabric;
use crate::topology::Node;

/// Network of nodes, and of the bridge network's pods.
const NETWORK: &str = "fd88::/64";
/// Network of the routed network's pods.
pub const ROUTED_PODS: &str = "fd90::/64";
/// The gateway of every pod of the routed network: the link-local address of the node's end of its wire.
pub const GATEWAY: &str = "fe80::1";
/// Network of Services.
pub const SERVICES: &str = "fd99::/112";
/// Address of the switch.
pub const SWITCH: &str = "fd88::1";

/// Whether labs have IPv6: where the kernel has it.
pub fn on() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// What labs have, in words.
pub fn said() -> &'static str {
    if on() { "IPv4 and IPv6" } else { "IPv4 only, as this kernel has no IPv6" }
}

/// The network that holds every pod's address.
pub fn pods(fabric: Fabric) -> &'static str {
    match fabric {
        Fabric::Bridge => NETWORK,
        Fabric::Routed => ROUTED_PODS,
    }
}

/// The addresses from which a node gives its pods theirs on the routed network.
pub fn block(node: &Node) -> String {
    format!("fd90::{:x}:0/112", node.number)
}

/// A node's address.
pub fn address(node: &Node) -> String {
    format!("fd88::{:x}:1", node.number)
}

/// Two networks or addresses as Kubernetes wants them, or the first alone.
pub fn both(four: &str, six: Option<&str>) -> String {
    six.map_or_else(|| four.to_owned(), |six| format!("{four},{six}"))
}

/// A set of ranges for `host-local`, on the bridge network.
pub fn range(node: &Node) -> Value {
    let address = |last: u8| format!("fd88::{:x}:{last:x}", node.number);
    json!([{"subnet": NETWORK, "rangeStart": address(0x10), "rangeEnd": address(0xc8), "gateway": address(1)}])
}

/// Commands of `ip -batch` that give a device, which is up, the address of its machine.
pub fn commands(device: &str, address: &str) -> String {
    format!("addr add {address}/64 dev {device} nodad\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_numbered_as_those_of_ipv4() {
        let topology: crate::topology::Topology = "a,b".parse().unwrap();
        assert_eq!(address(&topology.nodes[1]), "fd88::2:1");
        assert_eq!(range(&topology.nodes[1])[0]["rangeEnd"], "fd88::2:c8");
        assert_eq!((both("a", Some("b")), both("a", None)), ("a,b".to_owned(), "a".to_owned()));
        assert_eq!(block(&topology.nodes[1]), "fd90::2:0/112");
    }
}
