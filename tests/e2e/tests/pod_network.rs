//! The lab's two pod networks, as they are described in docs/lab.md, and how a pod asks for an address on them.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use godwit_demo::objects::Pod;
use godwit_demo::shell::wait_until;
use godwit_e2e::case::MINUTE;
use godwit_e2e::{Case, Scenario, http};

use crate::http_server::{PORT, server};

pub const SCENARIO: Scenario = Scenario::new("pod-network", "A pod may take over another's address on another node, when that is gone, and not before.", run);

/// Calico's way to ask for an address.
const WISH: &str = "cni.projectcalico.org/ipAddrs";

fn run(case: &Case) -> Result<()> {
    let first = case.start(Pod::new("first", [server()]))?;
    let address: IpAddr = case.pod(&first)?["status"]["podIP"].as_str().context("no address")?.parse()?;
    match case.lab.network() {
        "routed" => routed(case, &first, address)?,
        _ => bridged(case, &first, address)?,
    }
    asked(case, address).context("before")?;

    let heir = Pod::new("heir", [server()]).annotation(WISH, &format!("[\"{address}\"]")).on(&case.pair.b);
    case.apply(&[heir.object()])?;
    wait_until("the heir is refused", MINUTE, || {
        let events = case.lab.kubectl(&[
            "get",
            "events",
            "-n",
            &case.namespace,
            "--field-selector",
            "involvedObject.name=heir",
            "-o",
            "jsonpath={.items[*].message}",
        ])?;
        Ok(events.contains(&format!("{address} belongs to the pod {}/first", case.namespace)).then_some(()))
    })?;
    asked(case, address).context("while another wants the address")?;
    case.lab.kubectl(&["delete", "pod", "-n", &case.namespace, &first])?;
    let heir = case.ready("heir")?;
    ensure!(heir["status"]["podIP"] == address.to_string().as_str(), "it asked for {address} and has {}", heir["status"]["podIP"]);
    asked(case, address).context("after")
}

/// The address answers: to the clients, to a pod on the same node and to one on the other.
fn asked(case: &Case, address: IpAddr) -> Result<()> {
    wait_until("the clients are answered", MINUTE, || Ok(Some(http::get(SocketAddr::new(address, PORT), "/")?)))?;
    for (name, node) in [("peer-a", &case.pair.a), ("peer-b", &case.pair.b)] {
        if case.pod(name).is_err() {
            case.start_on(Pod::new(name, [godwit_demo::objects::container("peer", &["sleep", "infinity"])]), node)?;
        }
        let url = format!("http://{address}:{PORT}/");
        wait_until(&format!("{name} is answered"), MINUTE, || Ok(Some(case.exec(name, "peer", &["curl", "-sf", "-m", "1", &url])?)))?;
    }
    Ok(())
}

fn look(case: &Case, pod: &str) -> Result<String> {
    case.exec(pod, "web", &["sh", "-c", "ip -4 -o addr show dev eth0; ip -4 route show; ip neigh show"])
}

fn bridged(case: &Case, pod: &str, address: IpAddr) -> Result<()> {
    let seen = look(case, pod)?;
    ensure!(seen.contains(&format!("inet {address}/16")) && seen.contains("default via 10.88."), "this is not the bridge network:\n{seen}");
    bridged_six(case, pod)
}

/// Beside it an address of IPv6, which is not looked for elsewhere first.
fn bridged_six(case: &Case, pod: &str) -> Result<()> {
    if !case.lab.script_on_node(&case.pair.a, "ls /proc/sys/net")?.lines().any(|name| name == "ipv6") {
        case.note("not tried: IPv6, which this kernel has not");
        return Ok(());
    }
    let all: Vec<IpAddr> = serde_json::from_value(case.pod(pod)?["status"]["podIPs"].as_array().into_iter().flatten().map(|one| one["ip"].clone()).collect())?;
    let [IpAddr::V4(_), IpAddr::V6(six)] = all[..] else { bail!("the pod's addresses are {all:?}; wanted is one of each family") };
    let seen = case.exec(pod, "web", &["sh", "-c", "ip -6 -o addr show dev eth0; ip -6 route show"])?;
    ensure!(
        seen.contains(&format!("inet6 {six}/64 scope global")) && seen.contains("default via fd88::") && !seen.contains("tentative"),
        "in the pod:\n{seen}"
    );
    let script = format!("ip -6 route get {six}; ip -6 -o addr show dev cni0 scope global");
    for node in [&case.pair.a, &case.pair.b] {
        let seen = case.lab.script_on_node(node, &script)?;
        ensure!(seen.contains("dev cni0") && seen.contains("inet6 fd88::"), "on {node}:\n{seen}");
    }
    Ok(())
}

fn routed(case: &Case, pod: &str, address: IpAddr) -> Result<()> {
    let seen = look(case, pod)?;
    for wanted in [&format!("inet {address}/32"), "default via 169.254.1.1 dev eth0", "169.254.1.1 dev eth0 scope link", "lladdr ee:ee:ee:ee:ee:ee"] {
        ensure!(seen.contains(wanted), "the pod has not {wanted:?}:\n{seen}");
    }
    let script = format!(
        "set -- $(ip -4 route show {address}); echo $3; cat /proc/sys/net/ipv4/conf/$3/rp_filter /proc/sys/net/ipv4/conf/$3/proxy_arp; ip -4 route show type blackhole"
    );
    let node = case.lab.script_on_node(&case.pair.a, &script)?;
    let lines: Vec<&str> = node.lines().collect();
    ensure!(matches!(lines[..], [device, "1", "1", block] if device.starts_with("cali") && block.starts_with("blackhole 10.90.")), "on the node:\n{node}");
    let other = case.lab.on_node(&case.pair.b, &["ip", "-4", "route", "get", &address.to_string()])?;
    ensure!(other.contains("via 10.88.") && other.contains("dev up0"), "on the other node:\n{other}");
    Ok(())
}
