//! The target pod's hands: everything that is done to its keepers, images and network on the way from "keepers wait" to "runs". Decides nothing.
//!
//! ```text
//!   open: descriptors, tmpfs, old address on lo, keepers told ─▶ stand-ins wait
//!   verify_images, images_go: stand-ins told ─▶ all containers at the gate
//!   verify: what was restored against the frozen source and the images ─▶ commit
//!   end_connections, open_gate | abort
//! ```

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use godwit_criu::{Which, descriptors, explain, images, mounts::External, restore};
use godwit_network::{addresses, sockets};
use godwit_node::{
    cgroup::{self, Cgroup, Version},
    cri,
    host::Host,
    process::{self, Shape},
    volumes::{self, Directory, Side},
};
use godwit_rpc::v1::{ContainerShape, Failure, OpenRequest, SourceContainer};
use godwit_runtime::protocol::CONTAINERS;

use super::{
    compare::Expected,
    desk::{Desk, KeeperOrder, Seat, Seen, Verdict},
    pages::Pages,
    voices::Voice,
};
use crate::{
    convert,
    failure::{failure, internal},
    wishes,
};

/// Where images live on the node: tmpfs, never a disk.
pub const IMAGES: &str = "/run/godwit/images";
/// How long keepers may take to start their restores and arrive at the stand-in.
const STARTING: Duration = Duration::from_secs(60);
/// Differences that are told; of many the first say enough.
const TOLD: usize = 10;

/// One container that is to be restored.
struct Slot {
    name: String,
    id: String,
    seat: Arc<Seat>,
    images: PathBuf,
    container: cri::Container,
    /// The container's cgroup, as its keeper was put into it. Not known after a restart of the agent.
    cgroup: OnceLock<Cgroup>,
    /// What its images say. The same.
    expected: OnceLock<Expected>,
}

impl Slot {
    /// What it consisted of at the source.
    fn shape(&self, expected: &[ContainerShape]) -> Option<Shape> {
        let own = expected.iter().find(|container| container.name == self.name)?;
        serde_json::from_slice(&own.shape).ok()
    }
}

/// The target pod at hand.
pub struct TargetPod {
    host: Host,
    client: cri::Client,
    sandbox: cri::Sandbox,
    slots: Vec<Slot>,
    /// What of the pod's files can be received.
    pub directories: Vec<Directory>,
    /// Addresses of the source pod that end with the move.
    ending: Vec<IpAddr>,
}

impl TargetPod {
    /// Finds the pod and the keepers (name and container id) in the node's runtime.
    ///
    /// # Errors
    /// When the runtime does not know them (any more).
    pub async fn find(
        host: &Host,
        client: &cri::Client,
        desk: &Desk,
        source_uid: &str,
        pod_uid: &str,
        keepers: &[(String, String)],
        ending: Vec<IpAddr>,
    ) -> Result<Self, Failure> {
        let sandbox = client
            .sandbox_of(pod_uid)
            .await
            .map_err(|error| convert::finding(error.finding()))?
            .ok_or_else(|| failure("TargetPodGone", "the target pod has no sandbox any more", "look at the events of the target pod; try again"))?;
        let containers = client.containers_of(pod_uid).await.map_err(|error| convert::finding(error.finding()))?;
        let directories = volumes::directories(host, Side::Target, pod_uid, &sandbox, &containers).map_err(|error| convert::finding(error.finding()))?;
        let mut slots = Vec::new();
        for (name, id) in keepers {
            let mut container = containers.iter().find(|container| &container.id == id).cloned().ok_or_else(|| {
                failure("TargetPodGone", format!("container {name} of the target pod is gone"), "look at the events of the target pod; try again")
            })?;
            let seat = desk.seat(id);
            if let Some(waiting) = seat.import() {
                // The runtime has no process of it yet.
                container.pid = waiting.criu;
            }
            let images = images_of(source_uid).join(name);
            let (cgroup, expected) = (OnceLock::new(), OnceLock::new());
            slots.push(Slot { name: name.clone(), id: id.clone(), seat, images, container, cgroup, expected });
        }
        let ending = ending.into_iter().filter(|ip| !sandbox.ips.contains(ip)).collect();
        Ok(Self { host: host.clone(), client: client.clone(), sandbox, slots, directories, ending })
    }

