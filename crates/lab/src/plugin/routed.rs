//! The wire of a pod on the routed network, as Calico makes it.
//!
//! ```text
//!   pod's namespace                                  node
//!   eth0 10.90.1.7/32 ═══════════ veth ═══════════ cali0123456789a  ee:ee:ee:ee:ee:ee
//!   169.254.1.1 dev eth0 scope link                10.90.1.7 dev cali…   ◀─ BIRD tells the others, see crate::bird
//!   default via 169.254.1.1                        proxy_arp: answers "who has 169.254.1.1"
//!                                                  rp_filter: only 10.90.1.7 may send from there
//!        fd90::1:7/128, default via fe80::1        fe80::1, fd90::1:7 dev cali…
//! ```

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::call::Call;
use super::ipam;
use crate::fabric::GATEWAY;
use crate::six;

/// Hardware address of every node's end: who moves keeps a valid neighbour entry for the gateway.
const GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// The plugin.
pub fn run(call: &Call) -> Result<Value> {
    match call.command.as_str() {
        "ADD" => add(call),
        "DEL" => remove(call).map(|()| Value::Null),
        _ => check(call).map(|()| Value::Null),
    }
}

fn add(call: &Call) -> Result<Value> {
    let netns = call.netns.as_deref().context("CNI_NETNS is not set")?;
    let given = ipam::add(call)?;
    let connected = Addresses::of(&given).and_then(|addresses| Ok((connect(call, netns, &addresses)?, addresses)));
    match connected {
        Ok((mac, addresses)) => Ok(result(call, netns, &mac, &addresses)),
        Err(error) => {
            // The first error is the one to tell.
            let _ = remove(call);
            Err(error)
        }
    }
}

/// Makes the wire; the hardware address of the pod's end.
fn connect(call: &Call, netns: &Path, addresses: &Addresses) -> Result<String> {
    let (outside, inside) = (outside(call), &call.interface);
    delete_link(&outside);
    ip(Some(netns), &pod_side(inside, &outside, std::process::id(), addresses))?;
    for (name, value) in sysctls(&outside) {
        std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).with_context(|| format!("sysctl {name} cannot be set"))?;
    }
    ip(None, &node_side(&outside, addresses))?;
    let link = command(Some(netns), &["-j", "link", "show", "dev", inside])?;
    let link: Value = serde_json::from_str(&link).context("ip printed no JSON")?;
    Ok(link[0]["address"].as_str().unwrap_or_default().to_owned())
}

fn remove(call: &Call) -> Result<()> {
    delete_link(&outside(call));
    ipam::remove(call)
}

/// Whether the node's end and its route are there.
fn check(call: &Call) -> Result<()> {
    let Addresses { four: address, .. } = Addresses::of(&call.raw["prevResult"])?;
    let routes = command(None, &["route", "show", &format!("{address}/32"), "dev", &outside(call)])?;
    ensure!(!routes.trim().is_empty(), "the node has no route to {address} on {}", outside(call));
    Ok(())
}

/// Name of the node's end: `cali` and 11 digits of a digest, which is all that fits. The sandbox is meant, not the pod: two sandboxes of one pod may be there.
fn outside(call: &Call) -> String {
    format!("cali{:.11}", crate::cache::digest(&[&call.sandbox, &call.interface]))
}

/// Commands of `ip -batch` in the pod's namespace. `node` is a process in the node's.
fn pod_side(inside: &str, outside: &str, node: u32, addresses: &Addresses) -> String {
    let four = &addresses.four;
    // A link-local address that the kernel makes would be looked for on the wire first.
    let six = addresses.six.as_ref().map(|six| {
        format!(
            "addr add fe80::2/64 dev {inside} nodad\n\
             addr add {six}/128 dev {inside} nodad\n\
             route add default via {} dev {inside}\n",
            six::GATEWAY
        )
    });
    format!(
        "link add {inside} type veth peer name {outside} netns {node}\n\
         link set {inside} addrgenmode none\n\
         addr add {four}/32 dev {inside}\n\
         link set {inside} up\n\
         route add {GATEWAY} dev {inside} scope link\n\
         route add default via {GATEWAY} dev {inside}\n\
         {}",
        six.unwrap_or_default()
    )
}

/// Commands of `ip -batch` on the node. The routes come last: they are what others hear of.
fn node_side(outside: &str, addresses: &Addresses) -> String {
    let six = addresses.six.as_ref().map(|six| format!("addr add {}/64 dev {outside} nodad\nroute replace {six}/128 dev {outside}\n", six::GATEWAY));
    format!(
        "link set {outside} addrgenmode none\nlink set {outside} address {GATEWAY_MAC} up\n{}route replace {}/32 dev {outside} scope link\n",
        six.unwrap_or_default(),
        addresses.four
    )
}

