//! A Python HTTP server behind a Service: after the move the Service is answered from the other node, by the same process.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use godwit_demo::objects::{Pod, python, service};
use godwit_demo::pods;
use godwit_demo::shell::wait_until;
use godwit_e2e::case::MINUTE;
use godwit_e2e::{Case, OnMachines, Scenario, http};

pub const SCENARIO: Scenario =
    Scenario::new("http-server", "A web server behind a Service answers from the other node.", run).each_class().machines(OnMachines::All);

/// Answers with its identity and the number of the answer.
pub const PROGRAM: &str = include_str!("programs/http_server.py");
pub const PORT: u16 = 8080;

/// The server's container.
pub fn server() -> serde_json::Value {
    let mut container = python("web", PROGRAM, &[&PORT.to_string()]);
    container["readinessProbe"] = serde_json::json!({"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1, "timeoutSeconds": 5});
    container
}

/// Identity and number from an answer.
pub fn read(answer: &str) -> Result<(String, u64)> {
    let (identity, number) = answer.trim().split_once(' ').with_context(|| format!("not an answer: {answer:?}"))?;
    Ok((identity.to_owned(), number.parse()?))
}

/// Asks until there is an answer.
pub fn ask(server: SocketAddr) -> Result<(String, u64)> {
    wait_until("an answer", MINUTE, || Ok(Some(read(&http::get(server, "/")?)?)))
}

fn run(case: &Case) -> Result<()> {
    let mut pod = case.start(Pod::new("web", [server()]))?;
    case.apply(&[service("web", PORT)])?;
    let address = pods::service_address(&case.lab, &case.namespace, "web")?;
    let (identity, mut last) = ask(address)?;
    for _ in 0..2 {
        pod = case.move_over(&pod)?;
        let (same, number) = ask(address)?;
        ensure!(same == identity, "{identity} went, {same} answers");
        ensure!(number > last, "it has answered {last} times, now it says {number}");
        last = number;
    }
    Ok(())
}
