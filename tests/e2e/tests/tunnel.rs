//! The way between the nodes on which connections live on: a firewall in it is found before the pod is touched, and a cut is only a pause.

use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use godwit_demo::migrate::{Move, migrate_with};
use godwit_e2e::case::MINUTE;
use godwit_e2e::contract::{Driver, FLOWING, Stage};
use godwit_e2e::faults::{Fault, Order};
use godwit_e2e::{Case, Scenario};

use crate::refusals::explained;

pub const SCENARIO: Scenario =
    Scenario::new("tunnel", "A firewall between the nodes is found while the pod runs; a tunnel that is cut for 5 s breaks no connection.", run);

/// UDP port of the tunnels.
const PORT: u16 = 4790;
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
    let held = Fault::set(&case.lab, &[&case.pair.a], "agent.source.prepare", Order::Delay(Duration::from_secs(4)))?;
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

/// A firewall of the second node that drops tunnels' packets, as long as it is there.
struct Wall<'a>(&'a Case);

const TABLE: &str = "inet e2e-wall";

impl<'a> Wall<'a> {
    fn raise(case: &'a Case) -> Result<Self> {
        let chain = |hook: &str| format!("add chain {TABLE} {hook} {{ type filter hook {hook} priority 0; }}; add rule {TABLE} {hook} udp dport {PORT} drop;");
        let rules = format!("add table {TABLE}; {} {}", chain("input"), chain("output"));
        case.lab.on_node(&case.pair.b, &["nft", &rules])?;
        Ok(Self(case))
    }
}

impl Drop for Wall<'_> {
    fn drop(&mut self) {
        let mut command = vec!["nft", "delete", "table"];
        command.extend(TABLE.split(' '));
        let _ = self.0.lab.on_node(&self.0.pair.b, &command);
    }
}
