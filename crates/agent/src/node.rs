//! What every part of the agent shares: the node it is on and whom it can talk to.

use std::sync::Arc;

use godwit_node::{cri, host::Host};
use godwit_rpc::{Credentials, Identity, tls, v1::handoff_client::HandoffClient};
use tonic::transport::Channel;

use crate::{
    anchor::{holder::Holder, mirrors::Mirrors, wireguard::WireGuard},
    checkpoint::registries::Registries,
    failure::failure,
    import::{self, Imports},
    journal::Journal,
    target::deaths::Deaths,
};

/// Largest message of the contract, in bytes.
const MESSAGE: usize = 8 << 20;

/// This node.
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    /// Its address.
    pub ip: std::net::IpAddr,
    /// host:port of this agent.
    pub address: String,
    /// Why it cannot have an anchor; empty when it can.
    pub no_anchor: String,
    /// Why an address cannot move here on its network segment, for all that this node's kernel says; empty when it can.
    pub no_segment: String,
    /// Who has encrypted tunnels with it.
    pub wireguard: WireGuard,
    /// Old pods whose addresses live on elsewhere.
    pub anchors: Holder,
    /// Addresses of old pods that live on here.
    pub mirrors: Mirrors,
    /// Who kills pods that have just come.
    pub deaths: Deaths,
    /// Why no pod comes here by Godwit's runtime handler; empty when it can.
    pub no_handler: String,
    /// Pods may come here by the container runtime's own import.
    pub may_import: bool,
    /// Pods that are to come so.
    pub imports: Imports,
    /// Its root and namespaces.
    pub host: Host,
    /// Its container runtime.
    pub cri: cri::Client,
    /// The API server.
    pub kube: kube::Client,
    /// What survives the agent.
    pub journal: Journal,
    /// Where checkpoints are kept, as the node names it; none unless the installation names it.
    pub checkpoints: Option<std::path::PathBuf>,
    /// Registries in which they may be kept, too.
    pub registries: Registries,
    /// Certificate and key.
    pub credentials: Arc<Credentials>,
}

impl Node {
    /// Why no pod can come here by the container runtime's own import; empty when it can. `crun`: none that crun runs.
    #[must_use]
    pub fn no_import(&self, crun: bool) -> String {
        import::why_not(self, crun)
    }

    /// A client for another node's agent; it connects when it is used.
    ///
    /// # Errors
    /// When the address cannot be one.
    pub fn handoff(&self, address: &str, node: &str) -> Result<HandoffClient<Channel>, godwit_rpc::v1::Failure> {
        let channel = tls::connect(address, Identity::Agent(node.to_owned()), self.credentials.clone()).map_err(|error| {
            failure("AgentUnreachable", format!("the agent of node {node} cannot be reached at {address}: {error}"), "look at the agent's pod on that node")
        })?;
        Ok(HandoffClient::new(channel).max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE))
    }
}
