//! `NodeCheck` objects: each is passed to the agent of its node once, and its answer written down. They are taken away after a while.
//!
//! ```text
//!   kubectl migrate doctor ── NodeCheck ──▶ here ── Agent.Clock, Agent.Check ──▶ agent
//!                          ◀── status ─────      ◀── what was found ────────────
//! ```
//!
//! The CLI never talks to an agent: agents trust the controller's certificate only, and who may ask is a matter of the cluster's own RBAC on these objects.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};

use godwit_api::check::{Check, CheckState, Facts};
use godwit_api::{NodeCheck, NodeCheckStatus};
use godwit_migration::plan::Node;
use godwit_rpc::v1::{CheckReply, CheckRequest, NodeFacts, checked};

use crate::answered::put_away;
use crate::context::Context;
use crate::error::Error;

/// How long an agent may take: programs of the node are run, and with `fix` a runtime may be restarted.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long what was found stays.
const STAY: Duration = Duration::from_secs(600);
/// From here on, in microseconds, certificates and leases suffer.
const SKEW: i64 = 1_000_000;

/// Answers one order.
///
/// # Errors
/// [`Error`]: tried again.
pub async fn reconcile(object: Arc<NodeCheck>, context: Arc<Context>) -> Result<Action, Error> {
    let api: Api<NodeCheck> = Api::all(context.client.clone());
    let done = object.status.as_ref().and_then(|status| status.completion_time.clone());
    if let Some(done) = done {
        return put_away(&api, &object.name_any(), &done, STAY).await;
    }
    let mut next = (*object).clone();
    next.status = Some(look(&context, &object).await);
    match api.replace_status(&object.name_any(), &PostParams::default(), &next).await {
        // Taken away meanwhile, or answered by another replica.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(Action::await_change()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(Action::requeue(STAY)),
    }
}

/// How soon to try again.
#[must_use]
pub fn retry(object: Arc<NodeCheck>, error: &Error, _: Arc<Context>) -> Action {
    let error: &dyn std::error::Error = error;
    tracing::warn!(name = object.name_any(), error, "a NodeCheck will be answered again");
    Action::requeue(Duration::from_secs(1))
}

async fn look(context: &Context, object: &NodeCheck) -> NodeCheckStatus {
    let (node, fix) = (&object.spec.node_name, object.spec.fix);
    let clock = context.agents.clock(node).await;
    let answer = context.agents.call(node, PATIENCE, |mut agent| async move { agent.check(CheckRequest { fix }).await }).await;
    let mut status = NodeCheckStatus { completion_time: Some(Time(Timestamp::now())), ..NodeCheckStatus::default() };
    match answer {
        Ok(reply) => {
            status.checks = reply.checks.iter().map(check).collect();
            status.checks.push(version(&reply));
            status.checks.extend(clock.as_ref().map(|clock| skew(clock.offset_us)));
            status.facts = Some(Facts { runtime: reply.runtime, ..facts(reply.node.unwrap_or_default()) });
        }
        Err(error) => {
            let why = crate::phase::explain(&error);
            status.checks.push(bad("agent", CheckState::Failed, &why.message, &why.remedy));
        }
    }
    status.clock = clock;
    status
}

fn check(said: &godwit_rpc::v1::Checked) -> Check {
    let state = match said.state() {
        checked::State::Ok => CheckState::Ok,
        checked::State::Unknown => CheckState::Unknown,
        checked::State::Warning => CheckState::Warning,
        checked::State::Failed => CheckState::Failed,
    };
    Check { area: said.area.clone(), name: said.name.clone(), state, found: said.found.clone(), fix: said.fix.clone() }
}

fn bad(name: &str, state: CheckState, found: &str, fix: &str) -> Check {
    Check { area: "godwit".into(), name: name.into(), state, found: found.into(), fix: fix.into() }
}

fn version(reply: &CheckReply) -> Check {
    let (own, there) = (env!("CARGO_PKG_VERSION"), reply.node.as_ref().map(|node| node.agent.clone()).unwrap_or_default());
    if own == there {
        return bad("agent", CheckState::Ok, &format!("{there}, as the controller"), "");
    }
    bad(
        "agent",
        CheckState::Warning,
        &format!("{there}, the controller is {own}"),
        "wait until the roll-out has ended; else look at the DaemonSet godwit-agent",
    )
}

fn skew(offset_us: i64) -> Check {
    let ms = offset_us / 1000;
    if offset_us.saturating_abs() < SKEW {
        return bad("clock", CheckState::Ok, &format!("{ms} ms off the controller's"), "");
    }
    bad(
        "clock",
        CheckState::Warning,
        &format!("{ms} ms off the controller's: certificates and leases suffer"),
        "run a time service (chrony, systemd-timesyncd) on all nodes",
    )
}

/// What an agent said of its node, to be compared with another.
#[must_use]
pub fn comparable(name: &str, node: &NodeFacts) -> Node {
    Node {
        name: name.to_owned(),
        architecture: node.architecture.clone(),
        cpu_flags: node.cpu_flags.clone(),
        kernel: node.kernel.clone(),
        criu: node.criu.clone(),
        cgroup: node.cgroup.clone(),
        agent: node.agent.clone(),
    }
}

/// What an agent said of its node, as objects say it; without the runtime, which it tells apart from that.
#[must_use]
pub fn facts(node: NodeFacts) -> Facts {
    Facts {
        architecture: node.architecture,
        cpu_flags: node.cpu_flags,
        kernel: node.kernel,
        criu: node.criu,
        cgroup: node.cgroup,
        agent: node.agent,
        runtime: String::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn clocks_and_versions_are_judged() {
        assert_eq!([skew(-400).state, skew(2_000_000).state, skew(-2_000_000).state], [CheckState::Ok, CheckState::Warning, CheckState::Warning]);
        let reply = |agent: &str| CheckReply { node: Some(godwit_rpc::v1::NodeFacts { agent: agent.into(), ..Default::default() }), ..CheckReply::default() };
        assert_eq!([version(&reply(env!("CARGO_PKG_VERSION"))).state, version(&reply("0.0.1")).state], [CheckState::Ok, CheckState::Warning]);
    }
}
