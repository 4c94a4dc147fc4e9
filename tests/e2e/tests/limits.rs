//! A pod with limits is limited after the move as before: its share of a CPU, and its memory. When it takes more it is killed, and restarted afresh.

use anyhow::{Context, Result, ensure};
use godwit_demo::objects::{Pod, python};
use godwit_demo::pods;
use godwit_demo::shell::wait_until;
use godwit_e2e::case::MINUTE;
use godwit_e2e::{Case, OnMachines, Scenario};
use serde_json::json;

pub const SCENARIO: Scenario = Scenario::new("limits", "CPU and memory limits hold after the move.", run).each_class().machines(OnMachines::All);

/// Three tenths of a CPU, and what measuring may add.
const SHARE: f64 = 0.3;
const MORE: f64 = 0.1;

/// How often the kernel has killed something of the pod because it had no memory left; cgroup v2.
fn kills(case: &Case, pod: &str) -> Result<u64> {
    let object = case.pod(pod)?;
    let uid = object["metadata"]["uid"].as_str().context("no uid")?;
    // By the cgroup drivers cgroupfs and systemd.
    let (plain, slice) = (format!("*kubepods*/pod{uid}/memory.events"), format!("*kubepods*-pod{}.slice/memory.events", uid.replace('-', "_")));
    let look = format!("find /sys/fs/cgroup \\( -path '{plain}' -o -path '{slice}' \\) -exec awk '$1 == \"oom_kill\" {{print $2}}' '{{}}' +");
    let counts = case.lab.script_on_node(pods::node(&object), &look)?;
    Ok(counts.lines().filter_map(|count| count.trim().parse::<u64>().ok()).sum())
}

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
    let last = &restarted["lastState"]["terminated"];
    let reason = last["reason"].as_str().context("no last state")?;
    // On cgroup v2 containerd may hear of the end before it hears of the cause, which is lost then (containerd/containerd#8893, #12714). The kernel counts it all the same.
    let killed = || Ok::<_, anyhow::Error>(last["exitCode"] == 137 && kills(case, &pod)? > 0);
    ensure!(reason == "OOMKilled" || killed()?, "it ended by {reason}: {last}");
    let after = case.good(&pod, "main", 0)?;
    ensure!(after.rest != before.rest, "it was killed and has the same identity");
    Ok(())
}
