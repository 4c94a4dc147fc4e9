//! What an agent takes of its node's memory while nothing is to be done.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use godwit_demo::lab::Lab;
use godwit_demo::numbers::Row;

const LOOK: &str = "awk '/^VmRSS/ {print $2}' /proc/$(grep -lx godwit-agent /proc/[0-9]*/comm 2>/dev/null | head -n 1 | cut -d / -f 3)/status";
const PAUSE: Duration = Duration::from_secs(1);

/// Looks so many times at the agent of every node.
pub fn measure(lab: &Lab, looks: usize) -> Result<Vec<Row>> {
    let mut samples = Vec::new();
    for _ in 0..looks {
        sleep(PAUSE);
        for node in lab.nodes() {
            let text = lab.script_on_node(&node.name, LOOK)?;
            let kilobytes: f64 = text.trim().parse().with_context(|| format!("no agent on {}", node.name))?;
            samples.push(kilobytes / 1024.0);
        }
    }
    Ok(Row::of("an idle agent", "godwit", "resident memory", "MiB", &samples).into_iter().collect())
}
