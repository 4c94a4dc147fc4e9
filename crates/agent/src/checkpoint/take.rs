//! Makes a checkpoint. Whatever fails, the pod goes on and nothing stays in the store.
//!
//! ```text
//!   look: blockers, room ─▶ files packed (running) ─▶ journal ─▶ frozen ─▶ gate shut ─▶ dump ‖ what changed is packed ─▶ gate open, thawed
//!                                                                └───────── all containers at one instant ──────────┘
//!   ─▶ images copied into the store, with digests ─▶ index ─▶ rename
//! ```
//! Inside the freeze everything goes to tmpfs: the store may be slow. Connections stay: nothing enters or leaves the pod meanwhile, so that no byte is
//! acknowledged that the images do not have.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use godwit_network::Gate;
use godwit_node::{
    cgroup::Cgroup,
    cri::Runtime,
    volumes::{self, Changes, Side},
};
use godwit_rpc::v1::{Checkpoint, CheckpointMade, Failure, StoredContainer};
use tokio::io::AsyncWriteExt;

use super::{
    cipher::Vault,
    grip::{self, Entry},
    index::{self, Index, Stored},
    job::Job,
    passage::Passage,
    place::{Place, Shelf},
    store::{self, Part},
};
use crate::{
    clock::Notes,
    convert,
    failure::{failure, internal},
    import::{self, archived::Archived},
    inspect::{self, Pod},
    node::Node,
    packing::Packing,
    source::{dump::Dump, filled::await_filled, grip::Grip, pod::cgroup_on_node},
};

/// What must stay free on /run beside the images, in bytes.
const SPARE: u64 = 64 << 20;

/// Makes it, encrypted if there is a vault, unless it is there already.
///
/// # Errors
/// Why not.
pub async fn take(
    node: &Arc<Node>,
    checkpoint: &Checkpoint,
    pod_uid: &str,
    shelf: &Shelf,
    vault: Option<Vault>,
    job: &Job<CheckpointMade>,
) -> Result<CheckpointMade, Failure> {
    let place = Place::open(node, shelf, &checkpoint.uid)?;
    let inspected = inspect::inspect(&node.host, &node.cri, pod_uid).await?;
    // A previous call may have made it without anybody hearing so.
    if let Some((index, digest)) = place.known(checkpoint, vault.as_ref()).await? {
        return Ok(made(place.path(checkpoint), &index, digest, inspected.node, inspected.warnings));
    }
    if let Some(blocker) = inspected.blockers.into_iter().next() {
        return Err(blocker);
    }
    let images = inspected.resident_bytes;
    place.store.room(images.saturating_add(inspected.files_bytes.saturating_mul(2)))?;
    room_on_run(node, images)?;
    godwit_fault::point("agent.checkpoint.begin").await.map_err(|error| internal("stopped", error))?;
    let part = place.store.begin(checkpoint)?;
    job.step("files");
    let mut pod = Subject::prepare(node, checkpoint, pod_uid, vault).await?;
    pod.pack_running(part.path()).await?;
    job.step("freeze");
    pod.freeze_and_dump(node, checkpoint).await?;
    job.step("store");
    godwit_fault::point("agent.checkpoint.store").await.map_err(|error| internal("stopped", error))?;
    let (index, digest) = pod.store(node, checkpoint, part).await?;
    place.keep(checkpoint, &index).await?;
    tracing::info!(checkpoint = checkpoint.name, namespace = checkpoint.namespace, freeze_ms = index.freeze_ms, bytes = index.bytes(), "checkpoint made");
    Ok(made(place.path(checkpoint), &index, digest, inspected.node, inspected.warnings))
}

fn made(path: String, index: &Index, digest: String, node: Option<godwit_rpc::v1::NodeFacts>, warnings: Vec<String>) -> CheckpointMade {
    CheckpointMade {
        path,
        digest,
        bytes: index.bytes(),
        files: index.files.len() as u64,
        freeze_ms: index.freeze_ms,
        containers: index
            .containers
            .iter()
            .map(|container| StoredContainer {
                name: container.name.clone(),
                processes: container.processes,
                bytes: index.bytes_below(&index::images_of(&container.name)),
            })
            .collect(),
        node,
        warnings,
        importable: index.containers.iter().all(|container| container.archived.is_some()),
    }
}

