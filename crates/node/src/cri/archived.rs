//! A container that the runtime makes of a checkpoint archive, over CRI alone. A kubelet orders images and no files, and ends pods that it does not know: so this is for nodes without one.
//!
//! ```text
//!   RunPodSandbox ─▶ CreateContainer, image = path of the archive ─▶ StartContainer: the runtime unpacks it and calls runc or crun restore
//! ```
//! CRI-O: server/container_create.go (`checkpointImage`), containerd: internal/cri/server/container_checkpoint_linux.go; both take what is a file for an archive.

use std::path::{Path, PathBuf};

use super::client::{failed, found};
use super::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
};
use super::{Client, Error};

/// Namespace of what is made so.
const NAMESPACE: &str = "godwit-archives";

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Where it is in the container.
    pub destination: PathBuf,
    /// What is there, a path of the node.
    pub source: PathBuf,
}

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Name of the pod and of the container.
    pub name: &'a str,
    /// A word that no other pod of this node has as its UID.
    pub uid: &'a str,
    /// The archive, a path of the node.
    pub archive: &'a Path,
    /// Its mounts.
    pub binds: &'a [Bind],
    /// Folder of its log, which is there; a path of the node.
    pub logs: &'a Path,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Id of the sandbox.
    pub sandbox: String,
    /// Id of the container.
    pub container: String,
    /// Where the runtime writes its log.
    pub log: PathBuf,
}

impl Client {
    /// Has a container restored. If that fails, nothing of it stays.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn run_archive(&self, order: &Order<'_>) -> Result<Made, Error> {
        let options = NamespaceOption { pid: NamespaceMode::Container.into(), ..NamespaceOption::default() };
        let security = LinuxSandboxSecurityContext { namespace_options: Some(options.clone()), ..LinuxSandboxSecurityContext::default() };
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { name: order.name.into(), uid: order.uid.into(), namespace: NAMESPACE.into(), attempt: 0 }),
            hostname: order.name.into(),
            log_directory: order.logs.to_string_lossy().into_owned(),
            linux: Some(LinuxPodSandboxConfig { security_context: Some(security), ..LinuxPodSandboxConfig::default() }),
            ..PodSandboxConfig::default()
        };
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let sandbox = self.calls.clone().run_pod_sandbox(request).await.map_err(failed("RunPodSandbox"))?.into_inner().pod_sandbox_id;
        let made = self.restore(order, &sandbox, config, options).await;
        if made.is_err()
            && let Err(error) = self.end(&sandbox).await
        {
            tracing::warn!(sandbox, cause = error.finding().message, "a sandbox stays");
        }
        made.map(|(container, log)| Made { sandbox, container, log })
    }

    async fn restore(&self, order: &Order<'_>, sandbox: &str, config: PodSandboxConfig, options: NamespaceOption) -> Result<(String, PathBuf), Error> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mounts = order.binds.iter().map(|bind| Mount { container_path: text(&bind.destination), host_path: text(&bind.source), ..Mount::default() });
        let security = LinuxContainerSecurityContext { namespace_options: Some(options), ..LinuxContainerSecurityContext::default() };
        let container = ContainerConfig {
            metadata: Some(ContainerMetadata { name: order.name.into(), attempt: 0 }),
            image: Some(ImageSpec { image: text(order.archive), ..ImageSpec::default() }),
            mounts: mounts.collect(),
            log_path: "0.log".into(),
            linux: Some(LinuxContainerConfig { security_context: Some(security), ..LinuxContainerConfig::default() }),
            ..ContainerConfig::default()
        };
        let request = CreateContainerRequest { pod_sandbox_id: sandbox.into(), config: Some(container), sandbox_config: Some(config) };
        let id = self.calls.clone().create_container(request).await.map_err(failed("CreateContainer"))?.into_inner().container_id;
        self.calls.clone().start_container(StartContainerRequest { container_id: id.clone() }).await.map_err(failed("StartContainer"))?;
        let log = self.container(&id).await?.map(|container| container.log_path).unwrap_or_default();
        Ok((id, log))
    }

    /// Ends and removes what was made so; gives its name. None: no sandbox has this id, or it is another's.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn remove_archived(&self, id: &str) -> Result<Option<String>, Error> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        let status = found(self.calls.clone().pod_sandbox_status(request).await, "PodSandboxStatus")?.and_then(|reply| reply.status);
        // Runtimes take the beginning of an id for it.
        let own = status.filter(|status| status.id == id).and_then(|status| status.metadata).filter(|metadata| metadata.namespace == NAMESPACE);
        let Some(own) = own else { return Ok(None) };
        self.end(id).await?;
        Ok(Some(own.name))
    }

    async fn end(&self, id: &str) -> Result<(), Error> {
        self.calls.clone().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.into() }).await.map_err(failed("StopPodSandbox"))?;
        self.calls.clone().remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.into() }).await.map_err(failed("RemovePodSandbox"))?;
        Ok(())
    }
}
