//! Asks: the agents by NodeCheck objects, the API server about nodes and Godwit's pods, the kubelets for their settings.

use std::time::Duration;

use futures::future::join_all;
use godwit_api::check::{Check, CheckState};
use godwit_api::names::NODE_LABEL_READY;
use godwit_api::{NodeCheck, NodeCheckSpec};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt};

use super::{Report, Subject, check, judge};
use crate::error::Error;

/// How long the controller and an agent may take.
const PATIENCE: Duration = Duration::from_secs(45);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(150);
/// Name of the agents' pods.
const AGENT: &str = "app.kubernetes.io/name=godwit-agent";

/// Looks at one node or at all.
///
/// # Errors
/// When nodes may not be listed, there is no such node, or NodeChecks may not be made.
pub async fn ask(client: &Client, only: Option<&str>, fix: bool) -> Result<Report, Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut found = nodes.list(&ListParams::default()).await?.items;
    found.retain(|node| only.is_none_or(|only| node.name_any() == only) && node.labels().get("kubernetes.io/os").is_none_or(|os| os == "linux"));
    if let (Some(only), true) = (only, found.is_empty()) {
        return Err(Error::Refused(format!("there is no Linux node {only}\n  What to do: kubectl get nodes")));
    }
    let agents = Api::<Pod>::all(client.clone()).list(&ListParams::default().labels(AGENT)).await.map(|list| list.items).unwrap_or_default();
    let asked = join_all(found.iter().map(|node| one(client, node, &agents, fix))).await;
    Ok(Report::new(asked.into_iter().collect::<Result<_, _>>()?))
}

async fn one(client: &Client, node: &Node, agents: &[Pod], fix: bool) -> Result<Subject, Error> {
    let name = node.name_any();
    let mut subject = Subject { name: name.clone(), ..Subject::default() };
    subject.checks.push(ready(node));
    let (said, kubelet) = tokio::join!(order(client, &name, fix), settings(client, &name));
    match said? {
        Some(answer) => {
            let status = answer.status.unwrap_or_default();
            subject.checks.extend(status.checks);
            subject.facts = status.facts;
        }
        None => subject.checks.push(check(
            "godwit",
            "controller",
            CheckState::Failed,
            format!("nobody has answered within {} s", PATIENCE.as_secs()),
            "look at it: kubectl -n godwit-system logs deployment/godwit-controller",
        )),
    }
    if !node.labels().contains_key(NODE_LABEL_READY) {
        subject.checks.push(agent(&name, agents));
    }
    subject.checks.extend(kubelet);
    Ok(subject)
}

/// Makes a NodeCheck, waits for its answer, takes it away. `None`: no answer.
async fn order(client: &Client, node: &str, fix: bool) -> Result<Option<NodeCheck>, Error> {
    let api: Api<NodeCheck> = Api::all(client.clone());
    let mut object = NodeCheck::new("", NodeCheckSpec { node_name: node.to_owned(), fix });
    object.metadata = ObjectMeta { generate_name: Some(format!("{node}-")), ..ObjectMeta::default() };
    let name = api.create(&PostParams::default(), &object).await?.name_any();
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut answer = None;
    while answer.is_none() && tokio::time::Instant::now() < end {
        tokio::time::sleep(PAUSE).await;
        answer = api.get_opt(&name).await?.filter(|object| object.status.as_ref().is_some_and(|status| status.completion_time.is_some()));
    }
    // The controller takes it away later if this fails.
    let _ = api.delete(&name, &DeleteParams::default()).await;
    Ok(answer)
}

/// The kubelet's settings through the API server, with the user's own rights.
async fn settings(client: &Client, node: &str) -> Vec<Check> {
    let unknown = |found: String, fix: &str| vec![check("kubelet", "settings", CheckState::Unknown, found, fix)];
    let request = match http::Request::get(format!("/api/v1/nodes/{node}/proxy/configz")).body(Vec::new()) {
        Ok(request) => request,
        Err(error) => return unknown(error.to_string(), "report it"),
    };
    match client.request::<serde_json::Value>(request).await {
        Ok(configz) => judge::kubelet(&configz),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            unknown("you may not read them".into(), "run doctor as an administrator: it takes `get` on nodes/proxy, which is much to give for this")
        }
        Err(error) => unknown(crate::error::innermost(&error), "see that the API server reaches the kubelet"),
    }
}

fn ready(node: &Node) -> Check {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let name = node.name_any();
    match ready {
        Some(condition) if condition.status == "True" && cordoned => {
            check("node", "Ready", CheckState::Warning, "cordoned: pods can leave, none can come", format!("kubectl uncordon {name}"))
        }
        Some(condition) if condition.status == "True" => check("node", "Ready", CheckState::Ok, "Ready", ""),
        other => {
            let why = other.and_then(|condition| condition.message.clone()).unwrap_or_else(|| "it has never reported".into());
            check("node", "Ready", CheckState::Failed, why, format!("kubectl describe node {name}; look at the kubelet's log there"))
        }
    }
}

/// Why a node has no ready agent, from its pod.
fn agent(node: &str, agents: &[Pod]) -> Check {
    let pod = agents.iter().find(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node));
    let Some(pod) = pod else {
        let fix = "see that Godwit is installed and that agent.nodeSelector selects the node: kubectl -n godwit-system get daemonset godwit-agent";
        return check("godwit", "agent pod", CheckState::Failed, "there is none on this node", fix);
    };
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let waiting = statuses.filter_map(|status| status.state.as_ref()?.waiting.as_ref()).next();
    let found = match waiting {
        Some(waiting) => format!("{}: {}", waiting.reason.clone().unwrap_or_default(), waiting.message.clone().unwrap_or_default()),
        None => "it runs, but has not said that it is ready".to_owned(),
    };
    let place = pod.namespace().unwrap_or_default();
    check("godwit", "agent pod", CheckState::Failed, found, format!("kubectl -n {place} logs {}", pod.name_any()))
}
