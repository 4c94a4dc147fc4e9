//! The grip on a source pod that survives the agent: what is needed to freeze, seal, thaw or end it, also after a restart of the agent. It goes into the journal.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use godwit_migration::handover::SealFacts;
use godwit_network::{addresses, gate::Gate, sockets};
use godwit_node::{
    cgroup::{self, Cgroup},
    facts,
    host::Host,
    log,
    process::{self, Shape},
};
use godwit_rpc::v1::Failure;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{fence, init::Init};
use crate::{
    convert,
    failure::{failure, internal},
    inspect::Pod,
};

/// How long tasks may take to freeze.
const FREEZING: Duration = Duration::from_secs(5);
/// How long killed tasks may take to go.
const KILLING: Duration = Duration::from_secs(20);

/// One container as it was when the switch began.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Held {
    name: String,
    init: Init,
    cgroup: Cgroup,
    /// As in [`Shape`].
    #[serde(default)]
    silence_ms: Option<u64>,
}

/// A pod as it was when the switch began.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Grip {
    boot_id: String,
    uid: String,
    containers: Vec<Held>,
    pod_cgroup: Cgroup,
    /// Cgroups below the pod's: of its containers, its sandbox and its monitors.
    known: Vec<String>,
    netns: PathBuf,
}

impl Grip {
    /// Takes hold of a running pod. Touches nothing.
    ///
    /// # Errors
    /// When a process has just ended, or the pod has no network of its own.
    pub fn of(host: &Host, pod: &Pod) -> Result<Self, Failure> {
        let cgroups = pod.cgroups(host)?;
        let pod_cgroup = cgroups.first().and_then(Cgroup::pod).ok_or_else(|| internal("cannot hold the pod", "its containers have no common cgroup"))?;
        let netns = match (&pod.sandbox.namespaces.net, pod.sandbox.host_network) {
            (Some(path), false) => path.clone(),
            _ => {
                return Err(failure("HostNetwork", "the pod uses its node's network", "pods with hostNetwork cannot be moved"));
            }
        };
        let mut containers = Vec::new();
        for (container, cgroup) in pod.containers.iter().zip(&cgroups) {
            let init = Init::of(container.pid).map_err(|error| internal("a process of the pod has just ended", error))?;
            let silence = log::silence(&host.path(&container.log_path), Timestamp::now());
            let silence_ms = silence.and_then(|silence| u64::try_from(silence.as_millis()).ok());
            containers.push(Held { name: container.name.clone(), init, cgroup: cgroup.clone(), silence_ms });
        }
        Ok(Self {
            boot_id: facts::boot_id().map_err(|error| internal("cannot read the boot id", error))?,
            uid: pod.sandbox.uid.clone(),
            containers,
            known: children(&pod_cgroup),
            pod_cgroup,
            netns,
        })
    }

    /// Whether the node has not been rebooted since.
    #[must_use]
    pub fn same_boot(&self) -> bool {
        facts::boot_id().is_ok_and(|now| now == self.boot_id)
    }

    fn cgroups(&self) -> Vec<Cgroup> {
        self.containers.iter().map(|held| held.cgroup.clone()).filter(Cgroup::exists).collect()
    }

    /// The cgroup of a container, if it is still there.
    #[must_use]
    pub fn cgroup_of(&self, container: &str) -> Option<&Cgroup> {
        self.containers.iter().find(|held| held.name == container).map(|held| &held.cgroup).filter(|cgroup| cgroup.exists())
    }

    /// Whether the pod is frozen as a whole. Somebody who comes into one of its cgroups from outside, and is frozen only then, is no matter.
    #[must_use]
    pub fn stands_still(&self) -> bool {
        self.pod_cgroup.frozen().unwrap_or(false) || self.cgroups().iter().all(|cgroup| cgroup.frozen().unwrap_or(false))
    }

    /// The traffic gate of the pod.
    ///
    /// # Errors
    /// When the network namespace is gone.
    pub fn gate(&self, host: &Host) -> Result<Gate, Failure> {
        Gate::new(&host.path(&self.netns), &self.uid).map_err(|error| internal("cannot reach the pod's network", error))
    }

    /// Ends all connections of a pod that has moved away without them. Their peers hear it from where they look for the pod: the network may not let the target speak for an
    /// address of this node.
    ///
    /// # Errors
    /// When the network namespace is gone, or the kernel cannot end sockets.
    pub fn end_connections(&self, host: &Host) -> Result<(), Failure> {
        let netns = host.path(&self.netns);
        let cannot = |error| internal("cannot end the connections of the old pod", error);
        self.gate(host)?.last(Gate::part).map_err(cannot)?;
        for (_, ip) in addresses::list(&netns).map_err(cannot)?.into_iter().filter(|(_, ip)| !ip.is_loopback()) {
            let ended = sockets::destroy(&netns, ip).map_err(cannot)?;
            tracing::debug!(pod = self.uid, %ip, connections = ended.established, "connections of the old pod are ended");
        }
        Ok(())
    }

