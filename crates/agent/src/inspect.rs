//! Planning on the source node: what is in the pod and what of it could not be moved. Touches nothing.

use std::collections::BTreeSet;

use godwit_memory::tracker::Tracking;
use godwit_node::{
    blockers,
    cgroup::Cgroup,
    cri::{self, Container, Runtime, Sandbox, State},
    facts,
    host::Host,
    process,
    volumes::{self, Index, Side},
};
use godwit_rpc::v1::{self, AssessReply, AssessRequest, Failure, InspectReply};

use crate::{
    convert,
    failure::{failure, internal},
    import::archived::Archived,
    source, wishes,
};

/// So many of the other ends of connections are named.
const PEERS: usize = 16;
/// Bytes that a pod may take beyond what was seen of it.
const SPARE: u64 = 64 << 20;

/// A pod as its runtime knows it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its sandbox.
    pub sandbox: Sandbox,
    /// Its running containers.
    pub containers: Vec<Container>,
}

impl Pod {
    /// Looks the pod up.
    ///
    /// # Errors
    /// When the runtime does not answer, or the pod has no running container.
    pub async fn find(client: &cri::Client, uid: &str) -> Result<Self, Failure> {
        let sandbox = client
            .sandbox_of(uid)
            .await
            .map_err(|error| convert::finding(error.finding()))?
            .ok_or_else(|| failure("PodNotRunning", format!("this node's runtime has no sandbox of the pod with UID {uid}"), "wait until the pod runs"))?;
        let mut containers = client.containers_of(uid).await.map_err(|error| convert::finding(error.finding()))?;
        containers.retain(|container| container.state == State::Running);
        if containers.is_empty() {
            return Err(failure("PodNotRunning", format!("no container of {}/{} runs", sandbox.namespace, sandbox.name), "wait until the pod runs"));
        }
        Ok(Self { sandbox, containers })
    }

    /// The cgroup of each container, in the order of the containers.
    ///
    /// # Errors
    /// When a container has just ended.
    pub fn cgroups(&self, host: &Host) -> Result<Vec<Cgroup>, Failure> {
        self.containers.iter().map(|container| Cgroup::of(host, container.pid).map_err(|error| convert::finding(error.finding()))).collect()
    }
}

/// Answers `Inspect`.
///
/// # Errors
/// When the pod is not here or cannot be looked at.
pub async fn inspect(host: &Host, client: &cri::Client, uid: &str) -> Result<InspectReply, Failure> {
    let pod = Pod::find(client, uid).await?;
    let node = convert::facts(facts::gather(host).await);
    let mut ids = Vec::new();
    for container in &pod.containers {
        // Without it the pod can still come by the handler.
        ids.push(client.image_id(&container.image_ref).await.ok().flatten().unwrap_or_default());
    }
    let host = host.clone();
    tokio::task::spawn_blocking(move || look(&host, &pod, &ids, node)).await.map_err(|error| internal("the inspection ended early", error))?
}

fn look(host: &Host, pod: &Pod, image_ids: &[String], node: v1::NodeFacts) -> Result<InspectReply, Failure> {
    let found = blockers::inspect(&blockers::Subject { host, sandbox: &pod.sandbox, containers: &pod.containers });
    let mut reply = InspectReply {
        blockers: found.blockers.into_iter().map(convert::finding).collect(),
        warnings: found.warnings,
        node: Some(node),
        ..InspectReply::default()
    };
    reply.blockers.extend(wishes::of(&pod.sandbox).err());
    let (mut pids, mut too_much) = (Vec::new(), None);
    for ((container, image_id), cgroup) in pod.containers.iter().zip(image_ids).zip(pod.cgroups(host)?) {
        let processes = process::tree(&cgroup).map_err(|error| internal("cannot list processes", error))?;
        reply.processes += u32::try_from(processes.len()).unwrap_or(u32::MAX);
        reply.fds += processes.iter().map(|process| u32::try_from(process.fds.len()).unwrap_or(u32::MAX)).sum::<u32>();
        let own: Vec<i32> = processes.iter().map(|process| process.pid).collect();
        too_much = too_much.or_else(|| shares_too_much(&container.name, &own, cgroup.memory_limit()?));
        pids.extend(own);
        let runtime = match &container.runtime {
            Runtime::Runc => "runc".to_owned(),
            Runtime::Crun => "crun".to_owned(),
            Runtime::Other(name) => {
                reply.blockers.push(failure(
                    "RuntimeNotSupported",
                    format!("container {} runs under {name}", container.name),
                    "only containers of runc and crun can be moved",
                ));
                name.clone()
            }
        };
        reply.containers.push(v1::Container {
            name: container.name.clone(),
            id: container.id.clone(),
            runtime,
            restart_count: container.attempt,
            image_ref: container.image_ref.clone(),
            archived: archived(container, image_id),
        });
    }
    let memory = godwit_memory::footprint(&pids);
    (reply.resident_bytes, reply.private_bytes) = (memory.rss, memory.anon);
    // Locked memory is restored before the commit, like everything that no pager fills.
    reply.filled_bytes = memory.anon.saturating_sub(memory.locked);
    reply.forked_bytes = memory.anon_each.saturating_sub(memory.anon);
    reply.guards = pids.iter().any(|pid| has_guards(*pid));
    match tracking(&pids) {
        Ok(why) => (reply.digests, reply.stop_and_copy) = (why.unwrap_or_default(), too_much.unwrap_or_default()),
        Err(why) => reply.stop_and_copy = why,
    }
    if let Some(first) = pod.containers.first() {
        let connections = process::connections(first.pid).map_err(|error| internal("cannot list connections", error))?;
        reply.connections = u32::try_from(connections.outside.len()).unwrap_or(u32::MAX);
        reply.peers = connections.outside.iter().map(|connection| connection.remote.to_string()).take(PEERS).collect();
    }
    for directory in
        volumes::directories(host, Side::Source, &pod.sandbox.uid, &pod.sandbox, &pod.containers).map_err(|error| convert::finding(error.finding()))?
    {
        reply.files_bytes += Index::read(&directory, BTreeSet::new()).map_err(|error| internal("cannot list the pod's files", error))?.bytes();
    }
    Ok(reply)
}