fn room_on_run(node: &Node, bytes: u64) -> Result<(), Failure> {
    let stat = rustix::fs::statvfs(node.host.path("/run")).map_err(|error| internal("cannot look at /run", error))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < bytes.saturating_add(SPARE) {
        return Err(failure(
            "NoRoomForImages",
            format!("the pod's memory needs {} MiB on this node's /run, which has {} MiB free", bytes.saturating_add(SPARE) >> 20, free >> 20),
            "enlarge the tmpfs at /run, or move the pod to a node with more memory first",
        ));
    }
    Ok(())
}

/// One directory of the pod, and what is packed of it.
struct Packed {
    directory: volumes::Directory,
    mapped: BTreeSet<PathBuf>,
    index: volumes::Index,
    described: index::Directory,
}

/// The pod that is kept.
struct Subject {
    pod: Pod,
    cgroups: Vec<Cgroup>,
    grip: Grip,
    dumps: Vec<Dump>,
    packed: Vec<Packed>,
    /// What is in the store or goes there.
    files: BTreeMap<String, Stored>,
    /// Where images and changes are until then, as the node names it.
    base: PathBuf,
    containers: Vec<index::Container>,
    freeze_ms: u32,
    /// What everything is encrypted with on its way into the store.
    vault: Option<Vault>,
    /// What the container runtime must know that is to make it by itself, if it may come to that.
    archived: Option<Archived>,
}

impl Subject {
    /// Everything that can be known while it runs. Touches nothing of it.
    async fn prepare(node: &Arc<Node>, checkpoint: &Checkpoint, pod_uid: &str, vault: Option<Vault>) -> Result<Self, Failure> {
        let pod = Pod::find(&node.cri, pod_uid).await?;
        await_filled(&node.host, &pod.containers).await?;
        let image = image_to_import(node, &pod).await;
        let (node, base) = (node.clone(), grip::images_of(&checkpoint.uid));
        tokio::task::spawn_blocking(move || {
            let host = &node.host;
            let archived = image.zip(pod.containers.first()).and_then(|(image, container)| Archived::of(container, &image).ok());
            let cgroups = pod.cgroups(host)?;
            let grip = Grip::of(host, &pod)?;
            let mut dumps = Vec::new();
            for (container, cgroup) in pod.containers.iter().zip(&cgroups) {
                dumps.push(Dump::prepare(host, container, &cgroup_on_node(cgroup), &base)?);
            }
            let directories =
                volumes::directories(host, Side::Source, &pod.sandbox.uid, &pod.sandbox, &pod.containers).map_err(|error| convert::finding(error.finding()))?;
            let pids: Vec<(String, Vec<i32>)> =
                pod.containers.iter().zip(&cgroups).map(|(container, cgroup)| (container.name.clone(), cgroup.pids().unwrap_or_default())).collect();
            let packed = directories
                .into_iter()
                .map(|directory| {
                    let described =
                        index::Directory { kind: directory.kind.to_string(), container: directory.container.clone(), ..index::Directory::default() };
                    Packed { mapped: volumes::mapped(&directory, &pids), index: volumes::Index::empty(), directory, described }
                })
                .collect();
            Ok(Self { pod, cgroups, grip, dumps, packed, files: BTreeMap::new(), base, containers: Vec::new(), freeze_ms: 0, vault, archived })
        })
        .await
        .map_err(|error| internal("preparing ended early", error))?
    }

    /// Packs all files into the store while the pod runs.
    async fn pack_running(&mut self, part: &Path) -> Result<(), Failure> {
        make_private(&part.join("files"))?;
        for (number, packed) in self.packed.iter_mut().enumerate() {
            let changes = packed.look().await?;
            packed.described.removed.clone_from(&changes.removed);
            if !changes.changed.is_empty() {
                let name = index::archive(number);
                let passage = Passage::into_store(self.vault.as_ref(), &name).map_err(|error| store::unwritten(&error))?;
                let stored = pack(&packed.directory, &changes, &part.join(&name), passage).await?;
                self.files.insert(name, stored);
            }
        }
        Ok(())
    }