    /// Where the images of a container are to be written, as the agent opens it.
    #[must_use]
    pub fn images_of(&self, container: &str) -> Option<PathBuf> {
        self.slots.iter().find(|slot| slot.name == container).map(|slot| self.host.path(&slot.images))
    }

    /// Lets every keeper start `runc restore`, which stops before it reads an image. Returns when all stand there.
    ///
    /// # Errors
    /// When a mount of the source has no counterpart here, or a keeper cannot start.
    pub async fn open(&self, request: &OpenRequest, pages: &Pages) -> Result<(), Failure> {
        let netns = self.host.path(self.netns()?);
        for ip in &self.ending {
            addresses::add_temporary(&netns, *ip).map_err(|error| internal("cannot put the old address into the new pod", error))?;
        }
        for slot in &self.slots {
            let source = request.containers.iter().find(|container| container.name == slot.name).ok_or_else(|| {
                failure("ContainerMissing", format!("the source has no running container {}", slot.name), "migrate when all containers of the pod run")
            })?;
            let order = self.order(slot, source, pages).await?;
            slot.seat.order(|orders| orders.keeper = Some(order));
        }
        tokio::time::timeout(STARTING, self.all(|seen| seen.images))
            .await
            .map_err(|_| failure("KeeperStuck", "a keeper did not start its restore in time", "look at the runtime's log on the target node; try again"))?
    }

    async fn order(&self, slot: &Slot, source: &SourceContainer, pages: &Pages) -> Result<KeeperOrder, Failure> {
        let externals: Vec<External> = serde_json::from_slice(&source.externals).map_err(|error| internal("the source's list of mounts is damaged", error))?;
        let import = slot.seat.import();
        let scratch = import.map_or_else(|| Path::new(CONTAINERS).join(&slot.id).join("scratch"), |waiting| waiting.scratch.clone());
        let cgroup = Cgroup::of(&self.host, slot.container.pid).map_err(|error| convert::finding(error.finding()))?;
        let _ = slot.cgroup.set(cgroup.clone());
        let mut prepared = restore::prepare(
            &externals,
            &restore::Target {
                spec: &slot.container.spec.raw,
                scratch: &scratch,
                cgroups: Path::new("/sys/fs/cgroup"),
                cgroup: cgroup.name(),
                v2: cgroup.version() == Version::V2,
            },
        )
        .map_err(|problem| convert::criu_failure(&problem.failure(), &slot.name))?;
        if import.is_some_and(|waiting| prepared.lines[restore::LINES.len()..] != waiting.mounts) {
            return Err(failure("MountsChanged", format!("the mounts of container {} have changed since the plan was made", slot.name), "try again"));
        }
        prepared.lines.extend(restore::label(&slot.container.spec.raw));
        prepared.lines.extend_from_slice(wishes::of(&self.sandbox)?.restore());
        super::mounts::make(&self.host, &prepared).await.map_err(|error| internal("cannot prepare the container's tmpfs mounts", error))?;
        let images = self.host.path(&slot.images);
        std::fs::create_dir_all(&images).map_err(|error| internal("cannot make room for the images", error))?;
        descriptors::write(&images, &source.descriptors).map_err(|error| internal("cannot write descriptors.json", error))?;
        // What has travelled fills the processes while they run.
        let store = pages.fills(&slot.name).then(|| super::pages::store_of(&slot.images));
        Ok(KeeperOrder::Restore { images: slot.images.clone(), criu: prepared.lines, store })
    }

    /// Checks that the images are whole (CRIU spins for ever on a short pages file), puts right what CRIU would not, and puts the memory that had travelled before below them.
    ///
    /// # Errors
    /// What is wrong with which image.
    pub async fn verify_images(&self, pages: &Arc<Pages>) -> Result<(), Failure> {
        for slot in &self.slots {
            let (directory, name, pages) = (self.host.path(&slot.images), slot.name.clone(), pages.clone());
            let summary = crate::task::spawn_blocking(move || {
                let whole = |summary| images::rearm(&directory).map(|_| summary);
                let summary = images::verify(&directory).and_then(whole).map_err(|problem| convert::criu_failure(&problem.failure(), &name))?;
                pages.link(&name, &directory)?;
                Ok::<_, Failure>(summary)
            })
            .await
            .map_err(|error| internal("the images could not be checked", error))??;
            let mut expected = Expected::of(summary);
            if godwit_fault::point("agent.target.expected").await.is_err() {
                expected.expect_too_much();
            }
            let _ = slot.expected.set(expected);
        }
        Ok(())
    }

