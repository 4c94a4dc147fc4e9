//! The proof that a scenario left nothing on the nodes: mounts, cgroups, nft tables, anchors' interfaces and routing rules of every network namespace, Godwit's files, and processes, each counted
//! with ids taken out of the names, are no more than they were before.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, anyhow};
use godwit_demo::lab::Lab;
use godwit_demo::shell::wait_until;

use crate::case::PREFIX;

/// How long kubelet, runtime and agents may tidy up.
const LIMIT: Duration = Duration::from_secs(60);

/// Prints a line for each thing that could be left.
const LOOK: &str = r#"
awk '{print "mount " $5}' /proc/1/mountinfo
find /sys/fs/cgroup -type d -path '*kubepods*/*' ! -name '*besteffort' ! -name '*burstable' ! -name '*besteffort.slice' ! -name '*burstable.slice' -printf 'cgroup %p\n' 2>/dev/null || true
nft list tables | sed 's/^/nft node /'
ip -o link show type vxlan | awk '{print "link node " $2}'
{ ip rule; ip -6 rule; } 2>/dev/null | grep -v -E 'lookup (local|main|default)' | sed 's/^/rule node /' || true
for netns in $(ls /run/netns 2>/dev/null); do
  ip netns exec "$netns" nft list tables 2>/dev/null | sed 's/^/nft pod /' || true
  ip netns exec "$netns" ip -o link show 2>/dev/null | awk '$2 ~ /^(anc|old)[0-9]/ {sub(/@.*|:$/, "", $2); print "link " $2}' || true
  ip netns exec "$netns" sh -c 'ip rule; ip -6 rule' 2>/dev/null | grep -v -E 'lookup (local|main|default)' | sed 's/^/rule pod /' || true
done
find /run/godwit /var/lib/godwit -maxdepth 2 -path /var/lib/godwit/faults -prune -o -printf 'file %p\n' 2>/dev/null || true
cat /proc/[0-9]*/comm 2>/dev/null | grep -E '^(criu|godwit-runtime|keeper|runc|crun|nft|tar|containerd-shim.*|conmon)$' | sed 's/^/process /' || true
"#;

/// Prints whose things those may be: processes of runtimes, what containerd has and knows of, and what runs in the cgroups of pods.
const WHOSE: &str = r#"
ps -eo pid,ppid,stat,etimes,wchan:20,args --sort=etimes | grep -E 'containerd-shi[m]|conmo[n]|cri[u]|run[c]|cru[n]' | cut -c 1-200
ctr -n k8s.io tasks list 2>/dev/null || true
ls /run/containerd/io.containerd.runtime.v2.task/k8s.io 2>/dev/null || true
find /sys/fs/cgroup/pids /sys/fs/cgroup/kubepods* -type d -path '*kubepods*/*pod*' -printf '%p ' -execdir sh -c 'tr "\n" " " < "$1/cgroup.procs"; echo' sh '{}' ';' 2>/dev/null || true
"#;

/// What is asked of the API server for [`Things::parts`].
const PARTS: &str = r#"jsonpath={range .items[*]}{.metadata.namespace}{" "}{.status.containerStatuses[*].state.running.startedAt}{"\n"}{end}"#;

/// What every pod has some of, ours or not.
const OF_PODS: [&str; 4] = ["mount ", "cgroup ", "process containerd-shim", "process conmon"];

/// So many of one kind a sandbox or a container may have.
const OF_A_PART: usize = 2;

/// Things on a node and how many of them there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Things {
    counts: BTreeMap<String, usize>,
    /// Sandboxes and running containers on the node that are none of the tests': a Deployment's pod may have come here meanwhile, a container may just have been restarted.
    parts: usize,
}