    /// All containers at one instant, by CRIUs that were started before. The pod goes on when this returns, however it ends.
    async fn freeze_and_dump(&mut self, node: &Arc<Node>, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let entry = Entry { uid: checkpoint.uid.clone(), grip: self.grip.clone() };
        // CRIU is started, and waits, before anything stands still; what is not let go ends with its `Dump`.
        self.dumps.iter().try_for_each(|dump| dump.begin(&node.host, &self.pod.sandbox, false, self.archived.is_some()))?;
        for dump in &self.dumps {
            dump.waits(&node.host).await?;
        }
        entry.write(node)?;
        let began = Instant::now();
        let dumped = self.dump(node).await;
        entry.let_go(node).await;
        self.freeze_ms = u32::try_from(began.elapsed().as_millis()).unwrap_or(u32::MAX);
        dumped
    }

    async fn dump(&mut self, node: &Arc<Node>) -> Result<(), Failure> {
        let (grip, here) = (self.grip.clone(), node.clone());
        let cgroups = self.cgroups.clone();
        let (shapes, counts) = tokio::task::spawn_blocking(move || {
            grip.freeze()?;
            let shapes = grip.shapes()?;
            grip.gate(&here.host)?.last(Gate::shut).map_err(|error| internal("cannot shut the traffic gate", error))?;
            let counts: Vec<(u32, u64)> = cgroups
                .iter()
                .map(|cgroup| {
                    let pids = cgroup.pids().unwrap_or_default();
                    (u32::try_from(pids.len()).unwrap_or(u32::MAX), godwit_memory::footprint(&pids).rss)
                })
                .collect();
            Ok::<_, Failure>((shapes, counts))
        })
        .await
        .map_err(|error| internal("freezing ended early", error))??;
        godwit_fault::point("agent.checkpoint.frozen").await.map_err(|error| internal("stopped", error))?;
        let (host, notes) = (&node.host, Notes::default());
        let dumps = futures::future::join_all(self.dumps.iter().map(|dump| dump.run(host, &notes)));
        let later = host.path(self.base.join(LATER));
        let (packed, files) = (&mut self.packed, &mut self.files);
        let packing = async {
            make_private(&later)?;
            for (number, packed) in packed.iter_mut().enumerate() {
                let changes = packed.look().await?;
                packed.described.removed_later.clone_from(&changes.removed);
                if !changes.changed.is_empty() {
                    // To tmpfs, as memory: it is encrypted when it goes into the store.
                    let name = index::changes(number);
                    let stored = pack(&packed.directory, &changes, &later.join(number.to_string()), Passage::out_of_store(None, &name)).await?;
                    files.insert(name, stored);
                }
            }
            Ok::<(), Failure>(())
        };
        // Both to their ends: CRIU is never left alone with its hand in the processes.
        let (dumped, packed) = tokio::join!(dumps, packing);
        dumped.into_iter().collect::<Result<Vec<()>, Failure>>()?;
        packed?;
        for (((dump, (name, shape)), (processes, resident)), _) in self.dumps.iter().zip(shapes).zip(counts).zip(&self.pod.containers) {
            let json = |text: &[u8]| serde_json::from_slice(text).map_err(|error| internal("the container cannot be described", error));
            self.containers.push(index::Container {
                name,
                descriptors: dump.descriptors.clone(),
                externals: json(&dump.externals())?,
                shape: json(&shape)?,
                processes,
                resident,
                archived: self.archived.as_ref().and_then(|archived| serde_json::to_value(archived).ok()),
            });
        }
        Ok(())
    }

