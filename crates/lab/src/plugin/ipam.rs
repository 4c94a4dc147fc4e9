//! Who gets which address: Debian's `host-local` chooses and remembers, this decides among which.
//!
//! ```text
//!   no wish                             host-local, network "lab",          the node's range
//!   a free address of the node's range  host-local, network "lab",          that address only
//!   a free address of another node's    host-local, network "lab-borrowed", that address only, none of IPv6
//!   an address past IPAM                nobody is asked, none of IPv6
//! ```
//! `host-local` knows its own node only. So the API server is asked whether another pod has a wanted address.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::call::{Call, Range};
use super::wish::{self, Wish};
use super::{FOLDER, KUBECONFIG};

/// Appended to the network's name where addresses of other nodes' ranges are noted.
const BORROWED: &str = "-borrowed";

/// The plugin.
pub fn run(call: &Call) -> Result<Value> {
    match call.command.as_str() {
        "ADD" => add(call),
        "DEL" => remove(call).map(|()| Value::Null),
        _ => Ok(Value::Null),
    }
}

/// Gives the pod an address, or one of each family; a CNI result.
pub fn add(call: &Call) -> Result<Value> {
    let wish = wish::of(call)?;
    if let Wish::Free(address) = wish
        && let Some(holder) = holder(call, address)?
    {
        bail!("{address} belongs to the pod {holder}; it is free when that is gone");
    }
    match wish {
        Wish::Taken(address) => given(call, address),
        Wish::Any | Wish::Free(_) => {
            let config = host_local(call, wish)?;
            delegate(&config)
        }
    }
}

/// Takes the pod's address back, whichever way it was given.
pub fn remove(call: &Call) -> Result<()> {
    let mut config = host_local(call, Wish::Any)?;
    delegate(&config)?;
    config["name"] = json!(format!("{}{BORROWED}", call.config.name));
    delegate(&config).map(drop)
}

/// The node's range of IPv4.
fn range(call: &Call) -> Result<&Range> {
    call.config.ipam.ranges.first().and_then(|set| set.first()).context("the configuration has no range of addresses")
}

/// The configuration for `host-local`.
fn host_local(call: &Call, wish: Wish) -> Result<Value> {
    let own = range(call)?;
    let mut config = call.raw.clone();
    config["ipam"] = json!({"type": "host-local", "ranges": call.config.ipam.ranges, "routes": call.config.ipam.routes});
    if let Wish::Free(address) = wish {
        let borrowed = !is_within(own, address);
        let subnet = if borrowed { &call.config.ipam.pods } else { &own.subnet };
        let only = Some(IpAddr::from(address));
        config["ipam"]["ranges"][0] = json!([Range { subnet: subnet.clone(), range_start: only, range_end: only, gateway: own.gateway }]);
        if borrowed {
            config["name"] = json!(format!("{}{BORROWED}", call.config.name));
            // Those of IPv6 are noted by the network's own name.
            config["ipam"]["ranges"] = json!([config["ipam"]["ranges"][0]]);
            config["ipam"]["routes"] = json!(routes_of_four(call));
        }
    }
    Ok(config)
}

/// Routes for a pod without IPv6.
fn routes_of_four(call: &Call) -> Vec<&Value> {
    call.config.ipam.routes.iter().filter(|route| !route["dst"].as_str().unwrap_or_default().contains(':')).collect()
}

fn is_within(range: &Range, address: Ipv4Addr) -> bool {
    let ip = IpAddr::from(address);
    crate::fabric::holds(&range.subnet, address) && range.range_start.is_none_or(|start| start <= ip) && range.range_end.is_none_or(|end| ip <= end)
}

/// The result for an address that nobody is asked for.
fn given(call: &Call, address: Ipv4Addr) -> Result<Value> {
    let own = range(call)?;
    let length = own.subnet.split_once('/').map_or("32", |(_, length)| length);
    let mut ip = json!({"address": format!("{address}/{length}")});
    if let Some(gateway) = own.gateway {
        ip["gateway"] = json!(gateway);
    }
    Ok(json!({"cniVersion": call.config.version, "ips": [ip], "routes": routes_of_four(call), "dns": {}}))
}

/// Runs `host-local` with this process's environment.
fn delegate(config: &Value) -> Result<Value> {
    let program = Path::new(FOLDER).join("host-local");
    let mut child = Command::new(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be run", program.display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(config.to_string().as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if !output.status.success() {
        let said = answer["msg"].as_str().map_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_owned(), str::to_owned);
        bail!("host-local: {said}");
    }
    Ok(answer)
}

