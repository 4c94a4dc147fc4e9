//! What a pod has written moves along: its root filesystem, disk and memory emptyDirs, /dev/shm, open, mapped, growing and removed files.

use anyhow::{Result, ensure};
use godwit_demo::objects::{Pod, python};
use godwit_e2e::{Case, OnMachines, Scenario};
use serde_json::json;

pub const SCENARIO: Scenario = Scenario::new("files", "Changed files, emptyDirs and shared memory move along.", run).each_class().machines(OnMachines::Once);

fn run(case: &Case) -> Result<()> {
    travels(case, &[])
}

/// A pod with files goes there and back, with these options of `kubectl migrate`.
pub fn travels(case: &Case, options: &[&str]) -> Result<()> {
    let pod = Pod::new("files", [python("main", include_str!("programs/files.py"), &[])])
        .with("volumes", json!([{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]))
        .first("volumeMounts", json!([{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"}]));
    let mut pod = case.start(pod)?;
    let mut good = case.good(&pod, "main", 3)?;
    for _ in 0..2 {
        pod = case.move_over_by(&pod, options)?;
        good.turn += 5;
        good = case.goes_on(&pod, "main", &good)?;
    }
    // The same seen by another process, which enters by the runtime and not by the restore.
    let seen = case.exec(&pod, "main", &["sh", "-c", "stat -f -c %T /memory; test ! -e /etc/debian_version; tail -c 16 /etc/issue; ls /dev/shm"])?;
    let identity = good.rest.first().map_or("", String::as_str);
    ensure!(seen.starts_with("tmpfs") && seen.contains(identity) && seen.contains("seen"), "exec sees: {seen}");
    Ok(())
}
