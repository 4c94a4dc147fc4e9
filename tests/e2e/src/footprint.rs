//! What must not grow when pods come and go: the agent's descriptors and memory, and the size of Godwit's files. Mounts, cgroups and processes, of which others
//! have some too: see [`crate::leftovers`].

use std::collections::BTreeMap;

use anyhow::Result;
use godwit_demo::lab::Lab;

/// Prints `NAME VALUE` lines.
const LOOK: &str = r#"
agent=$(grep -lx godwit-agent /proc/[0-9]*/comm 2>/dev/null | head -n 1 | cut -d / -f 3)
echo agent-fds $(ls /proc/$agent/fd | wc -l)
echo agent-rss-kb $(awk '/^VmRSS/ {print $2}' /proc/$agent/status)
echo agent-threads $(ls /proc/$agent/task | wc -l)
echo godwit-files $(find /run/godwit /var/lib/godwit 2>/dev/null | wc -l)
echo godwit-kb $(du -skc /run/godwit /var/lib/godwit 2>/dev/null | awk 'END {print $1}')
"#;

/// Memory that an allocator may keep for the next time, in kB.
const SLACK_KB: u64 = 4096;

/// The figures of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint(BTreeMap<String, u64>);

impl Footprint {
    /// Measures a node.
    ///
    /// # Errors
    /// When it cannot be asked or no agent runs there.
    pub fn of(lab: &Lab, node: &str) -> Result<Self> {
        Self::read(&lab.script_on_node(node, LOOK)?)
    }

    fn read(text: &str) -> Result<Self> {
        let mut figures = BTreeMap::new();
        for line in text.lines() {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            figures.insert(name.to_owned(), value.trim().parse()?);
        }
        Ok(Self(figures))
    }

    /// A figure.
    #[must_use]
    pub fn figure(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Which figures are larger than in `before`; memory may vary a little, and so may threads and descriptors by what is going on in that moment.
    #[must_use]
    pub fn grown(&self, before: &Self) -> Vec<String> {
        let slack = |name: &str, old: u64| match name {
            "agent-rss-kb" => old / 10 + SLACK_KB,
            // Images of the last pod stay for a while; how many files CRIU makes of it depends on what it did in that moment.
            "godwit-kb" => 64,
            "godwit-files" => 6,
            "agent-fds" | "agent-threads" => 4,
            _ => 0,
        };
        self.0
            .iter()
            .map(|(name, now)| (name, before.figure(name), *now))
            .filter(|(name, old, now)| *now > old + slack(name, *old))
            .map(|(name, old, now)| format!("{name} {old} → {now}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn growth_is_named() {
        let before = Footprint::read("agent-fds 10\nagent-rss-kb 20000\n").unwrap();
        let after = Footprint::read("agent-fds 15\nagent-rss-kb 21000\n").unwrap();
        assert_eq!(after.grown(&before), ["agent-fds 10 → 15"]);
        assert_eq!(before.grown(&after), <[String; 0]>::default());
    }
}
