//! The source pod's hands: what is looked at, dumped and sent. Decides nothing; what must survive the agent is in [`Grip`].
//!
//! ```text
//!   prepare ─▶ copy files (running) ─▶ begin dumps ─▶ open ─▶ [frozen by the grip] ─▶ dump ‖ stream ‖ copy files that changed
//! ```

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use godwit_node::{
    cgroup::{self, Cgroup},
    cri, facts,
    host::Host,
    volumes::{self, Side},
};
use godwit_rpc::v1::{Anchored, FileChunk, Migration, OpenRequest, Receipt, SourceContainer, handoff_client::HandoffClient};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{
    dump::Dump,
    files::Travelling,
    grip::Grip,
    memory::veil_of,
    need::Need,
    stream,
    travel::{Lateness, Travel},
};
use crate::{
    clock::{Notes, Timer},
    convert,
    failure::{failure, internal},
    inspect::Pod,
};

type Failure = godwit_rpc::v1::Failure;

/// Where images are written on their way: tmpfs, never a disk.
pub const IMAGES: &str = "/run/godwit/out";
/// The source pod at hand.
pub struct SourcePod {
    host: Host,
    pod: Pod,
    dumps: Vec<Dump>,
    travelling: Mutex<Vec<Travelling>>,
    /// Its memory, while it travels.
    pub memory: Travel,
    /// What survives the agent.
    pub grip: Grip,
    /// Bytes sent.
    pub sent: Arc<AtomicU64>,
    /// Bytes expected.
    pub total: u64,
    /// The parts of the dump, for the timeline.
    pub notes: Notes,
    need: Need,
}

impl SourcePod {
    /// Finds the pod and prepares everything that can be known while it runs. Touches nothing.
    ///
    /// # Errors
    /// When the pod is not here, has changed since planning, or cannot be dumped.
    pub async fn prepare(host: &Host, client: &cri::Client, uid: &str) -> Result<Self, Failure> {
        let pod = Pod::find(client, uid).await?;
        super::filled::await_filled(host, &pod.containers).await?;
        let host = host.clone();
        let base = images_of(uid);
        crate::task::spawn_blocking(move || {
            let cgroups = pod.cgroups(&host)?;
            let grip = Grip::of(&host, &pod)?;
            let mut dumps = Vec::new();
            for (container, cgroup) in pod.containers.iter().zip(&cgroups) {
                dumps.push(Dump::prepare(&host, container, &cgroup_on_node(cgroup), &base)?);
            }
            let directories = volumes::directories(&host, Side::Source, &pod.sandbox.uid, &pod.sandbox, &pod.containers)
                .map_err(|error| convert::finding(error.finding()))?;
            let pids: Vec<(String, Vec<i32>)> =
                pod.containers.iter().zip(&cgroups).map(|(container, cgroup)| (container.name.clone(), cgroup.pids().unwrap_or_default())).collect();
            let all: Vec<i32> = pids.iter().flat_map(|(_, pids)| pids.iter().copied()).collect();
            let total = godwit_memory::footprint(&all).rss;
            let travelling = directories.into_iter().map(|directory| {
                let mapped = volumes::mapped(&directory, &pids);
                Travelling::new(directory, mapped)
            });
            let travelling = Mutex::new(travelling.collect());
            let containers = pod.containers.iter().map(|container| container.name.clone()).zip(cgroups).collect();
            let sent = Arc::<AtomicU64>::default();
            let memory = Travel::new(containers, sent.clone());
            Ok(Self { travelling, sent, host: host.clone(), memory, pod, dumps, grip, total, notes: Notes::default(), need: Need::default() })
        })
        .await
        .map_err(|error| internal("preparing ended early", error))?
    }

