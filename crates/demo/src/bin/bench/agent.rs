//! What an agent takes of its node: memory while nothing is to be done, and what the kernel has counted of it around something.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use godwit_demo::lab::Lab;
use godwit_demo::numbers::Row;

/// Prints of the agent, whose folder in /proc is `$p`: resident memory now, at the most, and what of it is shared, in KiB; processor time in ticks, and how many ticks a second has.
const LOOK: &str = "awk '/^VmRSS|^VmHWM|^RssShmem/ { found[$1] = $2 } END { print found[\"VmRSS:\"], found[\"VmHWM:\"], found[\"RssShmem:\"] }' $p/status
awk '{ print $14 + $15 }' $p/stat; getconf CLK_TCK";
/// The most resident memory is counted from now on, proc_pid_clear_refs(5).
const FORGET: &str = "echo 5 > $p/clear_refs";
/// What a script about the agent begins with.
const FIND: &str = "p=/proc/$(grep -lx godwit-agent /proc/[0-9]*/comm 2>/dev/null | head -n 1 | cut -d / -f 3)";
const PAUSE: Duration = Duration::from_secs(1);

/// What the kernel has counted of a node's agent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Count {
    /// MiB of resident memory.
    pub resident: f64,
    /// The most that there was since [`forget`], without memory that is shared: pages of the store are on tmpfs, and not the agent's own.
    pub most: f64,
    /// Seconds of processor time since it started, in user and kernel mode.
    pub seconds: f64,
}

impl Count {
    /// Looks at the agent of a node.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(lab: &Lab, node: &str) -> Result<Self> {
        let text = lab.script_on_node(node, &format!("{FIND}; {LOOK}")).with_context(|| format!("there is no agent on {node}; see kubectl get pods -A"))?;
        Self::read(&text).with_context(|| format!("this does not tell of the agent on {node}: {text}"))
    }

    fn read(text: &str) -> Option<Self> {
        let figures: Vec<f64> = text.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let [resident, most, shared, ticks, frequency] = figures[..] else { return None };
        Some(Self { resident: resident / 1024.0, most: (most - shared) / 1024.0, seconds: ticks / frequency })
    }
}

/// From now on [`Count::most`] is counted anew.
///
/// # Errors
/// When there is no agent on the node.
pub fn forget(lab: &Lab, node: &str) -> Result<()> {
    lab.script_on_node(node, &format!("{FIND}; {FORGET}")).map(drop)
}

/// Looks so many times at the agent of every node.
pub fn measure(lab: &Lab, looks: usize) -> Result<Vec<Row>> {
    let mut samples = Vec::new();
    for _ in 0..looks {
        sleep(PAUSE);
        for node in lab.nodes() {
            samples.push(Count::of(lab, &node.name)?.resident);
        }
    }
    Ok(Row::of("an idle agent", "godwit", "resident memory", "MiB", &samples).into_iter().collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn memory_is_mib_without_what_is_shared_and_time_is_seconds() {
        let found = Count::read("20480 40960 1024\n250\n100\n");
        assert_eq!(found, Some(Count { resident: 20.0, most: 39.0, seconds: 2.5 }));
        assert_eq!(Count::read("20480 40960\n"), None);
    }
}
