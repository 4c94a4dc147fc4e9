//! How a pod asks for an address: by Calico's annotations, on both networks of the lab.
//!
//! | annotation | meaning |
//! |---|---|
//! | `cni.projectcalico.org/ipAddrs` `["10.90.1.7"]` | this one, if no other pod has it |
//! | `cni.projectcalico.org/ipAddrsNoIpam` `["10.90.1.7"]` | this one, whoever has it: nobody is asked and nothing is noted |
//!
//! As with Calico it may be any address of the pods' network, on any node.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};

use super::Call;
use crate::fabric::holds;

const THROUGH_IPAM: &str = "cni.projectcalico.org/ipAddrs";
const PAST_IPAM: &str = "cni.projectcalico.org/ipAddrsNoIpam";

/// What a pod wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Any free address of the node's.
    Any,
    /// This one, if it is free.
    Free(Ipv4Addr),
    /// This one.
    Taken(Ipv4Addr),
}

/// Reads the annotations of a call's pod.
pub fn of(call: &Call) -> Result<Wish> {
    match (call.annotation(THROUGH_IPAM), call.annotation(PAST_IPAM)) {
        (Some(_), Some(_)) => bail!("{THROUGH_IPAM} and {PAST_IPAM} exclude each other; remove one of them"),
        (Some(text), None) => Ok(Wish::Free(address(call, THROUGH_IPAM, text)?)),
        (None, Some(text)) => Ok(Wish::Taken(address(call, PAST_IPAM, text)?)),
        (None, None) => Ok(Wish::Any),
    }
}

fn address(call: &Call, name: &str, text: &str) -> Result<Ipv4Addr> {
    let pods = &call.config.ipam.pods;
    match serde_json::from_str::<[Ipv4Addr; 1]>(text) {
        Ok([address]) if holds(pods, address) => Ok(address),
        _ => bail!("{name} is {text}; wanted is a list of one IPv4 address of the pods' network {pods}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::call::example;
    use super::*;
    use crate::fabric::Fabric;
    use serde_json::json;

    #[test]
    fn a_wish_is_one_address_of_the_pods_network() {
        let address = "10.90.2.7".parse().unwrap();
        for (annotations, expected) in [
            (json!({}), Wish::Any),
            (json!({THROUGH_IPAM: "[\"10.90.2.7\"]"}), Wish::Free(address)),
            (json!({PAST_IPAM: "[\"10.90.2.7\"]"}), Wish::Taken(address)),
        ] {
            assert_eq!(of(&example(Fabric::Routed, "ADD", &annotations)).unwrap(), expected);
        }
        for wrong in ["10.90.2.7", "[]", "[\"10.90.2.7\",\"10.90.2.8\"]", "[\"10.88.1.10\"]", "[\"fd00::1\"]"] {
            let error = of(&example(Fabric::Routed, "ADD", &json!({THROUGH_IPAM: wrong}))).unwrap_err().to_string();
            assert!(error.contains("one IPv4 address"), "{wrong}: {error}");
        }
        assert!(of(&example(Fabric::Routed, "ADD", &json!({THROUGH_IPAM: "[]", PAST_IPAM: "[]"}))).is_err());
    }
}
