//! Connections of all kinds, incoming and outgoing, live on while their pod moves there and back; the old pods go when the last of them has ended.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use godwit_demo::lab::CLIENT_ADDRESS;
use godwit_demo::pods;
use godwit_demo::shell::wait_until;
use godwit_demo::talker::Asker;
use godwit_e2e::case::MINUTE;
use godwit_e2e::contract::{self, Behaviour, Driver, MANY, Stage};
use godwit_e2e::faults::Order;
use godwit_e2e::{Case, Scenario};

pub const ALL_KINDS: Scenario = Scenario::new("connections", "Connections of all kinds live on there and back; nobody sees a reset.", all_kinds).each_class();
pub const MANY_OF_THEM: Scenario = Scenario::new("many-connections", "Two thousand connections live on.", many);
pub const RELEASED: Scenario = Scenario::new("anchor-released", "An anchor that is released resets its connections and leaves nothing behind.", released);
pub const RETIRED: Scenario =
    Scenario::new("anchor-retired", "A pod moves on although an earlier anchor of it is retired at that very moment, with its last connection.", retired);
pub const CLOSED: Scenario =
    Scenario::new("connections-close", "When connections are to close, the plan names their peers, and they do once the pod has moved; not before.", closed);

/// Long enough for an anchor to be retired.
const MEANWHILE: Duration = Duration::from_secs(30);

fn all_kinds(case: &Case) -> Result<()> {
    there_and_back(case, Driver::Anchor, |stage| stage.kinds(), true)
}

fn many(case: &Case) -> Result<()> {
    there_and_back(case, Driver::Anchor, |_| vec![MANY], false)
}

/// Also connections to the address that the pod had in between.
pub fn there_and_back(case: &Case, driver: Driver, choose: fn(&Stage<'_>) -> Vec<Behaviour>, in_between: bool) -> Result<()> {
    let mut stage = Stage::set(case)?;
    let behaviours = choose(&stage);
    let mut open = stage.open(&behaviours)?;
    let _ = open.stalls();
    stage.move_by(driver)?;
    open.turn(&stage)?;
    let between = in_between.then(|| stage.open(&behaviours)).transpose().context("opened in between")?;
    note_stalls(case, &open.stalls());
    stage.move_by(driver)?;
    note_stalls(case, &open.stalls());
    open.kept(driver, &stage)?;
    between.map_or(Ok(()), |between| between.kept(driver, &stage)).context("opened in between")?;
    stage.all_retired()
}

fn note_stalls(case: &Case, stalls: &[(&str, std::time::Duration)]) {
    for (what, stall) in stalls {
        case.note(format!("{what} {} ms", stall.as_millis()));
    }
}

fn released(case: &Case) -> Result<()> {
    let stage = Stage::set(case)?;
    let (pod, mut asker) = (stage.pod.clone(), Asker::new(stage.server)?);
    let moved = case.migrate(&pod, &case.pair.b)?.moved()?;
    asker.ask()?;
    let record = moved.record.as_ref().map(pods::name).unwrap_or_default().to_owned();
    ensure!(moved.status("/anchor/connections") == 1, "the record does not count one connection: {}", moved.status("/anchor"));
    let said = case.kubectl_migrate(&["release", &record])?.success()?;
    ensure!(said.contains("retired: it was released"), "release said:\n{said}");
    let Err(error) = asker.ask() else { bail!("the connection should have been reset") };
    ensure!(format!("{error:#}").contains("reset"), "not a reset: {error:#}");
    contract::all_retired(case, &moved.target_pod()?)
}

fn retired(case: &Case) -> Result<()> {
    let stage = Stage::set(case)?;
    let earlier = Asker::new(stage.server)?;
    let first = case.migrate(&stage.pod, &case.pair.b)?.moved()?;
    let pod = first.target_pod()?;
    let mut later = Asker::new(contract::address(case, &pod)?)?;
    let record = first.record.as_ref().map(pods::name).unwrap_or_default().to_owned();
    // The target has been told of the earlier anchor and has not asked its holder yet.
    let fault = case.fault(&case.pair.a, "agent.target.open", Order::Delay(MEANWHILE))?;
    let moved = std::thread::scope(|scope| {
        let moving = scope.spawn(|| case.migrate(&pod, &case.pair.a));
        fault.wait(MINUTE)?;
        drop(earlier);
        wait_until("the earlier anchor retired", MEANWHILE, || {
            let record = case.lab.get(&["podmigration", &record, "-n", &case.namespace])?;
            Ok((record["status"]["anchor"]["active"] == false).then_some(()))
        })?;
        moving.join().map_err(|_| anyhow!("the thread that moves the pod panicked"))?
    })?;
    let now = moved.moved()?.target_pod()?;
    later.ask().context("the connection to the later address")?;
    drop(later);
    contract::all_retired(case, &now)
}

fn closed(case: &Case) -> Result<()> {
    let mut stage = Stage::set(case)?;
    let mut open = stage.open(&stage.kinds())?;
    let many = stage.open(&[MANY])?;
    let pod = stage.pod.clone();
    let close = || case.kubectl_migrate(&[&pod, "--to", &case.pair.b, "--network", "close"]);
    let fault = case.fault(&case.pair.b, "agent.target.swap", Order::Fail)?;
    let refused = close()?;
    ensure!(fault.fired()? && refused.code == 2, "the move was to be taken back after the restore:\n{}{}", refused.stdout, refused.stderr);
    drop(fault);
    open.turn(&stage).context("the connections of a pod that went on at the source")?;
    let said = close()?.success()?;
    ensure!(said.contains("connections close") && said.contains(CLIENT_ADDRESS), "the plan does not name the peer:\n{said}");
    let is_new = |pod: &serde_json::Value| ![stage.pod.as_str(), "listener"].contains(&pods::name(pod));
    let now = wait_until("the pod that continues", MINUTE, || Ok(case.standing_pods()?.into_iter().find(is_new)))?;
    stage.moved(pods::name(&now).to_owned())?;
    open.kept(Driver::Close, &stage)?;
    many.kept(Driver::Close, &stage)?;
    stage.all_retired()
}
