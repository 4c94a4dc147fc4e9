//! The way between the nodes on which connections live on: a firewall in it is found before the pod is touched, and a cut is only a pause.

use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use godwit_demo::migrate::{Move, migrate_with};
use godwit_e2e::case::MINUTE;
use godwit_e2e::contract::{Driver, FLOWING, KINDS, Stage};
use godwit_e2e::faults::Order;
use godwit_e2e::{Case, OnMachines, Scenario};

use crate::refusals::explained;

pub const SCENARIO: Scenario =
    Scenario::new("tunnel", "A firewall between the nodes is found while the pod runs; a tunnel that is cut for 5 s breaks no connection.", run);

pub const ENCRYPTED: Scenario =
    Scenario::new("tunnel-encrypted", "Between kernels that have WireGuard connections live on through an encrypted tunnel.", encrypted)
        .machines(OnMachines::Only);

/// UDP ports between the nodes: of the tunnels, and of WireGuard where both kernels have it.
const PORTS: [u16; 2] = [4790, 51840];
const CUT: Duration = Duration::from_secs(5);

fn run(case: &Case) -> Result<()> {
    let mut stage = Stage::set(case)?;
    let mut open = stage.open(&FLOWING)?;
    let migrate = |options: &[&str]| {
        let mut arguments = vec![stage.pod.as_str(), "--to", &case.pair.b];
        arguments.extend(options);
        migrate_with(&case.lab, &case.namespace, &arguments)
    };
    let wall = Wall::raise(case)?;
    let planned = migrate(&["--dry-run"])?.moved()?.text();
    ensure!(planned.contains("no frame gets through") && planned.contains("connections close"), "the plan does not know of the firewall:\n{planned}");
    migrate(&["--network", "anchor"])?.refused("NetworkNotPossible").and_then(explained)?;
    drop(wall);
    raised_after_planning(case, &migrate)?;
    open.turn(&stage).context("behind the firewall")?;
    stage.move_by(Driver::Anchor)?;
    open.turn(&stage)?;
    let _ = open.stalls();
    let wall = Wall::raise(case)?;
    sleep(CUT);
    drop(wall);
    open.turn(&stage).context("after the cut")?;
    for (what, stall) in open.stalls() {
        ensure!(stall >= CUT - Duration::from_secs(1), "“{what}” went on through a tunnel that was cut: it waited {stall:?}");
        case.note(format!("{what} {} ms", stall.as_millis()));
    }
    open.kept(Driver::Anchor, &stage)?;
    stage.all_retired()
}

/// Found before the freeze, too.
fn raised_after_planning(case: &Case, migrate: &(dyn Fn(&[&str]) -> Result<Move> + Sync)) -> Result<()> {
    let held = case.fault(&case.pair.a, "agent.source.prepare", Order::Delay(Duration::from_secs(4)))?;
    let ended = thread::scope(|scope| {
        let moving = scope.spawn(|| migrate(&[]));
        held.wait(MINUTE)?;
        let _wall = Wall::raise(case)?;
        moving.join().map_err(|_| anyhow!("it panicked"))?
    })?;
    ensure!(ended.output.code != 0 && ended.text().contains("TunnelBlocked"), "the firewall was not found:\n{}", ended.text());
    ensure!(ended.freeze_ms().is_none_or(|ms| ms == 0), "the pod stood still for a tunnel that does not carry: {}", ended.status("/freeze"));
    explained(ended).map(drop)
}

fn encrypted(case: &Case) -> Result<()> {
    let mut stage = Stage::set(case)?;
    // Not what is sent as fast as it goes: a virtual machine that is emulated has no time for anything beside it.
    let mut open = stage.open(&[KINDS[1], KINDS[3]])?;
    let planned = migrate_with(&case.lab, &case.namespace, &[stage.pod.as_str(), "--to", &case.pair.b, "--dry-run"])?.moved()?.text();
    ensure!(planned.contains("encrypted by WireGuard"), "the plan says nothing of WireGuard:\n{planned}");
    let meter = Meter::set(case)?;
    stage.move_by(Driver::Anchor)?;
    open.turn(&stage)?;
    let [plain, encrypted] = meter.read()?;
    ensure!(plain == 0 && encrypted > 0, "{plain} packets went by a tunnel that is not encrypted, {encrypted} by WireGuard");
    case.note(format!("{encrypted} packets, all encrypted"));
    open.kept(Driver::Anchor, &stage)?;
    stage.all_retired()
}

/// Counts the packets between the nodes, as long as it is there.
struct Meter<'a>(&'a Case);

impl<'a> Meter<'a> {
    const TABLE: &'static str = "inet e2e-meter";

    fn set(case: &'a Case) -> Result<Self> {
        let table = Self::TABLE;
        let counters: String = PORTS.iter().map(|port| format!("add counter {table} port-{port};")).collect();
        let chain = |hook: &str| {
            let rules: String = PORTS.iter().map(|port| format!("add rule {table} {hook} udp dport {port} counter name port-{port};")).collect();
            format!("add chain {table} {hook} {{ type filter hook {hook} priority 0; }}; {rules}")
        };
        case.lab.on_node(&case.pair.b, &["nft", &format!("add table {table}; {counters} {} {}", chain("input"), chain("output"))])?;
        Ok(Self(case))
    }

    fn read(&self) -> Result<[u64; 2]> {
        let (family, table) = Self::TABLE.split_once(' ').unwrap_or_default();
        let mut found = [0; 2];
        for (count, port) in found.iter_mut().zip(PORTS) {
            let text = self.0.lab.on_node(&self.0.pair.b, &["nft", "-j", "list", "counter", family, table, &format!("port-{port}")])?;
            let all: serde_json::Value = serde_json::from_str(&text).context("what nft lists")?;
            let counters = all["nftables"].as_array().into_iter().flatten();
            *count = counters.filter_map(|entry| entry["counter"]["packets"].as_u64()).sum();
        }
        Ok(found)
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        forget(self.0, Self::TABLE);
    }
}

/// A firewall of the second node that drops tunnels' packets, as long as it is there.
struct Wall<'a>(&'a Case);

const TABLE: &str = "inet e2e-wall";

impl<'a> Wall<'a> {
    fn raise(case: &'a Case) -> Result<Self> {
        let ports = PORTS.map(|port| port.to_string()).join(", ");
        let chain =
            |hook: &str| format!("add chain {TABLE} {hook} {{ type filter hook {hook} priority 0; }}; add rule {TABLE} {hook} udp dport {{ {ports} }} drop;");
        let rules = format!("add table {TABLE}; {} {}", chain("input"), chain("output"));
        case.lab.on_node(&case.pair.b, &["nft", &rules])?;
        Ok(Self(case))
    }
}

impl Drop for Wall<'_> {
    fn drop(&mut self) {
        forget(self.0, TABLE);
    }
}

fn forget(case: &Case, table: &str) {
    let mut command = vec!["nft", "delete", "table"];
    command.extend(table.split(' '));
    let _ = case.lab.on_node(&case.pair.b, &command);
}