    /// Brings everything into the store and gives it its name.
    async fn store(mut self, node: &Arc<Node>, checkpoint: &Checkpoint, part: Part) -> Result<(Index, String), Failure> {
        let (node, uid) = (node.clone(), checkpoint.uid.clone());
        tokio::task::spawn_blocking(move || {
            let notes = Notes::default();
            let into_store = |source: &Path, name: &str| {
                let passage = Passage::into_store(self.vault.as_ref(), name);
                passage.and_then(|passage| index::copy(source, &part.path().join(name), passage)).map_err(|error| store::unwritten(&error))
            };
            for dump in &self.dumps {
                dump.seal(&node.host, &notes)?;
                let images = node.host.path(&dump.images);
                make_private(&part.path().join(&dump.name))?;
                make_private(&part.path().join(index::images_of(&dump.name)))?;
                for entry in std::fs::read_dir(&images).map_err(|error| store::unwritten(&error))? {
                    let entry = entry.map_err(|error| store::unwritten(&error))?;
                    let name = format!("{}{}", index::images_of(&dump.name), entry.file_name().to_string_lossy());
                    let passed = into_store(&entry.path(), &name)?;
                    self.files.insert(name, passed.went);
                }
            }
            let later = node.host.path(self.base.join(LATER));
            for number in 0..self.packed.len() {
                let name = index::changes(number);
                if let Some(known) = self.files.get_mut(&name) {
                    let passed = into_store(&later.join(number.to_string()), &name)?;
                    if passed.came != *known {
                        return Err(internal("the checkpoint cannot be written", "an archive changed on its way"));
                    }
                    *known = passed.went;
                }
            }
            let index = Index {
                format: index::FORMAT,
                uid,
                ips: self.pod.sandbox.ips.iter().map(ToString::to_string).collect(),
                hostname: self.pod.sandbox.hostname.clone(),
                containers: self.containers,
                directories: self.packed.into_iter().map(|packed| packed.described).collect(),
                freeze_ms: self.freeze_ms,
                files: self.files,
            };
            let digest = part.finish(&index, self.vault.as_ref()).map_err(|error| store::unwritten(&error))?;
            Ok((index, digest))
        })
        .await
        .map_err(|error| internal("storing ended early", error))?
    }
}

/// The id of the image of a pod's only container, if a runtime may come to make a pod of the checkpoint. Else CRIU would look at the pod from another network namespace for nothing,
/// which takes it longer.
async fn image_to_import(node: &Node, pod: &Pod) -> Option<String> {
    let [container] = pod.containers.as_slice() else { return None };
    if !node.may_import || !import::takes(node.cri.kind(), container.runtime == Runtime::Crun) {
        return None;
    }
    node.cri.image_id(&container.image_ref).await.ok()?
}

/// Folder of the archives that are made in the freeze; no container can have this name.
const LATER: &str = ".files";

impl Packed {
    /// What has changed since the last look.
    async fn look(&mut self) -> Result<Changes, Failure> {
        let (directory, mapped) = (self.directory.clone(), self.mapped.clone());
        let now = tokio::task::spawn_blocking(move || volumes::Index::read(&directory, mapped))
            .await
            .map_err(|error| internal("cannot list the pod's files", error))?
            .map_err(|error| internal(&format!("cannot list the pod's files ({})", self.directory.kind), error))?;
        let changes = now.changes(&self.index);
        self.index = now;
        Ok(changes)
    }
}

/// Packs into a new file that nobody else can read; it is on disk when this returns.
async fn pack(directory: &volumes::Directory, changes: &Changes, path: &Path, mut passage: Passage) -> Result<Stored, Failure> {
    let file = index::private(path).map_err(|error| store::unwritten(&error))?;
    let mut file = tokio::fs::File::from_std(file);
    let mut packing = Packing::of(directory, changes)?;
    let mut out = Vec::new();
    while let Some(piece) = packing.next().await? {
        let piece = passage.take(piece, &mut out).map_err(|error| store::unwritten(&error))?;
        file.write_all(piece).await.map_err(|error| store::unwritten(&error))?;
    }
    packing.end().await?;
    let passed = passage.end(&mut out).map_err(|error| store::unwritten(&error))?;
    file.write_all(&out).await.map_err(|error| store::unwritten(&error))?;
    file.flush().await.map_err(|error| store::unwritten(&error))?;
    file.sync_all().await.map_err(|error| store::unwritten(&error))?;
    Ok(passed.went)
}

fn make_private(directory: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| store::unwritten(&error))
}
