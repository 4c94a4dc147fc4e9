//! The steps of a migration by name: what each does, whom it waits for, what it is a part of. The agents and the controller report them; `kubectl migrate timeline`
//! and the spans of a trace tell them. Those of the wrapper, of CRIU's hook and of the keeper are taken by the agent that they ask.

/// What is known of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name, as reported.
    pub name: &'static str,
    /// What is done.
    pub does: &'static str,
    /// Who or what is waited for meanwhile.
    pub waits_for: &'static str,
    /// How deep it lies: 0 is led by the source or the controller, 1 is a part of such a step or led by the target, 2 a part of that.
    pub level: usize,
    /// The step that it is a part of; empty for a part of its phase.
    pub within: &'static str,
}

const fn known(name: &'static str, does: &'static str, waits_for: &'static str) -> Known {
    Known { name, does, waits_for, level: 0, within: "" }
}

const fn part(level: usize, within: &'static str, name: &'static str, does: &'static str, waits_for: &'static str) -> Known {
    Known { name, does, waits_for, level, within }
}

/// All of them, in the order in which they are usually taken.
pub const KNOWN: &[Known] = &[
    known("status", "the record is written", "API server"),
    known("look", "the pods are looked at", "API server"),
    known("inspect", "processes, files, sockets and mounts are looked at", "source's agent"),
    known("assess", "the node is asked whether it could take the pod", "target's agent"),
    known("facts", "claims, classes and owners are looked up", "API server"),
    known("create-pod", "the target pod is made", "API server"),
    known("announce", "the target's agent is told to expect it", "target's agent"),
    known("schedule", "the target pod gets its node", "scheduler"),
    known("await-keepers", "sandbox, network and containers are made", "kubelet and runtime of the target"),
    known("same-images", "the images of both pods are compared", "kubelet of the target"),
    known("keepers", "all containers have a keeper", "kubelet and runtime of the target"),
    part(1, "keepers", "create", "the wrapper leaves a keeper in the container's place", "agent and disk of the target"),
    known("addresses", "the nodes' addresses are looked up", "API server"),
    known("attach", "the source's agent is told to begin", "source's agent"),
    known("clocks", "the clocks of both nodes are compared", "both agents"),
    known("copy", "the pod's files travel while it runs", "disk and network"),
    known("memory", "the pod's memory travels while it runs", "network"),
    part(1, "memory", "round", "all memory, then what was written since the last round, is read and sent", "network, target's page store"),
    known("prime", "the target starts its restores, which wait for images", "runc and keepers of the target"),
    part(1, "prime", "runc-restore", "runc restore makes the container's frame and comes to CRIU", "runc of the target"),
    known("claim", "the Handover is made", "API server"),
    known("fence", "the kubelet is kept from making containers of the pod", "disk of the source"),
    known("admit", "connections that have just begun are taken in, no others begin", "programs of the pod"),
    known("gate", "traffic of the pod is cut", "kernel (nftables)"),
    known("freeze", "every task of the pod stops", "kernel (cgroup freezer)"),
    known("dump", "the frozen processes are saved and sent", "CRIU of the source"),
    part(1, "dump", "criu-dump", "criu dump writes the images", "CRIU of the source"),
    part(1, "dump", "digest", "lengths and digests of the images are taken", "processor of the source"),
    part(1, "dump", "last-look", "memory that has changed since the last round is looked for", "kernel of the source"),
    part(1, "dump", "settle", "every page is found in exactly one place", "network, processor of the source"),
    part(1, "dump", "receipt", "the last bytes arrive and are acknowledged", "network, target's agent"),
    known("delta", "files that changed since are sent", "disk and network"),
    known("seal", "the pod's cgroup is frozen", "kernel (cgroup freezer)"),
    known("journal", "the decision is made durable", "disk"),
    known("offer", "everything is offered to the target", "target's agent"),
    part(1, "offer", "check", "lengths and digests of what arrived are compared", "processor of the target"),
    part(1, "offer", "restore", "the processes are made again, up to the gate", "runc and CRIU of the target"),
    part(2, "restore", "criu-restore", "CRIU makes the processes from the images, up to its hook", "CRIU of the target"),
    part(0, "offer", "held", "CRIU's hook holds at the gate: nothing has run", "the commit"),
    part(1, "offer", "verify", "the restored pod is compared with the frozen one", "kernel of the target"),
    part(1, "offer", "arbiter", "the Handover is read", "API server"),
    part(1, "offer", "commit", "the Handover is swapped: the target owns the pod", "API server"),
    part(1, "offer", "confirm", "the source says that it is still sealed", "source's agent"),
    part(2, "confirm", "sealed", "the source looks whether it is still sealed", "kernel of the source"),
    part(1, "offer", "open", "the gate opens, the processes run", "CRIU of the target"),
    part(2, "open", "resume", "CRIU is let go on and resumes the processes", "CRIU of the target"),
    known("thaw", "the pod runs on at the source", "kernel (cgroup freezer)"),
    known("live", "the target pod's readiness gate opens", "API server"),
    known("ready", "the target pod becomes Ready", "kubelet and probes of the target"),
    known("adopt", "labels and owner move to the target pod", "API server"),
    known("owner", "the owner lets the source go", "ReplicaSet controller"),
    known("delete-source", "the source pod's deletion is ordered", "API server"),
    known("retire", "the sealed processes end", "source's agent"),
    known("gone", "the source pod goes", "kubelet of the source"),
    known("forget", "both agents drop what they know", "both agents"),
    known("undo", "the target's agent drops what it prepared", "target's agent"),
    known("target-gone", "the target pod goes", "kubelet of the target"),
];

/// What the detail of a step `round` says: `2: 1048576 bytes changed, 1052672 bytes sent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// 1 for the first.
    pub number: u64,
    /// Bytes of memory that were there, or had changed since the last round.
    pub changed: u64,
    /// Bytes that were sent for it.
    pub sent: u64,
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} bytes changed, {} bytes sent", self.number, self.changed, self.sent)
    }
}

impl Round {
    /// Reads such a detail.
    #[must_use]
    pub fn read(detail: &str) -> Option<Self> {
        let (number, rest) = detail.split_once(": ")?;
        let (changed, sent) = rest.split_once(" bytes changed, ")?;
        Some(Self { number: number.parse().ok()?, changed: changed.parse().ok()?, sent: sent.strip_suffix(" bytes sent")?.parse().ok()? })
    }
}

/// What is known of the step of this name.
#[must_use]
pub fn of(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// How deep a step lies. What both agents do alike (`journal`) is a part where the target does it.
#[must_use]
pub fn level(name: &str, who: &str) -> usize {
    of(name).map_or(0, |known| known.level).max(usize::from(who == "target"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_stands_once() {
        for (index, known) in KNOWN.iter().enumerate() {
            assert!(KNOWN[index + 1..].iter().all(|other| other.name != known.name), "{}", known.name);
        }
        assert_eq!(of("commit").map(|known| known.waits_for), Some("API server"));
        assert!(KNOWN.iter().all(|known| known.within.is_empty() || of(known.within).is_some()));
    }

    #[test]
    fn a_round_is_read_as_it_was_written() {
        let round = Round { number: 2, changed: 1 << 20, sent: 1_052_672 };
        assert_eq!(round.to_string(), "2: 1048576 bytes changed, 1052672 bytes sent");
        assert_eq!(Round::read(&round.to_string()), Some(round));
        assert_eq!(Round::read("main"), None);
    }
}