    /// Lets CRIU read the images.
    pub fn images_go(&self) {
        for slot in &self.slots {
            slot.seat.order(|orders| orders.images = Some(Verdict::Go));
        }
    }

    /// Compares what was restored with what was frozen, and with the images.
    ///
    /// # Errors
    /// What is missing or different.
    pub async fn verify(&self, expected: &[ContainerShape]) -> Result<(), Failure> {
        self.still_wanted().await?;
        for slot in &self.slots {
            let pid = slot.seat.watch().borrow().gate.unwrap_or_default();
            let shape = slot.shape(expected).ok_or_else(|| internal("the source did not say what to expect", &slot.name))?;
            let cgroup = Cgroup::of(&self.host, pid).map_err(|error| convert::finding(error.finding()))?;
            let restored = process::tree(&cgroup).map_err(|error| internal("cannot list the restored processes", error))?;
            let mut differences = shape.missing_in(&Shape::of(pid, &restored));
            let members = process::descendants(pid, &restored);
            differences.extend(self.strays(slot, &members)?);
            if let Some(expected) = slot.expected.get() {
                differences.extend(expected.differences(&members, &self.host.path(self.netns()?)));
            }
            if !differences.is_empty() {
                let more = differences.len().saturating_sub(TOLD);
                differences.truncate(TOLD);
                let more = if more == 0 { String::new() } else { format!("; and {more} more") };
                return Err(failure(
                    "RestoreIncomplete",
                    format!("container {}: the restored container is not what was frozen: {}{more}", slot.name, differences.join("; ")),
                    "this is a fault of CRIU or Godwit: keep restore.log and report it",
                ));
            }
        }
        Ok(())
    }

    /// A kubelet waits for its runtime for so long only (`runtimeRequestTimeout`); then it has another container made, and that would run beside the one that comes.
    async fn still_wanted(&self) -> Result<(), Failure> {
        if self.slots.iter().all(|slot| slot.seat.import().is_none()) {
            return Ok(());
        }
        let newest = self.client.newest_of(&self.sandbox.uid).await.map_err(|error| convert::finding(error.finding()))?;
        match self.slots.iter().find(|slot| newest.get(&slot.name) != Some(&slot.id)) {
            None => Ok(()),
            Some(slot) => Err(failure(
                "KubeletGaveUp",
                format!("the kubelet has given up waiting for container {} and had another one made", slot.name),
                "let less travel (files of the pod), give the kubelet a longer runtimeRequestTimeout, or use engine: Live",
            )),
        }
    }

    /// The containers whose logs were written to steadily before.
    #[must_use]
    pub fn voices(&self, expected: &[ContainerShape]) -> Vec<Voice> {
        let voice = |slot: &Slot| {
            let before = Duration::from_millis(slot.shape(expected)?.silence_ms?);
            Some(Voice { container: slot.name.clone(), log: self.host.path(&slot.container.log_path), before })
        };
        self.slots.iter().filter_map(voice).collect()
    }

    /// Processes that the kubelet would kill, because they are not in their container's cgroup, or would charge to another pod.
    fn strays(&self, slot: &Slot, members: &[&process::Process]) -> Result<Vec<String>, Failure> {
        let Some(own) = slot.cgroup.get() else { return Ok(Vec::new()) };
        let pids: Vec<i32> = members.iter().map(|process| process.pid).collect();
        let strays = cgroup::elsewhere(&self.host, &pids, own).map_err(|error| internal("cannot look at the cgroups of the restored processes", error))?;
        let who = |pid: i32| members.iter().find(|process| process.pid == pid).map_or((0, ""), |process| (process.nspid, process.comm.as_str()));
        let told = strays.into_iter().map(|(pid, line)| {
            let (nspid, comm) = who(pid);
            format!("process {nspid} ({comm}) is in cgroup {line}, not in {}", own.name().display())
        });
        Ok(told.collect())
    }

