//! The agents: where they are, channels to them, and calls that wait out a restart.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

use godwit_api::migration::Clock;
use godwit_rpc::v1::{self, agent_client::AgentClient};
use godwit_rpc::{Credentials, Identity, tls};

use crate::error::AgentError;
use crate::nodes;

/// Pause between two tries of a call.
const PAUSE: Duration = Duration::from_millis(200);

/// Round trips that measure a clock.
const PROBES: usize = 4;
/// How long one of them may take.
const PROBE: Duration = Duration::from_millis(500);

/// Channels to all agents that were called so far.
pub struct Agents {
    nodes: Api<Node>,
    credentials: Arc<Credentials>,
    channels: Mutex<HashMap<(String, String), Channel>>,
}

impl Agents {
    /// No channels yet.
    #[must_use]
    pub fn new(client: Client, credentials: Arc<Credentials>) -> Self {
        Self { nodes: Api::all(client), credentials, channels: Mutex::default() }
    }

    /// host:port of the agent of `node`.
    ///
    /// # Errors
    /// When the node is gone or has no address.
    pub async fn address(&self, node: &str) -> Result<String, AgentError> {
        let found = self.nodes.get_opt(node).await.map_err(|source| AgentError::Lookup { node: node.to_owned(), source })?;
        let found = found.ok_or_else(|| AgentError::NoNode(node.to_owned()))?;
        nodes::agent_address(&found).ok_or_else(|| AgentError::NoAddress(node.to_owned()))
    }

    /// The agent of `node`, whose certificate must name that node.
    ///
    /// # Errors
    /// As [`Agents::address`].
    pub async fn of(&self, node: &str) -> Result<AgentClient<Channel>, AgentError> {
        let address = self.address(node).await?;
        let mut channels = self.channels.lock().await;
        let key = (node.to_owned(), address);
        if let Some(channel) = channels.get(&key) {
            return Ok(AgentClient::new(channel.clone()));
        }
        let channel = tls::connect(&key.1, Identity::Agent(key.0.clone()), Arc::clone(&self.credentials))
            .map_err(|source| AgentError::Connect { node: node.to_owned(), source })?;
        channels.insert(key, channel.clone());
        Ok(AgentClient::new(channel))
    }

    /// The clock of `node` against ours: the best of some round trips. `None` when its agent does not answer at once.
    pub async fn clock(&self, node: &str) -> Option<Clock> {
        let mut agent = self.of(node).await.ok()?;
        let mut best: Option<Clock> = None;
        for _ in 0..PROBES {
            let (sent, began) = (jiff::Timestamp::now().as_microsecond(), Instant::now());
            let there = tokio::time::timeout(PROBE, agent.clock(v1::ClockRequest {})).await.ok()?.ok()?.into_inner().now_us;
            let half = i64::try_from(began.elapsed().as_micros() / 2).unwrap_or(i64::MAX);
            if best.as_ref().is_none_or(|best| half < best.uncertainty_us) {
                let offset_us = there.saturating_sub(sent.saturating_add(half));
                best = Some(Clock { node: node.to_owned(), offset_us, uncertainty_us: half });
            }
        }
        best
    }

    /// Calls the agent of `node`; while it is away the call is made again, for `patience`.
    ///
    /// # Errors
    /// The last one.
    pub async fn call<T, F, Fut>(&self, node: &str, patience: Duration, call: F) -> Result<T, AgentError>
    where
        F: Fn(AgentClient<Channel>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let end = Instant::now() + patience;
        loop {
            let error = match self.of(node).await {
                Ok(client) => match call(client).await {
                    Ok(reply) => return Ok(reply.into_inner()),
                    Err(status) => AgentError::Call { node: node.to_owned(), source: Box::new(status) },
                },
                Err(error) => error,
            };
            if !error.passes() || Instant::now() + PAUSE >= end {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
