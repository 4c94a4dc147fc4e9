//! Connections live on at their own address, which moves with the pod on the network segment that both nodes share; the old pod's node is needed no more. Where there is no
//! such segment, or somebody else has the address, the plan says so.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use godwit_demo::install;
use godwit_demo::migrate::{Move, migrate_with};
use godwit_demo::pods;
use godwit_demo::shell::wait_until;
use godwit_demo::talker::Asker;
use godwit_e2e::case::MINUTE;
use godwit_e2e::contract::{self, Behaviour, Driver, MANY, Stage};
use godwit_e2e::faults::Order;
use godwit_e2e::{Case, Scenario};

use crate::connections::there_and_back;
use crate::connections_crash::agents_by;
use crate::refusals::explained;

pub const ALL_KINDS: Scenario = Scenario::new(
    "same-address",
    "Connections of all kinds live on at their address, which moves there and back; on a routed network that is refused.",
    all_kinds,
)
.each_class();
pub const MANY_OF_THEM: Scenario = Scenario::new("same-address-many", "Two thousand connections live on at their address.", many);
pub const TAKEN: Scenario =
    Scenario::new("same-address-taken", "An address that another machine has is found while the pod runs, and its connections go on at the source.", taken);
pub const AGENTS: Scenario =
    Scenario::new("same-address-crash", "A connection lives on at its address whatever agent is killed or step fails meanwhile.", agents);
pub const NODE_DIES: Scenario =
    Scenario::new("same-address-node-dies", "Connections that have moved with their address go on when the old pod's node dies.", node_dies).alone();

const REBOOT: Duration = Duration::from_secs(120);
/// For so long a connection is watched without the node.
const ALONE: Duration = Duration::from_secs(20);

fn on_one_segment(case: &Case) -> bool {
    case.lab.network() == "bridge"
}

fn migrate(case: &Case, pod: &str, options: &[&str]) -> Result<Move> {
    let mut arguments = vec![pod, "--to", &case.pair.b, "--network", "keep-address"];
    arguments.extend(options);
    migrate_with(&case.lab, &case.namespace, &arguments)
}

fn all_kinds(case: &Case) -> Result<()> {
    moves(case, |stage| stage.kinds(), true)
}

fn many(case: &Case) -> Result<()> {
    moves(case, |_| vec![MANY], false)
}

fn moves(case: &Case, choose: fn(&Stage<'_>) -> Vec<Behaviour>, in_between: bool) -> Result<()> {
    if on_one_segment(case) { there_and_back(case, Driver::KeepAddress, choose, in_between) } else { refused_without_a_segment(case) }
}

fn agents(case: &Case) -> Result<()> {
    if on_one_segment(case) { agents_by(case, Driver::KeepAddress) } else { refused_without_a_segment(case) }
}

fn refused_without_a_segment(case: &Case) -> Result<()> {
    let stage = Stage::set(case)?;
    let mut asker = Asker::new(stage.server)?;
    let refused = migrate(case, &stage.pod, &[])?.refused("NetworkNotPossible").and_then(explained)?;
    ensure!(refused.text().contains("not on one segment"), "the plan does not say why:\n{}", refused.text());
    asker.ask().context("after the refusal")
}

/// As if another machine had the pod's address: the bridge of the other node.
struct Thief<'a> {
    case: &'a Case,
    address: String,
}

impl<'a> Thief<'a> {
    fn takes(case: &'a Case, stage: &Stage<'_>) -> Result<Self> {
        let address = format!("{}/32", stage.server.ip());
        case.lab.on_node(&case.pair.b, &["ip", "addr", "add", &address, "dev", "cni0"])?;
        Ok(Self { case, address })
    }
}

impl Drop for Thief<'_> {
    fn drop(&mut self) {
        let _ = self.case.lab.on_node(&self.case.pair.b, &["ip", "addr", "del", &self.address, "dev", "cni0"]);
    }
}

fn taken(case: &Case) -> Result<()> {
    if !on_one_segment(case) {
        return refused_without_a_segment(case);
    }
    let mut stage = Stage::set(case)?;
    let mut asker = Asker::new(stage.server)?;
    let thief = Thief::takes(case, &stage)?;
    let refused = migrate(case, &stage.pod, &[])?.refused("NetworkNotPossible").and_then(explained)?;
    ensure!(refused.text().contains("says that it has the address"), "the plan does not say why:\n{}", refused.text());
    drop(thief);
    asker.ask().context("after the refusal")?;

    // Found before the freeze, too.
    let held = case.fault(&case.pair.a, "agent.source.prepare", Order::Delay(Duration::from_secs(4)))?;
    let ended = thread::scope(|scope| {
        let moving = scope.spawn(|| migrate(case, &stage.pod, &[]));
        held.wait(MINUTE)?;
        let _thief = Thief::takes(case, &stage)?;
        moving.join().map_err(|_| anyhow!("it panicked"))?
    })?;
    drop(held);
    ensure!(ended.output.code != 0 && ended.text().contains("AddressTaken"), "it was not found:\n{}", ended.text());
    ensure!(ended.freeze_ms().is_none_or(|ms| ms == 0), "the pod stood still for it: {}", ended.status("/freeze"));
    explained(ended)?;
    asker.ask().context("after it was taken back")?;
    stage.move_by(Driver::KeepAddress)?;
    asker.ask().context("after the move")?;
    drop(asker);
    stage.all_retired()
}

fn node_dies(case: &Case) -> Result<()> {
    if !on_one_segment(case) {
        return refused_without_a_segment(case);
    }
    let stage = Stage::set(case)?;
    let mut asker = Asker::new(stage.server)?;
    let moved = migrate(case, &stage.pod, &[])?.moved()?;
    asker.ask()?;
    let record = moved.record.as_ref().map(pods::name).unwrap_or_default().to_owned();
    case.lab.command(&["node", "kill", &case.pair.a], MINUTE)?;
    let gone_on = goes_on_alone(case, &mut asker, &record);
    case.lab.command(&["node", "start", &case.pair.a], REBOOT)?;
    install::wait_ready(&case.lab)?;
    gone_on?;
    asker.ask().context("when the node is back")?;
    drop(asker);
    contract::all_retired(case, &moved.target_pod()?)
}

fn goes_on_alone(case: &Case, asker: &mut Asker, record: &str) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < ALONE {
        asker.ask().context("while the old pod's node is dead")?;
        thread::sleep(Duration::from_millis(200));
    }
    wait_until("the record says that the node is away", MINUTE, || {
        let record = case.lab.get(&["podmigration", record, "-n", &case.namespace])?;
        let anchor = &record["status"]["anchor"];
        ensure!(anchor["active"] == true && anchor["connections"] == 1, "the connection is called lost: {anchor}");
        Ok(anchor["message"].as_str().is_some_and(|message| message.contains("do without it")).then_some(()))
    })
}
