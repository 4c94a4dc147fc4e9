//! Pods that come without Godwit's runtime handler: the container runtime itself restores them, from checkpoint images that the agent makes and serves. Only the hands differ
//! from those of a handler's pod: who decides, what travels and what is compared is the same.
//!
//! ```text
//!   controller ─ PrepareTarget, or RestorePod ─▶ Import, and a keeper for each container (keeper.rs)
//!   kubelet, CRI-O ── pull ─────▶ server ─▶ image without memory, criu.conf, a pipe in the place of inventory.img
//!   CRI-O ─▶ conmon ─▶ runc restore ─▶ CRIU is led to criu.conf (conf.rs), opens the pipe ─▶ waits there          … as an OCI create waits as a keeper
//!   source agent or checkpoint ─ files, images ─▶ where criu.conf says that images are (tmpfs), never in an image store
//!   verified ─▶ the inventory goes through the pipe ─▶ CRIU restores ─▶ gate (godwit_runtime::import) ─▶ commit ─▶ runs
//! ```
//! Everything that one restore needs lies in one folder:
//!
//! ```text
//!   /run/godwit/imports/<migration or restore>/<container>/
//!       criu.conf  images ─▶ /run/godwit/images/…  gate ─▶ godwit-runtime  id  pod  criu  passed  resumed  restore.log  scratch/
//! ```

pub mod archived;
pub mod conf;
pub mod guest;
pub mod image;
mod keeper;
pub mod leftovers;
pub mod server;

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use godwit_criu::{images, restore};
use godwit_node::{PodNamespaces, cri::Kind, host::Host};
use godwit_rpc::v1::{Failure, Imported};
use godwit_runtime::{
    import::{ID, PASSED, RESUMED, SCRIPT},
    layout::write_atomically,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

pub use self::keeper::keep;
use self::{archived::Archived, guest::Arrival, image::Image};
use crate::{
    convert,
    failure::{failure, internal},
    install,
    node::Node,
    wishes,
};

/// Where the folders are, on the node.
pub const FOLDER: &str = "/run/godwit/imports";

/// CRIU's configuration, in the folder of a container.
const CONF: &str = "criu.conf";
/// CRIU's log.
const LOG: &str = "restore.log";
/// What CRIU takes mounts from.
const SCRATCH: &str = "scratch";

/// What runs under CRIU's configuration file of one restore says, beside [`restore::LINES`]: what a handler's pod gets as flags of `runc restore` ([`restore::FLAGS`]). Of those
/// lines the first cannot stand here; the images say it, too. The log tells whether anything may have run ([`keeper`]).
const LINES: [&str; 5] = ["verbosity 4", "tcp-established", "file-locks", "ext-unix-sk", "manage-cgroups=ignore"];

/// Whether a runtime can restore containers that crun runs: containerd's shim gives `crun restore` options that crun does not know (`--work-path`, of go-runc's `RestoreOpts`).
#[must_use]
pub fn takes(runtime: Kind, crun: bool) -> bool {
    !(crun && runtime == Kind::Containerd)
}

/// Why no pod can come to this node so; empty: it can. `crun`: none that crun runs.
#[must_use]
pub fn why_not(node: &Node, crun: bool) -> String {
    if !node.may_import {
        return "the installation does not allow it (the chart's value engines.checkpoint)".into();
    }
    if node.cri.kind() == Kind::Containerd && !imports(node.cri.runtime_version()) {
        let version = node.cri.runtime_version();
        return format!("containerd {version} imports no checkpoint images (removed in 2.4, off since 2.2.7 and 2.3.4, not there before 2.1)");
    }
    if !takes(node.cri.kind(), crun) {
        return "containerd cannot restore containers of crun".into();
    }
    if let Some(file) = conf::foreign(&node.host) {
        return format!("{} is there, and Godwit would have to put its own in that place", file.display());
    }
    node.imports.unserved.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Whether this version of containerd imports checkpoint images.
fn imports(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split(|sign: char| !sign.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or_default());
    let mut next = || numbers.next().unwrap_or_default();
    matches!((next(), next(), next()), (2, 1, _) | (2, 2, 0..=6) | (2, 3, 0..=3))
}

/// One container that is to come.
pub struct Ordered {
    /// Its name.
    pub name: String,
    /// Its checkpoint image.
    pub image: Image,
    /// Its own image, and the id that that has at the source.
    own: (String, String),
    /// Its folder, as the node names it.
    folder: PathBuf,
    /// Where its images come, as the node names it.
    images: PathBuf,
    /// The lines of CRIU's configuration that tell where mounts are.
    mounts: Vec<String>,
    /// Its image is pulled, or was: its container may be made at any moment.
    pulled: AtomicBool,
    /// Why it cannot be pulled, whoever tries again.
    trouble: Mutex<Option<Failure>>,
}

/// What the orders of a container were, for the journal.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Order {
    name: String,
    image: String,
    archived: Vec<u8>,
}

impl Order {
    /// The same, with what a checkpoint says of the container.
    #[must_use]
    pub fn with(&self, archived: Vec<u8>) -> Self {
        Self { archived, ..self.clone() }
    }

    /// Name of the container.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl From<Imported> for Order {
    fn from(imported: Imported) -> Self {
        Self { name: imported.name, image: imported.image, archived: imported.archived }
    }
}

/// What is known of a restore that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// CRIU: it is in the container's cgroup.
    pub criu: i32,
    /// Where the mounts are made that CRIU takes.
    pub scratch: PathBuf,
    /// The lines of its configuration that tell which.
    pub mounts: Vec<String>,
}