impl Things {
    /// Looks at a node.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn on(lab: &Lab, node: &str) -> Result<Self> {
        let things = Self::read(&lab.script_on_node(node, LOOK)?);
        let selector = format!("spec.nodeName={node}");
        let pods = lab.kubectl(&["get", "pods", "-A", "--field-selector", &selector, "-o", PARTS])?;
        // A line for each pod: its namespace, and when each of its running containers started.
        let parts = pods.lines().filter(|line| !line.starts_with(PREFIX)).map(|line| line.split_whitespace().count()).sum();
        Ok(Self { parts, ..things })
    }

    fn read(text: &str) -> Self {
        let mut counts = BTreeMap::new();
        for line in text.lines() {
            *counts.entry(without_ids(line)).or_default() += 1;
        }
        Self { counts, parts: 0 }
    }

    /// What there is more of than in `before`.
    #[must_use]
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        let more = |(name, count): (&String, &usize)| {
            let old = before.counts.get(name).copied().unwrap_or(0);
            let slack = if OF_PODS.iter().any(|kind| name.starts_with(kind)) { OF_A_PART * self.parts.saturating_sub(before.parts) } else { 0 };
            (*count > old + slack).then(|| format!("{name} ({old} before, now {count})"))
        };
        self.counts.iter().filter_map(more).collect()
    }
}

/// Waits until there is nothing on a node that was not there before.
///
/// # Errors
/// When something stays: all of it, by name.
pub fn prove_none(lab: &Lab, node: &str, before: &Things) -> Result<()> {
    let mut left = Vec::new();
    let mut parts = 0;
    let clean = wait_until("a clean node", LIMIT, || {
        let now = Things::on(lab, node)?;
        (left, parts) = (now.beyond(before), now.parts);
        Ok(left.is_empty().then_some(()))
    });
    match (clean, left.first()) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(first)) => {
            let whose = lab.script_on_node(node, WHOSE).unwrap_or_else(|error| format!("{error:#}"));
            let short = format!("left behind on {node}: {first} and {} more; {} sandboxes and containers before, now {parts}", left.len() - 1, before.parts);
            Err(anyhow!("all of it:\n  {}\n{whose}", left.join("\n  ")).context(short))
        }
        (Err(error), None) => Err(error),
    }
}

/// Replaces ids (twelve or more hexadecimal digits, dashes and underscores in a row, a digit among them) and process ids by `#`.
fn without_ids(line: &str) -> String {
    // Every pod has its own; five letters follow.
    let line = line.split_once("kube-api-access-").map_or(line, |(before, _)| before);
    let mut out = String::new();
    let mut run = String::new();
    for char in line.chars().chain(['\n']) {
        if char.is_ascii_hexdigit() || char == '-' || char == '_' {
            run.push(char);
            continue;
        }
        let digits = run.chars().filter(char::is_ascii_digit).count();
        if digits > 0 && (run.len() >= 12 || digits == run.len() && digits > 2) {
            out.push('#');
        } else {
            out.push_str(&run);
        }
        run.clear();
        out.push(char);
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn ids_do_not_count() {
        assert_eq!(
            without_ids("cgroup /kubepods/pod6a53776b-7d2b-48ad-bc31-38b84ad9af43/771f359fad4af6266fe8398a321e619d"),
            without_ids("cgroup /kubepods/podd0f2b1aa-1d2b-48ad-bc31-000000000000/0000000fad4af6266fe8398a321e619d"),
        );
        assert_eq!(without_ids("file /run/godwit/agent.sock"), "file /run/godwit/agent.sock");
        assert_eq!(without_ids("mount /proc/12345/ns"), "mount /proc/#/ns");
    }

    #[test]
    fn only_what_is_more_is_left_over() {
        let before = Things::read("mount /a\nmount /a\nprocess criu\n");
        let after = Things::read("mount /a\nmount /a\nmount /a\nnft node table inet godwit\n");
        assert_eq!(after.beyond(&before), ["mount /a (2 before, now 3)", "nft node table inet godwit (0 before, now 1)"]);
        assert!(before.beyond(&after).contains(&"process criu (0 before, now 1)".to_owned()));
    }
}