/// What an import by the target's runtime would have to know. Of a container that cannot be moved there is nothing; why, is among the blockers or told by the switch.
fn archived(container: &Container, image_id: &str) -> Vec<u8> {
    let known = Some(image_id).filter(|id| !id.is_empty());
    known.and_then(|id| Archived::of(container, id).ok()).and_then(|archived| serde_json::to_vec(&archived).ok()).unwrap_or_default()
}

/// What forked processes share is each process's own where a pager has filled it: that may be more than the container may have.
fn shares_too_much(name: &str, pids: &[i32], limit: u64) -> Option<String> {
    let memory = godwit_memory::footprint(pids);
    (memory.anon_each > memory.anon && memory.anon_each > source::memory::usable(limit)).then(|| {
        format!("the processes of container {name} share {} MiB and would exceed its memory limit if each had its own", (memory.anon_each - memory.anon) >> 20)
    })
}

/// Whether a process has guard regions. One that has just ended has none.
fn has_guards(pid: i32) -> bool {
    let (Ok(support), Ok(maps)) = (godwit_memory::scan::Support::probe(), godwit_memory::maps::of(pid)) else { return false };
    support.has_guards(pid, &maps).unwrap_or(false)
}

/// Why the changes of some process have to be told by digests, if they have; or why the memory of these processes cannot travel while they run at all.
fn tracking(pids: &[i32]) -> Result<Option<String>, String> {
    // One that has just ended has no mappings.
    let processes = pids.iter().filter_map(|pid| Some((*pid, godwit_memory::maps::of(*pid).ok()?)));
    let ways: Vec<_> = processes.map(|(pid, maps)| Tracking::of(pid, &maps)).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    Ok(ways.into_iter().find_map(|(_, why)| why))
}

/// Answers `Assess`: could this node take it? `live`: it has the runtime handler, without which CRIU reads all memory out of images.
pub async fn assess(host: &Host, live: bool, request: &AssessRequest) -> AssessReply {
    let facts = facts::gather(host).await;
    let mut reply = AssessReply::default();
    let need = request.bytes.saturating_add(SPARE);
    let both = both(need, if live { request.filled } else { 0 });
    if facts.run_free < need {
        reply.blockers.push(failure(
            "NoRoomForImages",
            format!("the pod needs {} MiB on the target's /run, which has {} MiB free", need >> 20, facts.run_free >> 20),
            "choose a node with more memory, or enlarge the tmpfs at /run",
        ));
    }
    if facts.memory_available < both {
        reply.blockers.push(failure(
            "NotEnoughMemory",
            format!("images and restored pod need {} MiB on the target, which has {} MiB available", both >> 20, facts.memory_available >> 20),
            "choose a node with more memory",
        ));
    }
    reply.node = Some(convert::facts(facts));
    reply
}

/// Bytes that images and the restored pod take at the most: what fills it page by page is in one of the two places.
fn both(need: u64, filled: u64) -> u64 {
    need.saturating_mul(2).saturating_sub(filled.min(need))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_for_what_fills_the_pod_is_needed_once() {
        assert_eq!([both(10, 0), both(10, 8), both(10, 10), both(10, 11)], [20, 12, 10, 10]);
    }
}