/// The containers of one pod.
pub struct Import {
    arrival: Arrival,
    containers: Vec<Ordered>,
}

impl Import {
    /// Makes an image of each container. Touches nothing.
    ///
    /// # Errors
    /// When what the source or the checkpoint says of a container cannot be understood.
    pub fn of(arrival: Arrival, orders: &[Order], runtime: Kind) -> Result<Self, Failure> {
        let containers = orders.iter().map(|order| Ordered::of(&arrival, order, runtime)).collect::<Result<_, _>>()?;
        Ok(Self { arrival, containers })
    }

    /// A container by its name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&Ordered> {
        self.containers.iter().find(|ordered| ordered.name == name)
    }

    /// The names of all.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.containers.iter().map(|ordered| ordered.name.as_str())
    }

    /// Writes CRIU's configuration for a container whose image is pulled: its pod has a sandbox by now.
    ///
    /// # Errors
    /// When the runtime does not know the pod, or the folder cannot be written.
    async fn configure(&self, node: &Node, ordered: &Ordered) -> Result<(), Failure> {
        let sandbox = node.cri.sandbox_of(&self.arrival.pod_uid).await.map_err(|error| convert::finding(error.finding()))?;
        let sandbox = sandbox.ok_or_else(|| failure("TargetPodGone", "the target pod has no sandbox", "look at the events of the target pod; try again"))?;
        ordered.same_image(node).await?;
        let wishes = wishes::of(&sandbox).map_err(|why| ordered.out_of_the_question(why))?;
        let text = ordered.configuration(&sandbox.namespaces, wishes.restore());
        let path = node.host.path(&ordered.folder).join(CONF);
        write_atomically(&path, text.as_bytes()).map_err(|error| internal("cannot write CRIU's configuration", error))?;
        ordered.pulled.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Ordered {
    fn of(arrival: &Arrival, order: &Order, runtime: Kind) -> Result<Self, Failure> {
        let archived: Archived = serde_json::from_slice(&order.archived).map_err(|error| internal("what is said of a container is damaged", error))?;
        let folder = Path::new(FOLDER).join(&arrival.uid).join(&order.name);
        let mounts = restore::lines(&archived.externals, &folder.join(SCRATCH)).map_err(|problem| convert::criu_failure(&problem.failure(), &order.name))?;
        let image =
            Image::of(&order.name, &order.image, &archived, &folder.to_string_lossy(), runtime).map_err(|error| internal("no checkpoint image", error))?;
        Ok(Self {
            name: order.name.clone(),
            image,
            own: (order.image.clone(), archived.image_id),
            images: arrival.images.join(&order.name),
            folder,
            mounts,
            pulled: AtomicBool::new(false),
            trouble: Mutex::default(),
        })
    }

    /// The files below the container must be the ones that its processes have open: a tag may have moved. The kubelet has it pulled before the checkpoint image.
    async fn same_image(&self, node: &Node) -> Result<(), Failure> {
        let (image, before) = &self.own;
        let here = node.cri.image_id(image).await.map_err(|error| convert::finding(error.finding()))?;
        if here.as_ref() == Some(before) && !before.is_empty() {
            return Ok(());
        }
        let remedy = "name images by digest, or see that both nodes have the same one";
        let differs =
            |here: &str| failure("ImageDiffers", format!("container {}: image {image} was {before} when it was started, and {here}", self.name), remedy);
        let Some(here) = here else { return Err(differs("is not on this node")) };
        Err(self.out_of_the_question(differs(&format!("is {here} on this node"))))
    }

    /// Notes for its keeper why nobody needs to try again.
    fn out_of_the_question(&self, why: Failure) -> Failure {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
        why
    }

    /// CRIU opens its images where the link leads: it wants a link there (criu/cr-service.c, `setup_opts_from_req`). The first process joins the pod's IPC and UTS namespaces, of which
    /// the images have none, as they were dumped in those of the old pod. Its network namespace the runtime hands over itself; CRIU would not take it from here as well (runc also
    /// asks for an empty one).
    fn configuration(&self, namespaces: &PodNamespaces, wishes: &[String]) -> String {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let mut lines = vec![format!("images-dir {}", at("images")), format!("log-file {}", at(LOG)), format!("action-script {}", at(SCRIPT))];
        lines.extend(restore::LINES.iter().skip(1).chain(&LINES).map(|line| (*line).to_owned()));
        let joined = [("ipc", &namespaces.ipc), ("uts", &namespaces.uts)];
        lines.extend(joined.into_iter().filter_map(|(kind, path)| Some(format!("join-ns {kind}:{}", path.as_ref()?.display()))));
        lines.extend(self.mounts.iter().chain(wishes).cloned());
        lines.push(String::new());
        lines.join("\n")
    }

    /// Makes the folder anew, but for the configuration, and the pipe at which CRIU waits. `node` turns a path of the node into one of the agent's.
    fn make(&self, node: impl Fn(&Path) -> PathBuf) -> io::Result<()> {
        let (folder, images) = (node(&self.folder), node(&self.images));
        for name in [ID, keeper::POD, keeper::CRIU, PASSED, RESUMED, LOG, "images", SCRIPT] {
            absent(fs::remove_file(folder.join(name)))?;
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&images)?;
        symlink(&self.images, folder.join("images"))?;
        symlink(install::ON_NODE, folder.join(SCRIPT))?;
        let pipe = images.join(images::INVENTORY);
        absent(fs::remove_file(&pipe))?;
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)?;
        Ok(())
    }
}