    /// The pod's network namespace, as the node names it.
    #[must_use]
    pub fn netns(&self) -> &std::path::Path {
        &self.netns
    }

    /// UID of the pod.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Keeps the kubelet from creating any container of this pod, also after a reboot.
    pub fn fence(&self, host: &Host) {
        if let Err(error) = fence::raise(host, &self.uid) {
            tracing::warn!(%error, pod = self.uid, "no fence: a reboot of this node during the switch may bring the pod back afresh");
        }
    }

    /// Takes the fence away.
    ///
    /// # Errors
    /// When the kubelet's directory of the pod cannot be changed.
    pub fn unfence(&self, host: &Host) -> Result<(), Failure> {
        fence::lower(host, &self.uid).map_err(|error| internal("cannot take the fence away", error))
    }

    /// Freezes all containers at one instant.
    ///
    /// # Errors
    /// When a task cannot be frozen, or a container has ended; everything is thawed again.
    pub fn freeze(&self) -> Result<(), Failure> {
        let cgroups = self.cgroups();
        cgroup::freeze_all(&cgroups, Instant::now() + FREEZING).map_err(|error| convert::finding(error.finding()))?;
        if let Some(gone) = self.died() {
            self.thaw()?;
            return Err(failure("ContainerEnded", format!("container {gone} ended before it was frozen"), "wait until the pod runs again"));
        }
        Ok(())
    }

    /// What the frozen containers consist of, for the comparison after the restore: name and JSON of each.
    ///
    /// # Errors
    /// When a process list cannot be read.
    pub fn shapes(&self) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        self.containers
            .iter()
            .map(|held| {
                let tree = process::tree(&held.cgroup).map_err(|error| internal("cannot list processes", error))?;
                let shape = Shape { silence_ms: held.silence_ms, ..Shape::of(held.init.pid(), &tree) };
                let shape = serde_json::to_vec(&shape).map_err(|error| internal("cannot describe the processes", error))?;
                Ok((held.name.clone(), shape))
            })
            .collect()
    }

    /// Freezes the whole pod's cgroup, so that whatever the kubelet may start in it does not run.
    ///
    /// # Errors
    /// When it does not freeze.
    pub fn seal(&self) -> Result<(), Failure> {
        let pod = &self.pod_cgroup;
        if pod.exists() {
            cgroup::freeze_all(std::slice::from_ref(pod), Instant::now() + FREEZING).map_err(|error| convert::finding(error.finding()))?;
        }
        Ok(())
    }

    /// What the source looks like at this moment.
    #[must_use]
    pub fn look(&self, host: &Host) -> SealFacts {
        let pod = &self.pod_cgroup;
        let same_boot = self.same_boot();
        SealFacts {
            same_boot,
            frozen: !pod.exists() || pod.frozen().unwrap_or(false) || pod.pids().is_ok_and(|pids| pids.is_empty()),
            fenced: fence::raised(host, &self.uid),
            died: self.died(),
            started: if same_boot { self.started(pod) } else { None },
        }
    }

    fn died(&self) -> Option<String> {
        self.containers.iter().find(|held| !held.init.lives()).map(|held| held.name.clone())
    }

    /// A cgroup below the pod's that was not there before and has a process in it.
    fn started(&self, pod: &Cgroup) -> Option<String> {
        children(pod)
            .into_iter()
            .find(|name| !self.known.contains(name) && std::fs::read_to_string(pod.path().join(name).join("cgroup.procs")).is_ok_and(|pids| !pids.is_empty()))
    }

    /// Lets the pod run on.
    ///
    /// # Errors
    /// When a cgroup cannot be thawed.
    pub fn thaw(&self) -> Result<(), Failure> {
        // The pod's cgroup first: below a frozen parent a container's own thaw shows no effect.
        for cgroup in std::iter::once(self.pod_cgroup.clone()).chain(self.cgroups()) {
            if cgroup.exists() {
                cgroup.thaw().map_err(|error| convert::finding(error.finding()))?;
            }
        }
        Ok(())
    }

    /// Ends every process while it is sealed: none of them runs another instruction.
    ///
    /// # Errors
    /// When a process does not die.
    pub fn kill(&self) -> Result<(), Failure> {
        let end = Instant::now() + KILLING;
        for cgroup in self.cgroups() {
            cgroup.kill_all(end).map_err(|error| convert::finding(error.finding()))?;
        }
        self.thaw()?;
        for cgroup in self.cgroups() {
            cgroup.await_empty(end).map_err(|error| convert::finding(error.finding()))?;
        }
        Ok(())
    }
}

/// Names of the cgroups directly below this one.
fn children(cgroup: &Cgroup) -> Vec<String> {
    std::fs::read_dir(cgroup.path())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
