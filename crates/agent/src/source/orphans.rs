//! A CRIU that outlived the agent which started it. It has its hands in the pod's processes, so nothing is thawed before it has ended.

use std::{fs, path::Path, time::Duration};

use godwit_node::host::Host;

/// Waits until no CRIU works on these images.
pub async fn await_criu(host: &Host, images: &Path) {
    while let Some(pid) = find(host, images) {
        tracing::info!(pid, "waiting for a dump that was started before this agent");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn find(host: &Host, images: &Path) -> Option<String> {
    let images = images.to_string_lossy().into_owned();
    fs::read_dir(host.path("/proc")).ok()?.flatten().find_map(|entry| {
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command);
        let mut words = command.split('\0');
        let is_criu = words.next().is_some_and(|program| program.ends_with("criu"));
        (is_criu && words.any(|word| word.starts_with(&images))).then(|| entry.file_name().to_string_lossy().into_owned())
    })
}