fn absent(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Pods that are to come to this node so, by the UIDs of their migrations and restores.
#[derive(Default)]
pub struct Imports {
    all: Mutex<HashMap<String, Arc<Import>>>,
    arrived: Notify,
    /// Why nothing can be pulled; empty when it can.
    unserved: Mutex<String>,
}

impl Imports {
    /// Its images can be pulled from now on.
    ///
    /// # Errors
    /// When CRIU cannot be led to its configuration.
    pub fn add(&self, host: &Host, import: Arc<Import>) -> io::Result<()> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        conf::link(host)?;
        all.insert(import.arrival.uid.clone(), import);
        self.arrived.notify_waiters();
        Ok(())
    }

    /// They cannot any more.
    pub fn remove(&self, host: &Host, uid: &str) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.remove(uid).is_some() && all.is_empty() {
            conf::unlink(host);
        }
    }

    /// Whether a container that is to come has this image as its own.
    #[must_use]
    pub fn wants(&self, image_id: &str) -> bool {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().flat_map(|import| &import.containers).any(|ordered| ordered.own.1 == image_id)
    }

    /// No pod is to come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The pod of a migration or restore.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<Arc<Import>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// The same, waited for.
    async fn announced(&self, uid: &str, patience: Duration) -> Option<Arc<Import>> {
        let end = tokio::time::Instant::now() + patience;
        loop {
            let arrived = self.arrived.notified();
            if let Some(import) = self.get(uid) {
                return Some(import);
            }
            tokio::time::timeout_at(end, arrived).await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ordered() -> Ordered {
        let arrival = Arrival { uid: "m".into(), pod_uid: "t".into(), images: PathBuf::from("/run/godwit/images/s") };
        let archived = serde_json::to_vec(&Archived::default()).unwrap();
        Ordered::of(&arrival, &Order { name: "web".into(), image: "app:1".into(), archived }, Kind::CriO).unwrap()
    }

    #[test]
    fn only_some_containerds_import() {
        for (version, can) in
            [("v2.0.5", false), ("2.1.9", true), ("v2.2.6", true), ("2.2.7", false), ("2.3.3+x", true), ("2.3.4", false), ("2.4.0-beta.0", false)]
        {
            assert_eq!(imports(version), can, "{version}");
        }
    }

    #[test]
    fn criu_is_told_where_everything_is() {
        let text = ordered().configuration(
            &PodNamespaces { net: Some("/run/netns/x".into()), ipc: None, uts: Some("/run/utsns/x".into()) },
            &["file-validation filesize".to_owned()],
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "images-dir /run/godwit/imports/m/web/images");
        assert!(
            lines.contains(&"action-script /run/godwit/imports/m/web/gate")
                && lines.contains(&"join-ns uts:/run/utsns/x")
                && lines.contains(&"file-validation filesize")
        );
        assert!(!text.contains("network-lock") && !text.contains("join-ns ipc") && !text.contains("netns"));
    }

    #[test]
    fn the_folder_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &Path| root.path().join(path.strip_prefix("/").unwrap());
        let ordered = ordered();
        for _ in 0..2 {
            ordered.make(at).unwrap();
            fs::write(at(&ordered.folder).join("id"), "1").unwrap();
        }
        ordered.make(at).unwrap();
        assert!(!at(&ordered.folder).join("id").exists());
        assert_eq!(fs::read_link(at(&ordered.folder).join("images")).unwrap(), Path::new("/run/godwit/images/s/web"));
    }
}
