//! `godwit-lab status`: machines and their services.

use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{Table, presets};

use crate::cluster::{self, Record};
use crate::control::Request;
use crate::machine::Machine;
use crate::settings::Settings;
use crate::topology::{SWITCH, SWITCH_ADDRESS};

/// Prints the state; exit code 1 when the lab is not up and healthy.
pub fn print(settings: &Settings) -> Result<ExitCode> {
    let Some(record) = Record::read(settings) else {
        println!("the lab is down");
        return Ok(ExitCode::FAILURE);
    };
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["MACHINE", "ADDRESS", "PID", "SERVICE", "STATE", "STARTS"]);
    let nodes = record
        .topology
        .nodes
        .iter()
        .map(|node| (node.name.clone(), node.address()));
    for (name, address) in [(SWITCH.to_owned(), SWITCH_ADDRESS.to_owned())]
        .into_iter()
        .chain(nodes)
    {
        let Some(machine) = Machine::find(settings, &name) else {
            table.add_row([&name, &address, "-", "-", "dead", "-"]);
            continue;
        };
        for service in machine.ask(&Request::Status).unwrap_or_default() {
            let state = match (service.pid, service.wanted) {
                (Some(_), true) => "running",
                (Some(_), false) => "stopping",
                (None, true) => "waiting",
                (None, false) => "stopped",
            };
            table.add_row([
                &name,
                &address,
                &machine.pid.to_string(),
                &service.name,
                state,
                &service.starts.to_string(),
            ]);
        }
    }
    println!("{table}");
    if cluster::is_healthy(settings, &record.topology) {
        print!(
            "\n{}",
            cluster::kubectl(settings, &["get", "nodes", "-o", "wide"])?
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nthe lab is not healthy; godwit-lab up starts it anew");
    Ok(ExitCode::FAILURE)
}
