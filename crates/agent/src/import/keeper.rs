//! In the place of a keeper: the agent itself, at the pipe at which CRIU waits for its inventory.
//!
//! ```text
//!   CRIU opens the pipe ─▶ which container, which CRIU ─▶ as a keeper: Create, Keeper … Restore ─▶ Images … Go ─▶ the inventory into the pipe ─▶ CRIU ends: resumed, or failed
//!                                                                             └ Exit, Abort, or the agent ends ─▶ the pipe is closed ─▶ CRIU ends, nothing was restored
//! ```
//! The gate asks for itself ([`godwit_runtime::import`]).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, symlink},
    path::Path,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use godwit_api::names;
use godwit_criu::images;
use godwit_node::{
    cgroup::Cgroup,
    cri::{Container, State},
    process,
};
use godwit_rpc::v1::Failure;
use godwit_runtime::{
    import::{ID, PASSED, RESUMED},
    process::Process,
    protocol::{Reply, Request},
};

use super::{
    CONF, Import, LOG, Ordered, SCRATCH, Waiting, conf,
    guest::{Guest, Stand},
    leftovers,
};
use crate::{
    convert,
    failure::{failure, internal},
    node::Node,
    target::desk::Desk,
};

/// UID of the pod, in a container's folder.
pub const POD: &str = "pod";
/// CRIU, likewise.
pub const CRIU: &str = "criu";
/// Between two looks for CRIU.
const LOOK: Duration = Duration::from_millis(10);
/// Between two looks for an image that nobody pulls.
const ASK: Duration = Duration::from_secs(1);
/// Between two tries to lead it to its configuration.
const BETWEEN: Duration = Duration::from_millis(2);
/// How long CRIU may take to be seen at a pipe that it has opened.
const SEEN: Duration = Duration::from_secs(2);
/// How long the runtime may take to count a container as running whose processes run.
const TAKEN_ON: Duration = Duration::from_secs(20);
/// How much of CRIU's log is handed on, in bytes.
const LOG_END: usize = 16 << 10;
/// How much of it is put into the agent's own.
const LOG_TOLD: usize = 2 << 10;
/// How long a migration may take to hear how a restore ended; one that has been forgotten meanwhile hears nothing.
const TOLD: Duration = Duration::from_secs(60);

/// Everything about one container, until its restore has ended. `again`: after a restart of the agent, with the id of the container that was known then.
pub async fn keep(node: Arc<Node>, desk: Arc<Desk>, guest: Guest, import: Arc<Import>, name: String, again: Option<String>) {
    let Some(ordered) = import.container(&name) else { return };
    let keeper = Keeper { node: &node, desk: &desk, guest: &guest, import: &import, ordered };
    if let Some(id) = again {
        keeper.resume(&id).await;
    }
    loop {
        match guest.stand() {
            Stand::Open => {
                if let Err(why) = keeper.attempt().await {
                    tracing::warn!(container = name, reason = why.reason, message = why.message, "a container does not come by import");
                    guest.refuse(why);
                }
            }
            Stand::Over => break,
            // What was made for the attempt that counts stays until it is known how that ended.
            Stand::Counted => tokio::time::sleep(LOOK).await,
        }
    }
    if let Err(error) = node.cri.remove_image(&keeper.image()).await {
        tracing::warn!(container = name, cause = error.finding().message, "the checkpoint image stays until the kubelet clears images");
    }
    keeper.tidy().await;
}

struct Keeper<'a> {
    node: &'a Node,
    desk: &'a Desk,
    guest: &'a Guest,
    import: &'a Import,
    ordered: &'a Ordered,
}

