//! Three containers of one pod that talk over loopback: all are frozen at one instant, and no connection is lost.

use anyhow::{Result, ensure};
use godwit_demo::objects::{Pod, python};
use godwit_e2e::case::Good;
use godwit_e2e::{Case, OnMachines, Scenario};

pub const SCENARIO: Scenario =
    Scenario::new("loopback", "Three containers go on talking over the connections they had.", run).each_class().machines(OnMachines::All);

const CLIENTS: [&str; 2] = ["one", "two"];

fn run(case: &Case) -> Result<()> {
    let port = ["7000"];
    let client = include_str!("programs/loopback_client.py");
    let server = python("server", include_str!("programs/loopback_server.py"), &port);
    let containers = [server].into_iter().chain(CLIENTS.map(|name| python(name, client, &port)));
    let mut pod = case.start(Pod::new("trio", containers))?;
    let mut before: Vec<Good> = CLIENTS.iter().map(|name| case.good(&pod, name, 5)).collect::<Result<_>>()?;
    for _ in 0..2 {
        pod = case.move_over(&pod)?;
        for (name, good) in CLIENTS.iter().zip(&mut before) {
            // Identity and local port: the same connection.
            *good = case.goes_on(&pod, name, good)?;
        }
        let said = case.logs(&pod, "server")?;
        let accepted = said.lines().last().unwrap_or_default();
        ensure!(accepted == "accepted 2", "the server says: {accepted}");
    }
    Ok(())
}
