//! One call of a plugin: what the runtime says by the environment and on stdin.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::ANNOTATIONS;

/// See the module.
#[derive(Debug, Clone)]
pub struct Call {
    /// `ADD`, `DEL`, `CHECK` or `VERSION`.
    pub command: String,
    /// Id of the pod's sandbox.
    pub sandbox: String,
    /// Path of its network namespace; may be absent, or of one that is gone, for `DEL`.
    pub netns: Option<PathBuf>,
    /// The interface's name inside, `eth0`.
    pub interface: String,
    /// `CNI_ARGS`: the runtime tells the pod's name and namespace there.
    pub arguments: BTreeMap<String, String>,
    /// The configuration as it came, for other plugins.
    pub raw: Value,
    /// What the lab's plugins read of it.
    pub config: Config,
}

/// A plugin's configuration, see [`crate::cni`].
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// Version of the protocol.
    #[serde(rename = "cniVersion", default)]
    pub version: String,
    /// Name of the network.
    #[serde(default)]
    pub name: String,
    /// How addresses are chosen.
    #[serde(default)]
    pub ipam: Ipam,
    /// What the runtime adds for the capabilities that are asked for.
    #[serde(rename = "runtimeConfig", default)]
    pub runtime: BTreeMap<String, Value>,
}

/// How addresses are chosen.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Ipam {
    /// All addresses that a pod may have.
    #[serde(default)]
    pub pods: String,
    /// The node's own addresses, as `host-local` takes them: sets of ranges, here one set of one for each family, IPv4 first.
    #[serde(default)]
    pub ranges: Vec<Vec<Range>>,
    /// Routes for the pod, handed through.
    #[serde(default)]
    pub routes: Vec<Value>,
}

/// Some addresses, as `host-local` takes them.
#[derive(Debug, Clone, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    /// The network, also the prefix length of the addresses.
    pub subnet: String,
    /// First address; by default that of the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_start: Option<std::net::IpAddr>,
    /// Last address; by default that of the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range_end: Option<std::net::IpAddr>,
    /// The pods' gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<std::net::IpAddr>,
}

impl Call {
    /// Reads environment and stdin.
    pub fn read() -> Result<Self> {
        let text = std::io::read_to_string(std::io::stdin()).context("the configuration on stdin is unreadable")?;
        Self::parse(|name| std::env::var(name).ok(), &text)
    }

    /// The same from given texts.
    pub fn parse(environment: impl Fn(&str) -> Option<String>, stdin: &str) -> Result<Self> {
        let command = environment("CNI_COMMAND").context("CNI_COMMAND is not set: this is a CNI plugin, to be started by a container runtime")?;
        let said = |name: &str| environment(name).filter(|value| !value.is_empty());
        let raw: Value = if stdin.trim().is_empty() {
            Value::Object(serde_json::Map::new())
        } else {
            serde_json::from_str(stdin).context("the configuration is not JSON")?
        };
        let config = serde_json::from_value(raw.clone()).context("the configuration is not as this plugin wants it")?;
        Ok(Self {
            command,
            sandbox: said("CNI_CONTAINERID").unwrap_or_default(),
            netns: said("CNI_NETNS").map(PathBuf::from),
            interface: said("CNI_IFNAME").unwrap_or_else(|| "eth0".to_owned()),
            arguments: said("CNI_ARGS")
                .unwrap_or_default()
                .split(';')
                .filter_map(|pair| pair.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
            raw,
            config,
        })
    }

    /// An annotation of the pod.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.config.runtime.get(ANNOTATIONS)?.get(name)?.as_str()
    }

    /// Namespace and name of the pod.
    pub fn pod(&self) -> (&str, &str) {
        let of = |name: &str| self.arguments.get(name).map_or("", String::as_str);
        (of("K8S_POD_NAMESPACE"), of("K8S_POD_NAME"))
    }
}

/// A call as the runtime makes it on the first node, for tests.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub fn example(fabric: crate::fabric::Fabric, command: &str, annotations: &Value) -> Call {
    let topology: crate::topology::Topology = "a,b".parse().unwrap();
    let list = crate::cni::config(fabric, &topology.nodes[0], fabric == crate::fabric::Fabric::Bridge);
    // As libcni does it: one plugin of the list, with the list's name and version, and what its capabilities ask for.
    let mut one = list["plugins"][0].clone();
    one["cniVersion"] = list["cniVersion"].clone();
    one["name"] = list["name"].clone();
    one["runtimeConfig"] = serde_json::json!({ANNOTATIONS: annotations});
    let environment = |name: &str| {
        let value = match name {
            "CNI_COMMAND" => command,
            "CNI_CONTAINERID" => "0123456789abcdef",
            "CNI_NETNS" => "/var/run/netns/cni-1",
            "CNI_IFNAME" => "eth0",
            "CNI_ARGS" => "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
            _ => return None,
        };
        Some(value.to_owned())
    };
    Call::parse(environment, &one.to_string()).unwrap()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fabric::Fabric;

    #[test]
    fn a_call_tells_the_pod_its_annotations_and_the_nodes_range() {
        let call = example(Fabric::Bridge, "ADD", &serde_json::json!({"a": "b"}));
        assert_eq!(call.pod(), ("shop", "web-0"));
        assert_eq!((call.annotation("a"), call.annotation("c")), (Some("b"), None));
        assert_eq!(call.config.ipam.ranges[0][0].range_end, Some("10.88.1.200".parse().unwrap()));
        assert_eq!(call.config.name, "lab");
    }

    #[test]
    fn what_is_no_call_is_refused() {
        let error = Call::parse(|_| None, "{}").unwrap_err().to_string();
        assert!(error.contains("CNI_COMMAND"), "{error}");
        assert!(Call::parse(|_| Some("ADD".into()), "{").is_err());
        let version = Call::parse(|name| (name == "CNI_COMMAND").then(|| "VERSION".to_owned()), "").unwrap();
        assert_eq!(version.netns, None);
    }
}
