//! The lab's own CNI plugins: this program under the names [`ROUTED`] and [`IPAM`] in a node's `/usr/lib/cni`.
//!
//! ```text
//!   runtime ──CNI_COMMAND, …; configuration on stdin──▶ plugin ──result, or {code, msg} and exit code 1, on stdout──▶ runtime
//! ```
//! [`routed`] makes the wire of a pod on the routed network. [`ipam`] chooses addresses on both networks, and [`wish`] is how a pod asks for one.
//! The protocol is <https://www.cni.dev/docs/spec/>, version 1.0.0.

mod call;
mod ipam;
mod routed;
mod wish;

use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::{Value, json};

pub use call::Call;

/// Name of the plugin that makes the wires of the routed network.
pub const ROUTED: &str = "godwit-lab-routed";
/// Name of the plugin that chooses addresses.
pub const IPAM: &str = "godwit-lab-ipam";
/// Capability by which containerd and CRI-O hand a pod's annotations to a plugin.
pub const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// Folder of the plugins in a node.
pub const FOLDER: &str = "/usr/lib/cni";
/// With this the plugins ask the API server who has an address; in a node.
pub const KUBECONFIG: &str = "/etc/kubernetes/cni.conf";
/// Whom the API server sees then. See `lab/cni.yaml` for what it may do.
pub const USER: &str = "godwit-lab-cni";

/// Versions of the protocol that are spoken.
const VERSIONS: [&str; 2] = ["0.4.0", "1.0.0"];
/// Error codes from 100 on are a plugin's own.
const FAILED: u32 = 100;

/// Runs a plugin if this program was started under its name.
pub fn run() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    let name = std::path::Path::new(&name).file_name()?.to_str()?;
    let work = match name {
        ROUTED => routed::run,
        IPAM => ipam::run,
        _ => return None,
    };
    let (answer, code) = match Call::read().and_then(|call| answer(&call, work)) {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => (json!({"cniVersion": "1.0.0", "code": FAILED, "msg": format!("{name}: {error:#}")}), ExitCode::FAILURE),
    };
    if !answer.is_null() {
        println!("{answer}");
    }
    Some(code)
}

fn answer(call: &Call, work: fn(&Call) -> Result<Value>) -> Result<Value> {
    match call.command.as_str() {
        "VERSION" => Ok(json!({"cniVersion": "1.0.0", "supportedVersions": VERSIONS})),
        "ADD" | "DEL" | "CHECK" => work(call),
        other => bail!("CNI_COMMAND {other:?} is not known here"),
    }
}
