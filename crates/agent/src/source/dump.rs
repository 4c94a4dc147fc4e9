//! Dumps one frozen container with the node's CRIU, and says in plain words why not when CRIU refuses.
//!
//! ```text
//!   begin (running)   criu: loads, looks at the kernel ─▶ tells of its first stage, and waits
//!   run   (frozen)    the hold lets go ─────────────────▶ criu looks at the tasks for the first time, and dumps them
//!   dropped instead   criu's socket ends ───────────────▶ criu ends, no task was touched
//! ```

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use godwit_criu::{Which, descriptors, dump, explain, images, shield};
use godwit_node::{
    cri::{Container, Sandbox},
    host::Host,
};
use godwit_rpc::v1::Failure;
use godwit_trace::Source;
use tokio::process::Child;

use super::{
    hold::{self, Hold, State},
    memory::veil_of,
};
use crate::{
    clock::{Notes, Timer},
    failure::{failure, internal},
    install, trace, wishes,
};

/// After this a dump has hung and CRIU is killed: the one case in which that is done, because a killed CRIU may leave its code in the processes.
const HARD_LIMIT: Duration = Duration::from_secs(120);

/// So long CRIU may take to load and to look at the kernel; usually it is a tenth of a second.
const LOADING: Duration = Duration::from_secs(20);
/// Name of the link to the images in CRIU's work directory.
const IMAGES: &str = "images";

/// Everything about the dump of one container that can be known before the freeze.
pub struct Dump {
    /// The container's name in its pod.
    pub name: String,
    /// What fds 0, 1, 2 of the init process are.
    pub descriptors: Vec<String>,
    /// Where the images go, as the node names it (tmpfs).
    pub images: PathBuf,
    /// Where CRIU works, as the node names it (tmpfs).
    pub work: PathBuf,
    plan: dump::Plan,
    /// CRIU, started and held.
    held: Mutex<Option<(Child, Hold)>>,
}

impl Dump {
    /// Looks at the running container; touches nothing but its own empty directories below `base` (a node path on tmpfs).
    ///
    /// # Errors
    /// When the container's mounts cannot be carried, named in the failure.
    pub fn prepare(host: &Host, container: &Container, freezer: &Path, base: &Path) -> Result<Self, Failure> {
        let plan =
            dump::Plan::of(&dump::Source { spec: &container.spec.raw, pid: container.pid, proc: Path::new("/proc"), freezer, rootfs: &container.rootfs })
                .map_err(|problem| crate::convert::criu_failure(&problem.failure(), &container.name))?;
        let images = base.join(&container.name).join("images");
        let work = base.join(&container.name).join("work");
        for directory in [&images, &work] {
            let there = host.path(directory);
            let _ = std::fs::remove_dir_all(&there);
            std::fs::create_dir_all(&there).map_err(|error| internal("cannot make room for the images", error))?;
        }
        let descriptors = descriptors::of(Path::new("/proc"), container.pid).map_err(|error| internal("cannot look at the init process", error))?;
        // The target needs this file before the dump and writes its own; here it is for the manifest.
        descriptors::write(&host.path(&images), &descriptors).map_err(|error| internal("cannot write descriptors.json", error))?;
        std::os::unix::fs::symlink(&images, host.path(work.join(IMAGES))).map_err(|error| internal("cannot make room for the images", error))?;
        Ok(Self { name: container.name.clone(), images, descriptors, work, plan, held: Mutex::default() })
    }

    /// What the target must provide, as JSON.
    #[must_use]
    pub fn externals(&self) -> Vec<u8> {
        serde_json::to_vec(&self.plan.externals).unwrap_or_default()
    }