    /// Ends the connections that cannot live on here, and takes their addresses away. Only after the commit: their peers hear of it, and until then the pod
    /// may go on at the source with them.
    ///
    /// # Errors
    /// The pod's network cannot be reached, or the kernel cannot end sockets.
    pub fn end_connections(&self) -> Result<(), Failure> {
        let netns = self.host.path(self.netns()?);
        for ip in &self.ending {
            let end = || sockets::destroy(&netns, *ip).map_err(|error| internal("cannot end the old connections", error));
            let destroyed = end()?;
            addresses::remove(&netns, *ip).map_err(|error| internal("cannot take the old address away", error))?;
            // Twice: a listener that stands restored accepts what comes meanwhile, though its process does not run yet. The first time, while the address
            // is there, is the one of which the peers hear.
            end()?;
            tracing::info!(%ip, connections = destroyed.established, "the old address and its connections are ended");
        }
        Ok(())
    }

    /// Lets the processes run.
    pub fn open_gate(&self) {
        for slot in &self.slots {
            slot.seat.order(|orders| orders.gate = Some(Verdict::Go));
        }
    }

    /// Waits until CRIU has restored all containers: nothing has run.
    ///
    /// # Errors
    /// Why one was not restored.
    pub async fn at_gate(&self) -> Result<(), Failure> {
        self.all(|seen| seen.gate.is_some()).await
    }

    /// Waits until all containers run.
    ///
    /// # Errors
    /// Why one does not.
    pub async fn resumed(&self) -> Result<(), Failure> {
        self.all(|seen| seen.resumed.is_some()).await
    }

    /// Names of the containers, and the containers.
    pub fn containers(&self) -> impl Iterator<Item = (&str, &cri::Container)> {
        self.slots.iter().map(|slot| (slot.name.as_str(), &slot.container))
    }

    /// Waits until all containers have reached a point, or one has failed.
    async fn all(&self, reached: impl Fn(&Seen) -> bool + Copy) -> Result<(), Failure> {
        futures::future::try_join_all(self.slots.iter().map(|slot| async move {
            let mut seen = slot.seat.watch();
            let outcome = seen.wait_for(|seen| reached(seen) || seen.restored.as_ref().is_some_and(|(code, _)| *code != 0)).await;
            match outcome {
                Ok(seen) => match &seen.restored {
                    Some((code, output)) if !reached(&seen) => Err(restore_failure(&slot.name, *code, output)),
                    _ => Ok(()),
                },
                Err(_) => Err(internal("container", "its keeper was forgotten")),
            }
        }))
        .await
        .map(|_| ())
    }

    /// The pod's network namespace, as the node names it.
    ///
    /// # Errors
    /// When it has none of its own.
    pub fn netns(&self) -> Result<&Path, Failure> {
        self.sandbox
            .namespaces
            .net
            .as_deref()
            .ok_or_else(|| failure("NoNetworkNamespace", "the target pod has no network namespace of its own", "pods with hostNetwork cannot be moved"))
    }
}

/// Where everything of a migration lives until it runs, as the node names it.
#[must_use]
pub fn images_of(source_uid: &str) -> PathBuf {
    Path::new(IMAGES).join(source_uid)
}

/// Frees the images of a migration.
pub fn tidy(host: &Host, source_uid: &str) {
    let images = images_of(source_uid);
    if let Err(error) = std::fs::remove_dir_all(host.path(&images))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, images = %images.display(), "cannot free the images");
    }
}

/// Fails the restore of one container; nothing of it has run and nothing will.
pub fn abort(seat: &Seat, why: &str) {
    seat.order(|orders| {
        orders.images = Some(Verdict::Abort(why.to_owned()));
        orders.gate = Some(Verdict::Abort(why.to_owned()));
        orders.keeper = Some(KeeperOrder::Exit(125));
    });
}

/// Why `runc restore` failed, in plain words.
#[must_use]
pub fn restore_failure(container: &str, code: i32, output: &str) -> Failure {
    let mut failure = convert::criu_failure(&explain(output, Which::Restore), container);
    if failure.reason.is_empty() {
        failure.reason = "RestoreFailed".into();
    }
    failure.message = format!("{} (runc restore ended with {code})", failure.message);
    failure
}