    /// Lets the target start its restores, which then wait for images.
    ///
    /// # Errors
    /// What the target lacks.
    pub async fn open(
        &self,
        client: &mut HandoffClient<Channel>,
        migration: &Migration,
        anchors: Vec<Anchored>,
        kept: &[IpAddr],
        bandwidth: u64,
    ) -> Result<(), Failure> {
        let mut request = OpenRequest {
            migration: Some(migration.clone()),
            boot_id: facts::boot_id().map_err(|error| internal("cannot read the boot id", error))?,
            source_ips: self.pod.sandbox.ips.iter().chain(kept).map(ToString::to_string).collect(),
            anchors,
            containers: Vec::new(),
            bandwidth,
        };
        for (container, dump) in self.pod.containers.iter().zip(&self.dumps) {
            request.containers.push(SourceContainer {
                name: container.name.clone(),
                id: container.id.clone(),
                restart_count: container.attempt,
                descriptors: dump.descriptors.clone(),
                hostname: self.pod.sandbox.hostname.clone(),
                externals: dump.externals(),
            });
        }
        let reply = client.open(request).await.map_err(|status| unreachable(&status))?.into_inner();
        if !reply.fetches {
            self.memory.hurry();
        }
        reply.failure.map_or(Ok(()), Err)
    }

