//! Leader election over a Lease: one of the replicas works, the others wait.
//!
//! ```text
//!   candidate ── free, expired or its own? replace (resourceVersion) ──▶ leader ── renews every 2 s ──▶ …
//!        ▲                                                                 │ not renewed for 7 s: the process ends
//!        └── others wait until 10 s after they last saw the Lease change ◀─┘
//! ```
//!
//! Others' clocks are never compared with ours: only how long *we* have seen no change counts. The leader stops 3 s before the others may begin.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;

/// Name of the Lease.
const NAME: &str = "godwit-controller";
/// Unchanged for that long, it is free.
const LIFE: Duration = Duration::from_secs(10);
/// Renewed that often.
const RENEW: Duration = Duration::from_secs(2);
/// Not renewed for that long, the leader is none any more.
const GIVE_UP: Duration = Duration::from_secs(7);

/// Access to the Lease.
#[derive(Clone)]
pub struct Election {
    leases: Api<Lease>,
    identity: String,
}

impl Election {
    /// For this replica; `identity` is the pod's name, so that a container that restarts finds itself.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self { leases: Api::namespaced(client, namespace), identity }
    }

    /// Returns when this replica leads.
    pub async fn win(&self) {
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            match self.attempt(&mut seen).await {
                Ok(true) => {
                    tracing::info!(identity = self.identity, "leading");
                    return;
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the Lease cannot be had"),
            }
            tokio::time::sleep(RENEW / 2).await;
        }
    }

    async fn attempt(&self, seen: &mut Option<(Option<String>, Instant)>) -> kube::Result<bool> {
        let Some(lease) = self.leases.get_opt(NAME).await? else {
            let made = Lease { metadata: ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() }, spec: Some(self.spec(None)) };
            return won(self.leases.create(&PostParams::default(), &made).await);
        };
        let version = lease.metadata.resource_version.clone();
        if seen.as_ref().is_none_or(|(before, _)| *before != version) {
            *seen = Some((version, Instant::now()));
        }
        let quiet = seen.as_ref().is_some_and(|(_, since)| since.elapsed() > LIFE);
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if !(quiet || holder.is_empty() || holder == self.identity) {
            return Ok(false);
        }
        let next = Lease { spec: Some(self.spec(lease.spec.as_ref())), ..lease };
        won(self.leases.replace(NAME, &PostParams::default(), &next).await)
    }

    /// Renews while this replica leads. Returns when it leads no more; whoever calls ends the process.
    pub async fn keep(&self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < GIVE_UP {
            tokio::time::sleep(RENEW).await;
            match tokio::time::timeout(RENEW, self.renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => {
                    tracing::error!("another replica leads");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "the Lease was not renewed"),
                Err(_) => tracing::warn!("the Lease was not renewed in time"),
            }
        }
        tracing::error!("the Lease could not be renewed for too long");
    }

    async fn renew(&self) -> kube::Result<bool> {
        let lease = self.leases.get(NAME).await?;
        if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()) != Some(&self.identity) {
            return Ok(false);
        }
        let next = Lease { spec: Some(self.spec(lease.spec.as_ref())), ..lease };
        self.leases.replace(NAME, &PostParams::default(), &next).await.map(|_| true)
    }

    /// Lets go, so that another replica can begin at once.
    pub async fn release(&self) {
        let freed = async {
            let mut lease = self.leases.get(NAME).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_ref() == Some(&self.identity) {
                spec.holder_identity = Some(String::new());
                self.leases.replace(NAME, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        };
        if let Err(error) = freed.await {
            tracing::debug!(%error, "the Lease was not released");
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let own = before.is_some_and(|spec| spec.holder_identity.as_ref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LIFE.as_secs()).ok(),
            acquire_time: before.filter(|_| own).and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if own || before.is_none() { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}

fn won(result: kube::Result<Lease>) -> kube::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}
