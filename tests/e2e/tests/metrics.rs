//! Metrics of controller and agents in a real Prometheus: scraped, the alert rules loaded, every expression of the dashboard answered.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godwit_demo::install::{self, chart};
use godwit_demo::pods;
use godwit_demo::shell::{self, wait_until};
use godwit_e2e::case::MINUTE;
use godwit_e2e::http;
use godwit_e2e::road::Road;
use godwit_e2e::{Case, Scenario};
use serde_json::{Value, json};

pub const SCENARIO: Scenario =
    Scenario::new("metrics", "A real Prometheus reads what controller and agents count, and takes rules and dashboard.", run).once().alone();

/// Address of the Prometheus of this test, in the clients' network.
const ADDRESS: &str = "127.0.0.1:19090";
const LIMIT: Duration = Duration::from_secs(30);

/// A Prometheus that goes when the test ends.
struct Prometheus(Child, std::path::PathBuf);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

fn run(case: &Case) -> Result<()> {
    if shell::run("prometheus", &["--version"], None, LIMIT).is_err() {
        case.note("not tried: this machine has no prometheus (scripts/bootstrap installs it)");
        return Ok(());
    }
    let rules = chart()?.join("files/alerts.yaml");
    shell::run("promtool", &["check", "rules", &rules.to_string_lossy()], None, LIMIT)?.success().context("the alert rules are refused")?;
    let prometheus = start(case, &rules.to_string_lossy())?;
    // Other scenarios run beside this one, and may have ended an agent just now.
    wait_until("all targets are up", 3 * MINUTE, || {
        let up = number("sum(up)")?;
        let all = number("count(up)")?;
        Ok((all >= 1.0 + nodes(case) && (up - all).abs() < 0.1).then_some(()))
    })?;
    let mut road = Road::start(case)?;
    let moved = case.migrate(&road.pod, &road.target())?.moved()?;
    road.arrive(&moved)?;
    case.taken_back("sleeper")?;
    for wanted in [
        "sum(godwit_migrations_total{outcome=\"Succeeded\"}) >= 1",
        "sum(godwit_migrations_total{outcome=\"RolledBack\"}) >= 1",
        // An increase: of what happened before this test, too, something may be counted.
        "sum(increase(godwit_failures_total{reason=\"NodeError\"}[1d])) > 0",
        "sum(godwit_freeze_seconds_count) >= 2",
        "sum(godwit_phase_duration_seconds_count{phase=\"Switching\"}) >= 2",
        "sum(godwit_agent_step_seconds_count{step=\"criu-dump\"}) >= 2",
        "sum(godwit_agent_switches_total{role=\"target\",outcome=\"running\"}) >= 1",
        "sum(godwit_agent_sent_bytes_total) > 0",
        "max(godwit_leads) == 1",
    ] {
        wait_until(wanted, MINUTE, || Ok(ask(wanted)?["data"]["result"].as_array().is_some_and(|list| !list.is_empty()).then_some(())))?;
    }
    rules_are_well()?;
    dashboard(case)?;
    drop(prometheus);
    Ok(())
}

#[allow(clippy::cast_precision_loss)]
fn nodes(case: &Case) -> f64 {
    case.lab.nodes().len() as f64
}

fn start(case: &Case, rules: &str) -> Result<Prometheus> {
    let folder = std::env::temp_dir().join(format!("{}-prometheus", case.namespace));
    std::fs::create_dir_all(&folder)?;
    let addresses = |name: &str, port: u16| -> Result<Vec<String>> {
        let found = pods::all(&case.lab, install::NAMESPACE)?;
        let own = found.iter().filter(|pod| pod["metadata"]["labels"]["app.kubernetes.io/name"] == name && pods::is_ready(pod));
        Ok(own.filter_map(|pod| pod["status"]["podIP"].as_str()).map(|address| format!("{address}:{port}")).collect())
    };
    let job = |name: &str, targets: Vec<String>| json!({"job_name": name, "static_configs": [{"targets": targets}]});
    let config = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [rules],
        "scrape_configs": [job("godwit-controller", addresses("godwit-controller", 7412)?), job("godwit-agent", addresses("godwit-agent", 7411)?)],
    });
    // JSON is YAML.
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, config.to_string())?;
    shell::run("promtool", &["check", "config", &file.to_string_lossy()], None, LIMIT)?.success()?;
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={ADDRESS}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("prometheus cannot be started")?;
    let prometheus = Prometheus(child, folder);
    wait_until("Prometheus answers", MINUTE, || Ok(get("/-/ready").ok().filter(|text| text.contains("Ready"))))?;
    Ok(prometheus)
}

fn get(path: &str) -> Result<String> {
    http::get_within(ADDRESS.parse()?, path, Duration::from_secs(10))
}

/// Asks an expression.
fn ask(expression: &str) -> Result<Value> {
    let mut path = String::from("/api/v1/query?query=");
    for byte in expression.bytes() {
        if byte.is_ascii_alphanumeric() {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    let text = get(&path)?;
    let answer: Value = serde_json::from_str(&text).with_context(|| format!("{expression}: {text}"))?;
    ensure!(answer["status"] == "success", "{expression}: {answer}");
    Ok(answer)
}

fn number(expression: &str) -> Result<f64> {
    let answer = ask(expression)?;
    Ok(answer["data"]["result"][0]["value"][1].as_str().and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// Every rule was evaluated without an error, and none fires for a cluster that is well.
fn rules_are_well() -> Result<()> {
    wait_until("all rules were evaluated", MINUTE, || {
        let rules: Value = serde_json::from_str(&get("/api/v1/rules")?)?;
        let list: Vec<&Value> =
            rules["data"]["groups"].as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array().into_iter().flatten()).collect();
        ensure!(list.len() == 5, "{} rules: {rules}", list.len());
        if let Some(bad) = list.iter().find(|rule| rule["health"] == "err" || rule["state"] == "firing") {
            anyhow::bail!("a rule is not well: {bad}");
        }
        Ok(list.iter().all(|rule| rule["health"] == "ok").then_some(()))
    })
}

/// Prometheus understands every expression of the dashboard, and each has an answer: something has just succeeded and something failed.
fn dashboard(case: &Case) -> Result<()> {
    let board: Value = serde_json::from_str(&std::fs::read_to_string(chart()?.join("files/dashboard.json"))?)?;
    let targets = board["panels"].as_array().into_iter().flatten().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions: Vec<String> = targets.filter_map(|target| target["expr"].as_str()).map(|text| text.replace("$__rate_interval", "1m")).collect();
    ensure!(expressions.len() >= 9, "the dashboard has {} expressions", expressions.len());
    let answered = expressions
        .iter()
        .map(|expression| Ok(ask(expression)?["data"]["result"].as_array().is_some_and(|list| !list.is_empty())))
        .collect::<Result<Vec<_>>>()?;
    let silent: Vec<&String> = expressions.iter().zip(&answered).filter(|(_, answered)| !**answered).map(|(expression, _)| expression).collect();
    case.note(format!("{} of {} expressions of the dashboard have an answer", expressions.len() - silent.len(), expressions.len()));
    ensure!(silent.is_empty(), "no answer to {silent:?}");
    Ok(())
}
