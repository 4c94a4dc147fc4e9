//! A pod with limits is limited after the move as before: its share of a CPU, and its memory. When it takes more it is killed, and restarted afresh.

use anyhow::{Context, Result, ensure};
use godwit_demo::objects::{Pod, python};
use godwit_demo::shell::wait_until;
use godwit_e2e::case::MINUTE;
use godwit_e2e::{Case, OnMachines, Scenario};
use serde_json::json;

pub const SCENARIO: Scenario = Scenario::new("limits", "CPU and memory limits hold after the move.", run).each_class().machines(OnMachines::All);

/// Three tenths of a CPU, and what measuring may add.
const SHARE: f64 = 0.3;
const MORE: f64 = 0.1;

fn run(case: &Case) -> Result<()> {
    let limits = json!({"cpu": "300m", "memory": "96Mi"});
    let pod = Pod::new("glutton", [python("main", include_str!("programs/glutton.py"), &[])])
        .first("resources", json!({"limits": limits, "requests": {"cpu": "50m", "memory": "32Mi"}}));
    let pod = case.start(pod)?;
    let before = case.good(&pod, "main", 0)?;
    let pod = case.move_over(&pod)?;
    case.goes_on(&pod, "main", &before)?;

    case.exec(&pod, "main", &["kill", "-USR1", "1"])?;
    let share = wait_until("its share of a CPU", MINUTE, || {
        let logs = case.logs(&pod, "main")?;
        Ok(logs.lines().find_map(|line| line.strip_prefix("share ")?.parse::<f64>().ok()))
    })?;
    case.note(format!("{share} of a CPU"));
    ensure!(share < SHARE + MORE, "its limit is {SHARE} of a CPU, it got {share}");

    case.exec(&pod, "main", &["kill", "-USR2", "1"])?;
    let restarted = wait_until("killed and restarted", MINUTE, || {
        let status = case.pod(&pod)?["status"]["containerStatuses"][0].clone();
        Ok((status["restartCount"] == 1 && status["ready"] == true).then_some(status))
    })?;
    let reason = restarted["lastState"]["terminated"]["reason"].as_str().context("no last state")?;
    ensure!(reason == "OOMKilled", "it ended by {reason}: {}", restarted["lastState"]);
    let after = case.good(&pod, "main", 0)?;
    ensure!(after.rest != before.rest, "it was killed and has the same identity");
    Ok(())
}