impl Keeper<'_> {
    /// From the pipe to the end of CRIU.
    async fn attempt(&self) -> Result<(), Failure> {
        let host = &self.node.host;
        self.ordered.make(|path| host.path(path)).map_err(|error| internal("cannot make the folder of a restore", error))?;
        let pipe = host.path(&self.ordered.images).join(images::INVENTORY);
        let Some(hold) = self.opened(&pipe).await? else { return Ok(()) };
        let _ = fs::remove_file(&pipe);
        let Some(criu) = reader(&hold).await?.and_then(Process::of) else { return Ok(()) };
        let cgroup = Cgroup::of(host, criu.pid).map_err(|error| convert::finding(error.finding()))?;
        let container = self.container().await?.ok_or_else(|| {
            failure("TargetPodGone", format!("container {} of the target pod is gone", self.ordered.name), "look at the events of the target pod; try again")
        })?;
        self.show_log(&container);
        let id = container.id;
        self.note(POD, self.import.arrival.pod_uid.as_bytes())?;
        self.note(ID, id.as_bytes())?;
        self.note(CRIU, &serde_json::to_vec(&criu).unwrap_or_default())?;
        let (scratch, mounts) = (self.ordered.folder.join(SCRATCH), self.ordered.mounts.clone());
        self.desk.seat(&id).imports(Waiting { criu: criu.pid, scratch, mounts });
        if self.guest.create(&self.ordered.name, &id).await != Reply::Keep {
            drop(hold);
            self.desk.clear(&id);
            gone(criu).await;
            return Ok(());
        }
        let mut ordered = false;
        let released = tokio::select! {
            released = self.released(&id, &mut ordered) => released,
            () = gone(criu) => false,
        };
        // If it is not to be given, the pipe is closed.
        let given = released.then(|| self.give_inventory(hold)).transpose();
        gone(criu).await;
        if ordered {
            self.ended(&id, Some(cgroup).filter(|_| released)).await;
            given?;
        } else {
            self.desk.left(&Request::Keeper { container: id });
        }
        Ok(())
    }

    /// The pipe, once CRIU has opened it; none if the migration ends before. CRIU is led to it as soon as its container is made, which is some time before the runtime calls it; one
    /// that comes too early finds no inventory and fails, and the kubelet has another made.
    async fn opened(&self, pipe: &Path) -> Result<Option<File>, Failure> {
        let conf = self.ordered.folder.join(CONF);
        let (mut bundle, mut looked, mut asked) = (None, tokio::time::Instant::now(), tokio::time::Instant::now());
        while self.guest.stand() == Stand::Open {
            // fifo(7): such an open fails as long as nobody reads, also not one who waits for it to be opened.
            match OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(pipe) {
                Ok(file) => return Ok(Some(file)),
                Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => {}
                Err(error) => return Err(internal("the pipe at which CRIU is to wait", error)),
            }
            if let Some(why) = self.ordered.trouble.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Err(why);
            }
            if self.ordered.pulled.load(Ordering::Relaxed) && looked.elapsed() >= LOOK {
                looked = tokio::time::Instant::now();
                bundle = self.container().await.ok().flatten().map(|container| container.bundle);
            }
            // Of an attempt that a restart of the agent has cut off the kubelet has it on the node: it is not pulled once more.
            if !self.ordered.pulled.load(Ordering::Relaxed) && asked.elapsed() >= ASK {
                asked = tokio::time::Instant::now();
                if matches!(self.node.cri.image_id(&self.image()).await, Ok(Some(_)))
                    && let Err(why) = self.import.configure(self.node, self.ordered).await
                {
                    tracing::warn!(container = self.ordered.name, reason = why.reason, message = why.message, "CRIU cannot be led to its configuration yet");
                }
            }
            // containerd makes the bundle only when the container starts.
            if let Some(bundle) = &bundle
                && let Err(error) = conf::place(&self.node.host, bundle, &conf)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, bundle = %bundle.display(), "CRIU is not led to its configuration");
            }
            tokio::time::sleep(if bundle.is_some() { BETWEEN } else { LOOK }).await;
        }
        // The images come to where it is.
        let _ = fs::remove_file(pipe);
        Ok(None)
    }

    /// Its checkpoint image.
    fn image(&self) -> String {
        names::checkpoint_image(&self.import.arrival.uid, &self.ordered.name)
    }

    /// The newest container of that name.
    async fn container(&self) -> Result<Option<Container>, Failure> {
        let containers = self.node.cri.containers_of(&self.import.arrival.pod_uid).await.map_err(|error| convert::finding(error.finding()))?;
        Ok(containers.into_iter().find(|container| container.name == self.ordered.name))
    }

    /// CRI-O's import forgets which log the kubelet wants (server/container_restore.go hands no `LogPath` on) and writes beside it. `kubectl logs` asks CRI-O; whatever else reads logs
    /// looks where they always are.
    fn show_log(&self, container: &Container) {
        let Some((folder, name)) = container.log_path.parent().zip(container.log_path.file_name()) else { return };
        if folder.ends_with(&self.ordered.name) {
            return;
        }
        let wanted = self.node.host.path(folder).join(&self.ordered.name);
        let linked = fs::create_dir_all(&wanted).and_then(|()| symlink(Path::new("..").join(name), wanted.join("0.log")));
        if let Err(error) = linked
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            tracing::warn!(%error, container = container.id, "its log is not where logs are");
        }
    }

    /// Whether CRIU may read its images. `ordered`: it was told to wait for them, so that its end is to be told.
    async fn released(&self, id: &str, ordered: &mut bool) -> bool {
        let container = id.to_owned();
        let Reply::Restore { .. } = self.desk.answer(&Request::Keeper { container: container.clone() }).await else { return false };
        *ordered = true;
        self.desk.answer(&Request::Images { container }).await == Reply::Go
    }

    /// The inventory is small, and the pipe empty.
    fn give_inventory(&self, mut hold: File) -> Result<(), Failure> {
        let inventory = self.node.host.path(&self.ordered.images).join(images::INVENTORY);
        let given = fs::read(inventory).and_then(|bytes| hold.write_all(&bytes));
        given.map_err(|error| internal("CRIU did not take its inventory", error))
    }

    /// After a restart of the agent: a CRIU that still waited has ended with the pipe; one that has passed goes on.
    async fn resume(&self, id: &str) {
        if self.noted(ID).as_deref() != Some(id) {
            return;
        }
        if let Some(criu) = self.mark(CRIU) {
            gone(criu).await;
        }
        if self.guest.stand() == Stand::Open {
            self.desk.left(&Request::Keeper { container: id.to_owned() });
        } else {
            let cgroup = self.mark(PASSED).filter(Process::alive).and_then(|first| Cgroup::of(&self.node.host, first.pid).ok());
            self.ended(id, cgroup).await;
        }
    }

    /// CRIU has ended: says what became of the container. `cgroup` is where processes are that may have been restored; none if CRIU had nothing to restore.
    async fn ended(&self, id: &str, cgroup: Option<Cgroup>) {
        let container = || id.to_owned();
        if let Some(first) = self.mark(RESUMED) {
            self.tell(Request::Resumed { container: container(), init_pid: first.pid }).await;
            self.taken_on(id, first, cgroup).await;
            return;
        }
        let (log, passed) = (self.log(), self.mark(PASSED));
        let ran = (cgroup.is_some() || passed.is_some()) && may_have_run(&log);
        tracing::warn!(container = id, ran, log = end_of(&log, LOG_TOLD), "CRIU did not restore a container");
        if ran {
            // Nobody holds them: the runtime counts the restore as failed, and the kubelet will have it start others.
            self.end(id, cgroup).await;
        }
        if let Some(first) = passed.filter(|_| ran && matches!(self.guest, Guest::Migration(_))) {
            // This node owns the pod from here on: what may have run cannot go back to the source. A restore has just failed, and its pod goes.
            self.tell(Request::Resumed { container: container(), init_pid: first.pid }).await;
        }
        self.tell(Request::Restored { container: container(), code: if ran { 125 } else { 1 }, output: end_of(&log, LOG_END) }).await;
    }

    /// Tells the migration, if it still listens.
    async fn tell(&self, what: Request) {
        let _ = tokio::time::timeout(TOLD, self.desk.answer(&what)).await;
    }

    /// A runtime that has died meanwhile knows nothing of the processes, and the kubelet will have it start others beside them. While it says nothing nobody knows.
    async fn taken_on(&self, id: &str, first: Process, cgroup: Option<Cgroup>) {
        let cgroup = cgroup.or_else(|| Cgroup::of(&self.node.host, first.pid).ok());
        let mut end = tokio::time::Instant::now() + TAKEN_ON;
        while first.alive() && tokio::time::Instant::now() < end {
            match self.node.cri.container(id).await {
                Ok(Some(container)) if container.state == State::Running => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(cause = error.finding().message, "the runtime does not answer");
                    end = tokio::time::Instant::now() + TAKEN_ON;
                }
            }
            tokio::time::sleep(10 * LOOK).await;
        }
        if first.alive() {
            self.end(id, cgroup).await;
        }
    }

    /// Ends everything in a container that its runtime does not count as running. Returns when nothing of it is there.
    async fn end(&self, id: &str, cgroup: Option<Cgroup>) {
        let Some(cgroup) = cgroup else { return };
        tracing::error!(container = id, "the runtime does not know that the container runs; it is ended, so that none runs beside it");
        while cgroup.exists() {
            let cgroup = cgroup.clone();
            let limit = std::time::Instant::now() + TAKEN_ON;
            let ended = crate::task::spawn_blocking(move || cgroup.kill_all(limit).and_then(|_| cgroup.await_empty(limit)));
            match ended.await {
                Ok(Ok(())) => return,
                failed => tracing::error!(container = id, ?failed, "it cannot be ended yet"),
            }
            tokio::time::sleep(100 * LOOK).await;
        }
    }

    fn note(&self, name: &str, content: &[u8]) -> Result<(), Failure> {
        let path = self.node.host.path(&self.ordered.folder).join(name);
        godwit_runtime::layout::write_atomically(&path, content).map_err(|error| internal("cannot write into the folder of a restore", error))
    }

    fn noted(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.node.host.path(&self.ordered.folder).join(name)).ok()
    }

    fn mark(&self, name: &str) -> Option<Process> {
        leftovers::mark(&self.node.host.path(&self.ordered.folder), name)
    }

    /// CRIU's log: it stands in a configuration of ours how much CRIU writes.
    fn log(&self) -> String {
        let bytes = fs::read(self.node.host.path(&self.ordered.folder).join(LOG)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Takes the folder away, with what is mounted in it.
    async fn tidy(&self) {
        let (host, folder) = (self.node.host.clone(), self.ordered.folder.clone());
        let removed = crate::task::spawn_blocking(move || leftovers::remove(&host, &folder)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "the folder of a restore stays");
        }
    }
}

