//! The same kinds of connections over IPv6: the same code, on a stage whose addresses are of that family.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use godwit_demo::talker::PORT;
use serde_json::{Value, json};

use super::{KINDS, Stage, Thing};
use crate::Case;

/// A connection to which the stage is shown as one of IPv6.
struct Six(Box<dyn Thing>);

/// Opens one of [`KINDS`] on such a stage.
pub fn open<const KIND: usize>(stage: &Stage<'_>) -> Result<Box<dyn Thing>> {
    Ok(Box::new(Six((KINDS[KIND].open)(&stage.six()?)?)))
}

impl Thing for Six {
    fn turn(&mut self, stage: &Stage<'_>) -> Result<()> {
        self.0.turn(&stage.six()?)
    }

    fn whole(self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        self.0.whole(&stage.six()?)
    }

    fn ends(self: Box<Self>, stage: &Stage<'_>) -> Result<()> {
        self.0.ends(&stage.six()?)
    }

    fn stall(&self) -> Option<Duration> {
        self.0.stall()
    }
}

/// The pod's address of IPv6, if it has one.
pub fn address(case: &Case, pod: &str) -> Result<Option<SocketAddr>> {
    let pod = case.pod(pod)?;
    let all = pod["status"]["podIPs"].as_array().into_iter().flatten().filter_map(|one| one["ip"].as_str());
    Ok(all.filter_map(|ip| ip.parse().ok()).find(std::net::IpAddr::is_ipv6).map(|ip| SocketAddr::new(ip, PORT)))
}

/// A Service with an address of each family that the cluster has.
pub fn dual(mut service: Value) -> Value {
    service["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
    service
}

/// A Service's address of IPv6.
pub fn service(case: &Case, name: &str) -> Result<SocketAddr> {
    let service = case.lab.get(&["service", name, "-n", &case.namespace])?;
    let all = service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(|ip| ip.as_str()?.parse().ok());
    let ip = { all }.find(std::net::IpAddr::is_ipv6).with_context(|| format!("the Service {name} has no IPv6 address"))?;
    Ok(SocketAddr::new(ip, PORT))
}
