//! logs, exec, attach and port-forward work after the move as before.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::objects::Pod;
use godwit_demo::shell::wait_until;
use godwit_e2e::case::MINUTE;
use godwit_e2e::children::Background;
use godwit_e2e::{Case, OnMachines, Scenario, http};

use crate::http_server::{PORT, read, server};

pub const SCENARIO: Scenario =
    Scenario::new("kubectl-afterwards", "logs, exec, attach and port-forward work after the move.", run).each_class().machines(OnMachines::All);

fn run(case: &Case) -> Result<()> {
    let pod = case.start(Pod::new("web", [server()]))?;
    let before = forward(case, &pod)?;
    let pod = case.move_over(&pod)?;

    let after = forward(case, &pod)?;
    ensure!(after.0 == before.0 && after.1 > before.1, "port-forward answered {before:?} before and {after:?} after the move");

    let seen = case.exec(&pod, "web", &["sh", "-c", "cat /proc/1/comm; echo $((6 * 7)); exit 0"])?;
    ensure!(seen == "python3\n42\n", "exec printed {seen:?}");
    let code = case.lab.try_kubectl(&["exec", "-n", &case.namespace, &pod, "--", "sh", "-c", "exit 5"])?.code;
    ensure!(code == 5, "exec ended with {code}, not 5");

    // The readiness probe makes the server write a line every second.
    let logs = wait_until("new lines in the log", MINUTE, || Ok(Some(case.logs(&pod, "web")?).filter(|text| text.contains("answered /"))))?;
    ensure!(!logs.is_empty(), "no logs");
    let attached = Background::start("kubectl", &["attach", "-n", &case.namespace, &pod, "-c", "web"])?;
    attached.wait_for("answered /", MINUTE).context("attach")?;
    Ok(())
}

fn forward(case: &Case, pod: &str) -> Result<(String, u64)> {
    let forward = Background::start("kubectl", &["port-forward", "-n", &case.namespace, pod, &format!(":{PORT}")])?;
    let line = forward.wait_for("Forwarding from 127.0.0.1:", MINUTE)?;
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split_whitespace().next()).context("no port")?;
    let address: SocketAddr = format!("127.0.0.1:{port}").parse()?;
    read(&http::get_within(address, "/", Duration::from_secs(20))?)
}