    /// An address of the interface whose addresses an anchor keeps.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        let ips = &self.pod.sandbox.ips;
        ips.iter().find(|ip| ip.is_ipv4()).or(ips.first()).copied()
    }

    /// Sends the pod's files, or what changed of them since the last call.
    ///
    /// # Errors
    /// When one cannot be read or the target does not take it.
    pub async fn copy_files(&self, client: &HandoffClient<Channel>, migration: &Migration) -> Result<(), Failure> {
        let (sent, mut travelling) = (self.sent.clone(), self.travelling.lock().await);
        let all = travelling.iter_mut().map(|travelling| {
            let (mut client, sent) = (client.clone(), sent.clone());
            async move {
                let bytes = travelling.send(&mut client, migration).await?;
                sent.fetch_add(bytes, Ordering::Relaxed);
                Ok::<(), Failure>(())
            }
        });
        self.need.of(futures::future::try_join_all(all)).await.map(|_| ())
    }

    /// From here on nothing that is on its way is waited for: the pod, which stands still, is to go on as soon as CRIU has let go of it.
    pub fn take_back(&self) {
        self.need.end(internal("nothing more is sent", "the migration is taken back"));
    }

    /// Starts the dumps of all containers, which wait until [`SourcePod::dump`]. `import`: the target's container runtime restores them.
    ///
    /// # Errors
    /// When CRIU cannot be started.
    pub fn begin_dumps(&self, import: bool) -> Result<(), Failure> {
        let veiled = self.memory.travels();
        self.dumps.iter().try_for_each(|dump| dump.begin(&self.host, &self.pod.sandbox, veiled, import))
    }

    /// Returns when all of them wait.
    ///
    /// # Errors
    /// Why one does not.
    pub async fn dumps_wait(&self) -> Result<(), Failure> {
        for dump in &self.dumps {
            dump.waits(&self.host).await?;
        }
        Ok(())
    }

    /// Dumps all containers at once, each image sent while it is written.
    ///
    /// # Errors
    /// What could not be dumped or sent.
    pub async fn dump(&self, client: &HandoffClient<Channel>, migration: &Migration) -> Result<(), Failure> {
        let works = self.dumps.iter().map(|dump| (dump.name.clone(), self.host.path(&dump.work))).collect();
        let timer = Timer::start(super::session::ROLE, "last-look");
        if !self.memory.freeze(works).await {
            self.unveil()?;
            return self.dump_all(client, migration, None).await;
        }
        self.notes.push(timer.stop());
        let (told, late) = watch::channel(None);
        let pages = async {
            let sending = async {
                self.memory.send_late(migration, &told).await;
                Ok(())
            };
            if let Err(why) = self.need.of(sending).await {
                told.send_replace(Some(Err(why)));
            }
        };
        let (dumped, ()) = tokio::join!(self.dump_all(client, migration, Some(late)), pages);
        dumped
    }

    /// CRIU writes everything: nothing may be hidden from it, by a last look that ended early either; and it reads what the mappings are from the kernel, which joins some of them
    /// when they are not tracked any more.
    fn unveil(&self) -> Result<(), Failure> {
        let veils = |dump: &Dump| {
            let table = veil_of(&self.host.path(&dump.work));
            let name = table.file_name().unwrap_or_default().as_encoded_bytes().to_owned();
            for entry in std::fs::read_dir(table.parent().unwrap_or(&table))? {
                let entry = entry?;
                if entry.file_name().as_encoded_bytes().starts_with(&name) {
                    std::fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        self.dumps.iter().try_for_each(veils).map_err(|error: std::io::Error| internal("cannot take the veil away", error))
    }

    /// Ends what [`SourcePod::begin_dumps`] started and [`SourcePod::dump`] has not let go.
    pub fn end_dumps(&self) {
        self.dumps.iter().for_each(Dump::end);
    }

    /// Every dump is awaited to its end, also when another one fails: CRIU is never left alone with its hand in the processes.
    async fn dump_all(&self, client: &HandoffClient<Channel>, migration: &Migration, late: Option<Lateness>) -> Result<(), Failure> {
        let all = self.dumps.iter().map(|dump| self.dump_one(dump, client.clone(), migration, late.clone()));
        futures::future::join_all(all).await.into_iter().collect()
    }

    async fn dump_one(&self, dump: &Dump, mut client: HandoffClient<Channel>, migration: &Migration, late: Option<Lateness>) -> Result<(), Failure> {
        let (out, chunks) = mpsc::channel::<FileChunk>(16);
        let (finish, finished) = watch::channel(false);
        let directory = self.host.path(&dump.images);
        let head = stream::head(migration, &dump.name, "images");
        let sent = self.sent.clone();
        let reading = crate::task::spawn_blocking(move || {
            let count = |bytes| {
                sent.fetch_add(bytes, Ordering::Relaxed);
            };
            stream::follow(&directory, &head, &out, &finished, &[godwit_criu::descriptors::FILE], &count)
        });
        let call = crate::task::spawn(async move { client.files(ReceiverStream::new(chunks)).await });
        let sending = call.abort_handle();
        let dumped = async {
            dump.run(&self.host, &self.notes).await?;
            if let Some(late) = late {
                let timer = Timer::start(super::session::ROLE, "settle").about(&dump.name);
                self.memory.settle(late, dump.name.clone(), self.host.path(&dump.images)).await?;
                self.notes.push(timer.stop());
            }
            dump.seal(&self.host, &self.notes)
        }
        .await;
        let timer = Timer::start(super::session::ROLE, "receipt").about(&dump.name);
        if dumped.is_err() {
            // What was sent of a dump that failed is of no use.
            sending.abort();
        }
        finish.send_replace(true);
        let arriving = async {
            let read = reading.await.map_err(|error| internal("reading the images ended early", error))?;
            dumped?;
            let receipt: Receipt =
                call.await.map_err(|error| internal("sending the images ended early", error))?.map_err(|status| unreachable(&status))?.into_inner();
            if let Some(refusal) = receipt.failure {
                return Err(refusal);
            }
            let sent = read.map_err(|error| internal("cannot read the images", error))?;
            if (sent.files, sent.bytes) != (receipt.files, receipt.bytes) {
                return Err(failure(
                    "TransferDamaged",
                    format!(
                        "{} images with {} bytes were sent for container {}, {} with {} arrived",
                        sent.files, sent.bytes, dump.name, receipt.files, receipt.bytes
                    ),
                    "try again; look for a fault in the network between the nodes",
                ));
            }
            Ok(())
        };
        let arrived = self.need.of(arriving).await;
        // It has ended, or is of no use any more.
        sending.abort();
        arrived?;
        self.notes.push(timer.stop());
        Ok(())
    }
}

/// Where the images of a pod are on their way, as the node names it.
#[must_use]
pub fn images_of(uid: &str) -> PathBuf {
    Path::new(IMAGES).join(uid)
}

/// The cgroup's directory as CRIU will see it in the node's mount namespace.
#[must_use]
pub fn cgroup_on_node(cgroup: &Cgroup) -> PathBuf {
    match cgroup.version() {
        cgroup::Version::V1 => Path::new("/sys/fs/cgroup/freezer").join(cgroup.name().strip_prefix("/").unwrap_or(cgroup.name())),
        cgroup::Version::V2 => Path::new("/sys/fs/cgroup").join(cgroup.name().strip_prefix("/").unwrap_or(cgroup.name())),
    }
}

/// The other agent did not answer.
fn unreachable(status: &tonic::Status) -> Failure {
    failure(
        "TargetUnreachable",
        format!("the target's agent did not answer: {}", status.message()),
        "look at the agent on the target node and at the network between the nodes",
    )
}