/// What Felix, Calico's agent, sets for a workload's interface. Names are below `/proc/sys/net/ipv4`.
fn sysctls(outside: &str) -> [(String, &'static str); 4] {
    let of = |folder: &str, name: &str| format!("{folder}/{outside}/{name}");
    [(of("conf", "rp_filter"), "1"), (of("conf", "forwarding"), "1"), (of("conf", "proxy_arp"), "1"), (of("neigh", "proxy_delay"), "0")]
}

/// A pod's addresses, without their lengths.
struct Addresses {
    four: String,
    six: Option<String>,
}

impl Addresses {
    /// Those of a CNI result, IPv4 first.
    fn of(result: &Value) -> Result<Self> {
        let nth = |nth: usize| result["ips"][nth]["address"].as_str().map(|address| address.split('/').next().unwrap_or(address).to_owned());
        Ok(Self { four: nth(0).context("no address was given")?, six: nth(1) })
    }
}

fn result(call: &Call, netns: &Path, mac: &str, addresses: &Addresses) -> Value {
    let mut ips = vec![json!({"interface": 1, "address": format!("{}/32", addresses.four)})];
    let mut routes = vec![json!({"dst": "0.0.0.0/0", "gw": GATEWAY})];
    if let Some(six) = &addresses.six {
        ips.push(json!({"interface": 1, "address": format!("{six}/128")}));
        routes.push(json!({"dst": "::/0", "gw": six::GATEWAY}));
    }
    json!({
        "cniVersion": call.config.version,
        "interfaces": [
            {"name": outside(call), "mac": GATEWAY_MAC},
            {"name": call.interface, "mac": mac, "sandbox": netns},
        ],
        "ips": ips,
        "routes": routes,
        "dns": {},
    })
}

fn delete_link(name: &str) {
    // Mostly there is none.
    let _ = Command::new("ip").args(["link", "del", name]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

fn program(netns: Option<&Path>) -> Command {
    match netns {
        Some(path) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", path.display())).args(["--", "ip"]);
            command
        }
        None => Command::new("ip"),
    }
}

fn ip(netns: Option<&Path>, lines: &str) -> Result<()> {
    let mut child =
        program(netns).args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("ip cannot be run")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn command(netns: Option<&Path>, arguments: &[&str]) -> Result<String> {
    let output = program(netns).args(arguments).stdin(Stdio::null()).output().context("ip cannot be run")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::call::example;
    use super::*;
    use crate::fabric::Fabric;

    #[test]
    fn the_result_names_both_ends_and_the_pods_address() {
        let call = example(Fabric::Routed, "ADD", &json!({}));
        let addresses = |six: Option<&str>| Addresses { four: "10.90.1.7".into(), six: six.map(str::to_owned) };
        let both = result(&call, Path::new("/var/run/netns/cni-1"), "02:00:00:00:00:01", &addresses(Some("fd90::1:7")));
        assert_eq!(both["ips"][1], json!({"interface": 1, "address": "fd90::1:7/128"}));
        assert_eq!(Addresses::of(&both).unwrap().six.as_deref(), Some("fd90::1:7"));
        let result = result(&call, Path::new("/var/run/netns/cni-1"), "02:00:00:00:00:01", &addresses(None));
        assert_eq!(result["cniVersion"], "1.0.0");
        assert_eq!(result["ips"], json!([{"interface": 1, "address": "10.90.1.7/32"}]));
        assert_eq!(result["interfaces"][1], json!({"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/var/run/netns/cni-1"}));
        assert_eq!(Addresses::of(&result).unwrap().four, "10.90.1.7");
        assert!(Addresses::of(&json!({"ips": []})).is_err());
    }

    #[test]
    fn each_sandbox_has_an_interface_of_its_own() {
        let mut call = example(Fabric::Routed, "ADD", &json!({}));
        let first = outside(&call);
        assert!(first.starts_with("cali") && first.len() == 15, "{first}: 15 characters fit (IFNAMSIZ)");
        call.sandbox = "another".into();
        assert_ne!(outside(&call), first);
    }

    #[test]
    fn the_gateway_is_on_no_machine_and_the_route_comes_last() {
        let mut addresses = Addresses { four: "10.90.1.7".into(), six: None };
        let pod = pod_side("eth0", "cali1", 7, &addresses);
        assert!(pod.contains("addr add 10.90.1.7/32 dev eth0\n") && pod.ends_with("route add default via 169.254.1.1 dev eth0\n"), "{pod}");
        assert!(node_side("cali1", &addresses).ends_with("route replace 10.90.1.7/32 dev cali1 scope link\n"));
        assert!(!node_side("cali1", &addresses).contains(GATEWAY));
        addresses.six = Some("fd90::1:7".into());
        assert!(pod_side("eth0", "cali1", 7, &addresses).ends_with("addr add fd90::1:7/128 dev eth0 nodad\nroute add default via fe80::1 dev eth0\n"));
        assert!(node_side("cali1", &addresses).contains("addr add fe80::1/64 dev cali1 nodad\nroute replace fd90::1:7/128 dev cali1\n"));
        assert!(sysctls("cali1").contains(&("conf/cali1/rp_filter".into(), "1")));
    }
}