/// Another pod that has the address: `namespace/name`.
fn holder(call: &Call, address: Ipv4Addr) -> Result<Option<String>> {
    let output = Command::new("kubectl")
        .args(["--kubeconfig", KUBECONFIG, "--request-timeout=10s", "get", "pods", "--all-namespaces", "-o", "json", "--field-selector"])
        .arg(format!("status.podIP={address}"))
        .stdin(Stdio::null())
        .output()
        .context("kubectl cannot be run")?;
    if !output.status.success() {
        bail!("the API server does not say who has {address}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let pods = serde_json::from_slice(&output.stdout).context("kubectl printed no list")?;
    Ok(other_holder(&pods, call.pod()))
}

/// The first pod of a list that may still use its address and is not this one.
fn other_holder(pods: &Value, (namespace, name): (&str, &str)) -> Option<String> {
    let items = pods["items"].as_array().into_iter().flatten();
    let mut holders = items.filter(|pod| !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))).filter_map(|pod| {
        let (of, called) = (pod["metadata"]["namespace"].as_str()?, pod["metadata"]["name"].as_str()?);
        ((of, called) != (namespace, name)).then(|| format!("{of}/{called}"))
    });
    holders.next()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::call::example;
    use super::*;
    use crate::fabric::Fabric;

    fn asked(fabric: Fabric, wish: Wish) -> (Value, Value) {
        let config = host_local(&example(fabric, "ADD", &json!({})), wish).unwrap();
        assert_eq!(config["ipam"]["type"], "host-local");
        (config["name"].clone(), config["ipam"]["ranges"][0][0].clone())
    }

    #[test]
    fn without_a_wish_the_nodes_range_is_asked() {
        let (name, range) = asked(Fabric::Bridge, Wish::Any);
        assert_eq!(name, "lab");
        assert_eq!(range, json!({"subnet": "10.88.0.0/16", "rangeStart": "10.88.1.10", "rangeEnd": "10.88.1.200", "gateway": "10.88.1.1"}));
        assert_eq!(asked(Fabric::Routed, Wish::Any).1, json!({"subnet": "10.90.1.0/24"}));
    }

    #[test]
    fn a_pod_has_ipv6_unless_its_address_is_another_nodes() {
        let sets = |wish| {
            let ipam = host_local(&example(Fabric::Bridge, "ADD", &json!({})), wish).unwrap()["ipam"].clone();
            let of_six = ipam["ranges"].as_array().unwrap().get(1).map(|set| set[0]["rangeStart"].clone());
            (of_six, ipam["routes"].as_array().unwrap().len())
        };
        assert_eq!(sets(Wish::Any), (Some(json!("fd88::1:10")), 2));
        assert_eq!(sets(Wish::Free("10.88.1.11".parse().unwrap())), (Some(json!("fd88::1:10")), 2));
        assert_eq!(sets(Wish::Free("10.88.2.11".parse().unwrap())), (None, 1));
    }

    #[test]
    fn a_wanted_address_of_another_node_is_noted_apart() {
        let wish = |text: &str| Wish::Free(text.parse().unwrap());
        let (name, range) = asked(Fabric::Routed, wish("10.90.1.7"));
        assert_eq!(
            (name, &range["subnet"], &range["rangeStart"], &range["rangeEnd"]),
            (json!("lab"), &json!("10.90.1.0/24"), &json!("10.90.1.7"), &json!("10.90.1.7"))
        );
        let (name, range) = asked(Fabric::Routed, wish("10.90.2.7"));
        assert_eq!((name, &range["subnet"]), (json!("lab-borrowed"), &json!("10.90.0.0/16")));
        let (name, range) = asked(Fabric::Bridge, wish("10.88.2.10"));
        assert_eq!((name, &range["gateway"]), (json!("lab-borrowed"), &json!("10.88.1.1")));
        assert_eq!(asked(Fabric::Bridge, wish("10.88.1.10")).0, "lab");
    }

    #[test]
    fn an_address_past_ipam_has_the_networks_length_and_gateway() {
        let result = given(&example(Fabric::Bridge, "ADD", &json!({})), "10.88.2.10".parse().unwrap()).unwrap();
        assert_eq!(result["ips"], json!([{"address": "10.88.2.10/16", "gateway": "10.88.1.1"}]));
        assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0"}]));
    }

    #[test]
    fn the_pod_itself_and_ended_pods_hold_nothing() {
        let pod = |name: &str, phase: &str| json!({"metadata": {"namespace": "shop", "name": name}, "status": {"phase": phase}});
        let list = |pods: &[Value]| json!({"items": pods});
        assert_eq!(other_holder(&list(&[pod("web-0", "Running"), pod("old", "Succeeded")]), ("shop", "web-0")), None);
        assert_eq!(other_holder(&list(&[pod("web-0", "Running"), pod("web-1", "Running")]), ("shop", "web-0")), Some("shop/web-1".into()));
    }
}
