//! One of two replicas of a Deployment moves: users never see fewer replicas, no extra pod stays, and the Service answers from the target.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::objects::{Pod, deployment, service};
use godwit_demo::pods;
use godwit_demo::shell::wait_until;
use godwit_demo::talker::{self, Asker as Talker};
use godwit_e2e::case::MINUTE;
use godwit_e2e::contract;
use godwit_e2e::faults::Order;
use godwit_e2e::watch::{Asker, Watch};
use godwit_e2e::{Case, OnMachines, Scenario, http};
use serde_json::{Value, json};

use crate::http_server::{PORT, ask, read, server};

pub const SCENARIO: Scenario =
    Scenario::new("deployment", "A replica moves; its Service and its ReplicaSet hardly notice.", run).each_class().machines(OnMachines::All);

pub const CONNECTED: Scenario =
    Scenario::new("deployment-connected", "A replica with a connection moves; its ReplicaSet makes no other pod, and deletes none.", connected);

const NAME: &str = "shop";
/// Longest time without any answer from two replicas of which one stands still for a moment.
const SILENCE: Duration = Duration::from_secs(5);
/// The same where everything is emulated: a freeze takes seconds, and of the questions meanwhile one in two goes to the replica that stands still.
const EMULATED_SILENCE: Duration = Duration::from_secs(20);
/// For how long the owner has both, the source and the target.
const SHARED: Duration = Duration::from_secs(3);

fn run(case: &Case) -> Result<()> {
    let mut server = server();
    if case.pair.vm {
        // Where everything is emulated a freeze takes seconds: the kubelet would call the replica that stands still not ready, and be right.
        server["readinessProbe"]["failureThreshold"] = json!(20);
    }
    let pod = Pod::new(NAME, [server]).class(case.class);
    let mut replicas = deployment(pod, 2, &case.pair.a);
    if case.pair.vm {
        // What may run elsewhere does, on virtual machines' nodes.
        let own = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [case.pair.a]}]}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [case.pair.b]}]}]);
        replicas["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({"nodeSelectorTerms": own});
    }
    case.apply(&[replicas, service(NAME, PORT)])?;
    let all = wait_until("two replicas", MINUTE, || Ok(Some(ready(case)?).filter(|all| all.len() == 2)))?;
    let chosen = all.iter().find(|pod| pods::node(pod) == case.pair.a).or(all.first()).context("no replica")?;
    let target = case.pair.other(pods::node(chosen)).to_owned();
    let (identity, number) = answer(case, address(chosen)?)?;

    let endpoints = Watch::start(case, "endpointslices", &format!("kubernetes.io/service-name={NAME}"))?;
    let replicas = Watch::start(case, "pods", &format!("app={NAME}"))?;
    endpoints.settle(2, MINUTE)?;
    replicas.settle(2, MINUTE)?;
    let shop = pods::service_address(&case.lab, &case.namespace, NAME)?;
    let asker = Asker::start(shop);

    let moved = case.migrate(pods::name(chosen), &target)?.moved()?;
    let name = moved.target_pod()?;
    let arrived = case.ready(&name)?;
    ensure!(pods::node(&arrived) == target, "{name} is on {}, not on {target}", pods::node(&arrived));
    pods::wait_gone(&case.lab, &case.namespace, pods::name(chosen), MINUTE)?;

    let (same, later) = answer(case, address(&arrived)?)?;
    ensure!(same == identity && later > number, "{identity} had answered {number} times; {same} at the target says {later}");
    wait_until("the Service answered by what moved", MINUTE, || Ok((read(&http::get(shop, "/")?)?.0 == identity).then_some(())))?;

    // What the ReplicaSet does next would show within some seconds.
    std::thread::sleep(Duration::from_secs(5));
    let now = ready(case)?;
    ensure!(now.len() == 2 && now.iter().any(|pod| pods::name(pod) == name), "replicas now: {:?}", now.iter().map(pods::name).collect::<Vec<_>>());
    ensure!(owner(&case.pod(&name)?) == owner(chosen), "the ReplicaSet does not own {name}");
    let (seen, asked) = (replicas.seen(), asker.seen());
    ensure!(seen.names.len() == 3, "there were other pods than two replicas and the target: {:?}", seen.names);
    ensure!(endpoints.seen().fewest >= 2, "users saw only {} ready endpoints", endpoints.seen().fewest);
    let silence = if case.pair.vm { EMULATED_SILENCE } else { SILENCE };
    ensure!(asked.silence < silence, "nobody answered for {} ms", asked.silence.as_millis());
    case.note(format!("{} answers, {} questions lost, at most {} ms without an answer", asked.answers, asked.failures, asked.silence.as_millis()));

    // It is a replica like any other: scaled down and up again, two are there.
    for wanted in [1, 2] {
        case.lab.kubectl(&["scale", "deployment", NAME, "-n", &case.namespace, &format!("--replicas={wanted}")])?;
        wait_until(&format!("{wanted} replicas"), MINUTE, || Ok((ready(case)?.len() == wanted).then_some(())))?;
    }
    Ok(())
}

/// While the owner has the source and the target, it has one pod too many: it must delete neither, and make no other.
fn connected(case: &Case) -> Result<()> {
    case.apply(&[deployment(talker::pod("talker"), 1, &case.pair.a)])?;
    let source = wait_until("the replica", MINUTE, || Ok(case.standing_pods()?.into_iter().find(pods::is_ready)))?;
    let server = contract::address(case, pods::name(&source))?;
    let mut asker = wait_until("the replica answers", MINUTE, || Ok(Talker::new(server).ok()))?;
    asker.ask()?;
    let replicas = Watch::start(case, "pods", "app=talker")?;
    replicas.settle(1, MINUTE)?;
    let fault = case.fault_of_controller("controller.settling.shared", Order::Delay(SHARED))?;
    let moved = case.migrate(pods::name(&source), case.pair.other(pods::node(&source)))?.moved()?;
    ensure!(fault.fired()?, "nobody passed controller.settling.shared; the command said:\n{}", moved.text());
    asker.ask().context("the connection after the move")?;
    std::thread::sleep(SHARED);
    asker.ask().context("the connection some seconds later")?;
    let names = replicas.seen().names;
    ensure!(names.len() == 2, "there were other pods than the source and the target: {names:?}");
    ensure!(owner(&case.pod(&moved.target_pod()?)?) == owner(&source), "the ReplicaSet does not own the target");
    ensure!(owner(&case.pod(pods::name(&source))?).is_none(), "the ReplicaSet still owns the source");
    drop(asker);
    contract::all_retired(case, &moved.target_pod()?)
}

/// A server that is asked once may take so long on a machine that is busy.
const BUSY: Duration = Duration::from_secs(10);

/// Identity and number of a replica that is Ready: by the first answer, but where everything is emulated in its own time.
fn answer(case: &Case, replica: SocketAddr) -> Result<(String, u64)> {
    if case.pair.vm { ask(replica) } else { read(&http::get_within(replica, "/", BUSY)?) }
}

fn ready(case: &Case) -> Result<Vec<Value>> {
    let all = case.standing_pods()?;
    Ok(all.into_iter().filter(|pod| pods::is_ready(pod) && pod["metadata"]["labels"]["app"] == NAME).collect())
}

fn owner(pod: &Value) -> Option<String> {
    pod["metadata"]["ownerReferences"][0]["uid"].as_str().map(str::to_owned)
}

fn address(pod: &Value) -> Result<SocketAddr> {
    let ip = pod["status"]["podIP"].as_str().context("the pod has no address")?;
    Ok(SocketAddr::new(ip.parse()?, PORT))
}
