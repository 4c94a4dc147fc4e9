//! Connections of all kinds, incoming and outgoing, live on while their pod moves there and back; the old pods go when the last of them has ended.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use godwit_demo::lab::CLIENT_ADDRESS;
use godwit_demo::objects::service;
use godwit_demo::pods;
use godwit_demo::shell::wait_until;
use godwit_demo::talker::{self, Asker, PORT};
use godwit_e2e::case::MINUTE;
use godwit_e2e::faults::{Fault, Order};
use godwit_e2e::talk::Talk;
use godwit_e2e::{Case, Scenario};

pub const ALL_KINDS: Scenario = Scenario::new("connections", "Connections of all kinds live on there and back; nobody sees a reset.", all_kinds).each_class();
pub const MANY: Scenario = Scenario::new("many-connections", "Two thousand connections live on.", many);
pub const RELEASED: Scenario = Scenario::new("anchor-released", "An anchor that is released resets its connections and leaves nothing behind.", released);
pub const CLOSED: Scenario =
    Scenario::new("connections-close", "When connections are to close, the plan names their peers, and they do once the pod has moved; not before.", closed);

/// Turns of each connection between two moves.
const TURNS: u64 = 50;
const MANY_CONNECTIONS: usize = 2000;

/// The server, and its address as a pod.
pub fn start(case: &Case) -> Result<(String, SocketAddr)> {
    let pod = case.start(talker::pod("talker"))?;
    case.apply(&[service("talker", PORT)])?;
    case.good(&pod, "talker", 0)?;
    let address = address(case, &pod)?;
    Ok((pod, address))
}

/// The address of a pod.
pub fn address(case: &Case, pod: &str) -> Result<SocketAddr> {
    let ip = case.pod(pod)?["status"]["podIP"].as_str().context("the pod has no address")?.parse()?;
    Ok(SocketAddr::new(ip, PORT))
}

/// Waits until no anchor of the namespace is left, and only the pod that runs.
pub fn all_retired(case: &Case, pod: &str) -> Result<()> {
    wait_until("the old pods gone", MINUTE, || {
        let records = case.lab.get(&["podmigrations", "-n", &case.namespace])?;
        let active = records["items"].as_array().into_iter().flatten().any(|record| record["status"]["anchor"]["active"] == true);
        let pods = pods::all(&case.lab, &case.namespace)?;
        Ok((!active && pods.len() == 1 && pods::name(&pods[0]) == pod).then_some(()))
    })
}

/// A connection through the Service, as soon as the nodes know its endpoint.
fn by_service_of(case: &Case) -> Result<Asker> {
    let address = pods::service_address(&case.lab, &case.namespace, "talker")?;
    wait_until("the Service answers", MINUTE, || Ok(Asker::new(address).ok()))
}

fn note_stalls(case: &Case, talk: &Talk) {
    for (what, stall) in talk.stalls() {
        case.note(format!("{what} {} ms", stall.as_millis()));
    }
}

fn all_kinds(case: &Case) -> Result<()> {
    let (mut pod, first) = start(case)?;
    let mut talk = Talk::start(first, CLIENT_ADDRESS)?;
    let mut by_service = by_service_of(case)?;
    let mut second = None;
    for _ in 0..2 {
        talk.goes_on(TURNS)?;
        let _ = talk.stalls();
        pod = case.move_kept(&pod)?;
        talk.goes_on(TURNS)?;
        note_stalls(case, &talk);
        by_service.ask().context("the connection through the Service")?;
        let asker = second.get_or_insert(Asker::new(address(case, &pod)?)?);
        asker.ask().context("a connection to the address in between")?;
        ensure!(asker.identity() == talk.identity(), "another process answers on {pod}");
    }
    let mut new = by_service_of(case)?;
    new.ask()?;
    ensure!(new.identity() == talk.identity(), "the Service leads to another process");
    talk.finish()?;
    by_service.ask()?;
    drop((by_service, second, new));
    all_retired(case, &pod)
}

fn many(case: &Case) -> Result<()> {
    let (mut pod, server) = start(case)?;
    let mut all = (0..MANY_CONNECTIONS).map(|_| Asker::new(server)).collect::<Result<Vec<_>>>()?;
    for _ in 0..2 {
        pod = case.move_kept(&pod)?;
        for (index, asker) in all.iter_mut().enumerate() {
            asker.ask().with_context(|| format!("connection {index} of {MANY_CONNECTIONS}"))?;
        }
    }
    drop(all);
    all_retired(case, &pod)
}

fn released(case: &Case) -> Result<()> {
    let (pod, server) = start(case)?;
    let mut asker = Asker::new(server)?;
    let moved = case.migrate(&pod, &case.pair.b)?.moved()?;
    asker.ask()?;
    let record = moved.record.as_ref().map(pods::name).unwrap_or_default().to_owned();
    ensure!(moved.status("/anchor/connections") == 1, "the record does not count one connection: {}", moved.status("/anchor"));
    let said = case.kubectl_migrate(&["release", &record])?.success()?;
    ensure!(said.contains("retired: it was released"), "release said:\n{said}");
    let Err(error) = asker.ask() else { bail!("the connection should have been reset") };
    ensure!(format!("{error:#}").contains("reset"), "not a reset: {error:#}");
    all_retired(case, &moved.target_pod()?)
}

fn closed(case: &Case) -> Result<()> {
    let (pod, server) = start(case)?;
    let mut asker = Asker::new(server)?;
    let close = || case.kubectl_migrate(&[&pod, "--to", &case.pair.b, "--network", "close"]);
    let fault = Fault::set(&case.lab, &[&case.pair.b], "agent.target.swap", Order::Fail)?;
    let refused = close()?;
    ensure!(fault.fired()? && refused.code == 2, "the move was to be taken back after the restore:\n{}{}", refused.stdout, refused.stderr);
    drop(fault);
    asker.ask().context("the connection of a pod that went on at the source")?;
    let said = close()?.success()?;
    ensure!(said.contains("connections close") && said.contains(CLIENT_ADDRESS), "the plan does not name the peer:\n{said}");
    let began = std::time::Instant::now();
    ensure!(asker.ask().is_err(), "the connection went on");
    ensure!(began.elapsed() < Duration::from_secs(10), "the peer heard of it only after {:?}", began.elapsed());
    let now = wait_until("the pod that continues", MINUTE, || Ok(case.standing_pods()?.into_iter().find(|found| pods::name(found) != pod)))?;
    ensure!(Asker::new(address(case, pods::name(&now))?)?.identity() == asker.identity(), "another process answers");
    all_retired(case, pods::name(&now))
}