    /// Starts `criu dump` before the freeze: it loads, looks at the kernel, and waits. `veiled` if memory is travelling. `import` if the target's container runtime restores: its
    /// CRIU begins in the node's network namespace, so this one must see that of the pod as another, under the name that the runtimes have for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(&self, host: &Host, sandbox: &Sandbox, veiled: bool, import: bool) -> Result<(), Failure> {
        let (hold, socket) = Hold::ask(self.plan.pid(), &self.work.join(IMAGES)).map_err(|error| internal("cannot hold criu", error))?;
        // In a cgroup of its own: when this agent's container ends, CRIU must not end with it (a killed CRIU leaves its code in the processes).
        let mut namespaces = sandbox.namespaces.clone();
        let apart = namespaces.net.take_if(|_| import).map(|net| dump::external_net(&host.path(net))).transpose();
        let apart = apart.map_err(|error| internal("cannot look at the pod's network namespace", error))?;
        let wishes = wishes::of(sandbox)?;
        let mut words = vec!["criu".to_owned()];
        words.extend(hold::WORDS.map(str::to_owned));
        words.extend(self.plan.options(&self.work));
        words.extend(apart.into_iter().flatten());
        words.extend(wishes.dump().iter().cloned());
        let words = shield::command(&words);
        let mut command = host.command_in_pod(&namespaces, &words[0], &words[1..]).map_err(|error| internal("cannot start criu", error))?;
        if veiled {
            command.env("LD_PRELOAD", install::VEIL_ON_NODE).env(godwit_veil::VARIABLE, veil_of(&self.work));
        }
        command.stdin(socket).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let criu = command.spawn().map_err(|error| internal("cannot start criu", error))?;
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some((criu, hold));
        Ok(())
    }

    /// Returns when the CRIU that was started waits to be let go.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn waits(&self, host: &Host) -> Result<(), Failure> {
        let end = Instant::now() + LOADING;
        loop {
            let state = match &*self.held.lock().unwrap_or_else(PoisonError::into_inner) {
                Some((_, hold)) => hold.state().map_err(|error| internal("cannot hear criu", error))?,
                None => State::Waiting,
            };
            match state {
                State::Waiting => return Ok(()),
                State::Ended => return Err(self.explained(host)),
                State::Starting if Instant::now() > end => return Err(internal("cannot dump", "criu was started, and does not begin")),
                State::Starting => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }

    /// What CRIU could not do and what to do, by its log.
    fn explained(&self, host: &Host) -> Failure {
        let log = std::fs::read_to_string(host.path(self.work.join("dump.log"))).unwrap_or_default();
        crate::convert::criu_failure(&explain(&log, Which::Dump), &self.name)
    }

    /// Ends a `criu dump` that waits.
    pub fn end(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Lets the `criu dump` that waits do its work. The tasks are frozen before and stay frozen.
    ///
    /// # Errors
    /// What CRIU could not dump and what to do.
    pub async fn run(&self, host: &Host, notes: &Notes) -> Result<(), Failure> {
        let timer = Timer::start(super::session::ROLE, "criu-dump").about(&self.name);
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (mut criu, hold) = held.ok_or_else(|| internal("cannot dump", "criu was not started"))?;
        let log = host.path(self.work.join("dump.log"));
        // The name of the pod is in the path.
        let _log = trace::criu::follow(move || vec![(log.clone(), Source::Criu)], &self.work.to_string_lossy());
        // Until CRIU has ended; whether it could be answered is seen by how that was. A thread that an agent which ends does not wait for.
        std::thread::Builder::new().name("hold".into()).spawn(move || hold.go()).map_err(|error| internal("cannot let criu begin", error))?;
        let status = match tokio::time::timeout(HARD_LIMIT, criu.wait()).await {
            Ok(status) => status.map_err(|error| internal("cannot wait for criu", error))?,
            Err(_) => {
                let _ = criu.kill().await;
                return Err(failure(
                    "DumpTimedOut",
                    format!("criu did not finish the dump of container {} within {} s", self.name, HARD_LIMIT.as_secs()),
                    "look for processes in state D or T in the container; the migration can be tried again",
                ));
            }
        };
        notes.push(timer.stop());
        if status.success() { Ok(()) } else { Err(self.explained(host)) }
    }

    /// Ends the images: the manifest travels as the last one, and the target checks every length and digest against it.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn seal(&self, host: &Host, notes: &Notes) -> Result<(), Failure> {
        let timer = Timer::start(super::session::ROLE, "digest").about(&self.name);
        images::seal(&host.path(&self.images)).map_err(|error| internal("cannot take the images' digests", error))?;
        notes.push(timer.stop());
        Ok(())
    }
}
