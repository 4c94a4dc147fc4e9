//! `godwit-lab status`: machines and their services, as a table or as JSON.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::client::kubectl;
use crate::cluster::nodes_ready;
use crate::control::{Request, ServiceState};
use crate::fabric::Fabric;
use crate::machine::Machine;
use crate::record::Record;
use crate::settings::Settings;
use crate::topology::{Runtime, SWITCH, SWITCH_ADDRESS};

/// The whole lab.
#[derive(Serialize)]
struct Report {
    /// Whether a cluster was started and not taken down.
    up: bool,
    /// Whether every service runs and every node is Ready.
    healthy: bool,
    /// The pods' network.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<Fabric>,
    machines: Vec<MachineReport>,
}

/// One machine.
#[derive(Serialize)]
struct MachineReport {
    name: String,
    address: String,
    /// None for the switch.
    runtime: Option<Runtime>,
    /// PID 1 as this machine numbers it; none while the power is off.
    pid: Option<i32>,
    services: Vec<ServiceState>,
}

/// Prints the state; exit code 1 when the lab is not up and healthy.
pub fn print(settings: &Settings, json: bool) -> Result<ExitCode> {
    let record = Record::read(settings);
    let report = look(settings, record.as_ref());
    let text = match (json, report.up) {
        (true, _) => serde_json::to_string_pretty(&report)? + "\n",
        (false, false) => "the lab is down\n".to_owned(),
        (false, true) => for_people(settings, &report),
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads no further, as `head` does, knows it.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    Ok(if report.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn for_people(settings: &Settings, report: &Report) -> String {
    let nodes = kubectl(settings, &["get", "nodes", "-o", "wide"]).unwrap_or_else(|error| format!("{error:#}\n"));
    let network = report.network.unwrap_or_default().name();
    let ill = if report.healthy { "" } else { "\nthe lab is not healthy; godwit-lab up mends it\n" };
    format!("{}\n\nnetwork: {network}\n\n{nodes}{ill}", table(report))
}

fn look(settings: &Settings, record: Option<&Record>) -> Report {
    let Some(record) = record else {
        return Report { up: false, healthy: false, network: None, machines: Vec::new() };
    };
    let nodes = record.topology.nodes.iter().map(|node| (node.name.clone(), node.address(), Some(node.runtime)));
    let switch = (SWITCH.to_owned(), SWITCH_ADDRESS.to_owned(), None);
    let machines: Vec<MachineReport> = std::iter::once(switch)
        .chain(nodes)
        .map(|(name, address, runtime)| {
            let machine = Machine::find(settings, &name);
            let services = machine.as_ref().and_then(|machine| machine.ask(&Request::Status).ok()).unwrap_or_default();
            MachineReport { name, address, runtime, pid: machine.map(|machine| machine.pid), services }
        })
        .collect();
    let runs = |machine: &MachineReport| !machine.services.is_empty() && machine.services.iter().all(|s| s.pid.is_some());
    let healthy = machines.iter().all(runs) && nodes_ready(settings, &record.topology);
    Report { up: true, healthy, network: Some(record.topology.fabric), machines }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["MACHINE", "ADDRESS", "PID", "SERVICE", "STATE", "STARTS"]);
    for machine in &report.machines {
        let (name, address) = (&machine.name, &machine.address);
        let Some(pid) = machine.pid else {
            table.add_row([name, address, "-", "-", "off", "-"]);
            continue;
        };
        for service in &machine.services {
            let state = match (service.pid, service.wanted) {
                (Some(_), true) => "running",
                (Some(_), false) => "stopping",
                (None, true) => "waiting",
                (None, false) => "stopped",
            };
            table.add_row([name, address, &pid.to_string(), &service.name, state, &service.starts.to_string()]);
        }
    }
    table
}