/// Whether processes may have run, of a restore that passed the gate and did not tell that they do. CRIU writes of each stage before it comes to it, and of a failure when it has
/// killed everything (criu/cr-restore.c, `restore_root_task`).
fn may_have_run(log: &str) -> bool {
    log.contains("Running pre-resume scripts") || !log.contains("Restoring FAILED")
}

/// The last so many bytes of a text.
fn end_of(text: &str, bytes: usize) -> String {
    String::from_utf8_lossy(&text.as_bytes()[text.len().saturating_sub(bytes)..]).into_owned()
}

/// The process that reads a pipe.
async fn reader(pipe: &File) -> Result<Option<i32>, Failure> {
    let own = pipe.metadata().map_err(|error| internal("the pipe at which CRIU waits", error))?;
    let file = (own.dev(), own.ino());
    let end = tokio::time::Instant::now() + SEEN;
    while tokio::time::Instant::now() < end {
        let found = crate::task::spawn_blocking(move || holder(file)).await.map_err(|error| internal("looking for CRIU", error))?;
        if found.is_some() {
            return Ok(found);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(None)
}

/// A CRIU that has this file open.
fn holder(file: (u64, u64)) -> Option<i32> {
    process::named(Path::new("/proc"), "criu").into_iter().find(|pid| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::metadata(entry.path()).ok()).any(|there| (there.dev(), there.ino()) == file)
    })
}

/// Until a process has ended.
async fn gone(process: Process) {
    while process.alive() {
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_before_the_last_stage_proves_that_nothing_ran() {
        assert!(!may_have_run("Running post-restore scripts\nError (criu/cr-restore.c:1): Restoring FAILED.\n"));
        assert!(may_have_run("Running pre-resume scripts\nRestoring FAILED.\n"));
        assert!(may_have_run("Running post-restore scripts\n"));
    }
}
