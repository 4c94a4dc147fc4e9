//! The network: the traffic gate's nftables, the link that an anchor is made of, and the CNI plugin. What the kernel can do is tried in a network namespace of its own.

use std::fs;

use serde_json::Value;
use tokio::process::Command;

use super::{Check, State, output};
use crate::Host;

const AREA: &str = "network";

/// What the kernel can do.
pub async fn all() -> Vec<Check> {
    let (nft, link) = tokio::join!(apart("nft add table inet godwit-probe"), apart("ip link add probe type vxlan id 1 dstport 4789"));
    vec![nftables(nft), vxlan(link)]
}

/// Runs a command of the agent's image in a network namespace that goes with it.
async fn apart(command: &str) -> Option<(bool, String)> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "sh", "-c", command]);
    output(Ok(unshare)).await
}

fn last(text: &str) -> String {
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("failed").trim().to_owned()
}

fn nftables(said: Option<(bool, String)>) -> Check {
    let fix = "load the module nf_tables, or use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET";
    match said {
        Some((true, _)) => Check::ok(AREA, "nftables", "there"),
        Some((false, text)) if text.contains("not found") => Check::bad(AREA, "nftables", State::Unknown, last(&text), "use the agent's own image: it has nft"),
        Some((false, text)) => Check::bad(AREA, "nftables", State::Failed, last(&text), fix),
        None => Check::bad(AREA, "nftables", State::Unknown, "could not be tried", fix),
    }
}

fn vxlan(said: Option<(bool, String)>) -> Check {
    const NAME: &str = "VXLAN";
    let fix = "modprobe vxlan (and name it in /etc/modules-load.d); connections can be kept by an anchor then";
    match said {
        Some((true, _)) => Check::ok(AREA, NAME, "there"),
        Some((false, text)) => Check::bad(AREA, NAME, State::Warning, last(&text), fix),
        None => Check::bad(AREA, NAME, State::Unknown, "could not be tried", fix),
    }
}

/// The CNI plugin: the first configuration by name counts (libcni).
pub fn cni(host: &Host) -> Check {
    let folder = host.path("/etc/cni/net.d");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conflist" || extension == "conf" || extension == "json"))
        .collect();
    files.sort();
    let Some(file) = files.first() else {
        return Check::bad(
            AREA,
            "CNI",
            State::Warning,
            "no configuration in /etc/cni/net.d",
            "install a CNI plugin, or look where the runtime is told to find it",
        );
    };
    let text = fs::read_to_string(file).unwrap_or_default();
    Check::ok(AREA, "CNI", plugin(&text).unwrap_or_else(|| "a configuration that is no JSON".to_owned()))
}

fn plugin(text: &str) -> Option<String> {
    let config: Value = serde_json::from_str(text).ok()?;
    let kind = config["type"].as_str().or_else(|| config["plugins"][0]["type"].as_str()).unwrap_or("unknown");
    Some(format!("{kind} ({})", config["name"].as_str().unwrap_or("no name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_judged() {
        assert_eq!(nftables(Some((true, String::new()))).state, State::Ok);
        assert_eq!(nftables(Some((false, "Error: Could not process rule: Operation not supported\n".into()))).state, State::Failed);
        assert_eq!(vxlan(Some((false, "Error: Unknown device type.".into()))).state, State::Warning);
        assert!(plugin(r#"{"name": "lab", "plugins": [{"type": "bridge"}]}"#).is_some_and(|told| told == "bridge (lab)"));
        assert_eq!(plugin("x"), None);
    }
}
