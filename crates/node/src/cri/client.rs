//! The connection to the runtime, and the questions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::v1::image_service_client::ImageServiceClient;
use super::v1::runtime_service_client::RuntimeServiceClient;
use super::v1::{
    CgroupDriver, ContainerFilter, ContainerState, ContainerStatusRequest, ContainerStatusResponse, ImageSpec, ImageStatusRequest, ListContainersRequest,
    ListPodSandboxRequest, PodSandbox, PodSandboxFilter, PodSandboxState, PodSandboxStatusRequest, RemoveImageRequest, RuntimeConfigRequest, StatusRequest,
    VersionRequest,
};
use super::{Container, Error, LABEL_POD_UID, Sandbox, v1};
use crate::Host;

const SOCKETS: [&str; 2] = ["/run/containerd/containerd.sock", "/run/crio/crio.sock"];
const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";
const PATIENCE: Duration = Duration::from_secs(10);
/// A list of all containers may be long.
const MAX_MESSAGE: usize = 64 << 20;

/// Which runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// containerd with its CRI plugin.
    Containerd,
    /// CRI-O.
    CriO,
}

/// A connection to the node's container runtime. Clones share it; it is made again by itself after the runtime was restarted.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) calls: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    host: Host,
    kind: Kind,
    name: String,
    version: String,
}

impl Client {
    /// Connects to the runtime that the kubelet is configured for, else to containerd or CRI-O at its usual socket, whichever answers first.
    ///
    /// # Errors
    /// None answers.
    pub async fn detect(host: &Host) -> Result<Self, Error> {
        Self::detect_within(host, PATIENCE).await
    }

    /// The same; each call may take so long.
    ///
    /// # Errors
    /// As there.
    pub async fn detect_within(host: &Host, patience: Duration) -> Result<Self, Error> {
        let mut tried = Vec::new();
        for socket in configured(host).into_iter().chain(SOCKETS.map(PathBuf::from)) {
            if !host.path(&socket).exists() {
                tried.push(format!("{}: absent", socket.display()));
                continue;
            }
            match Self::connect_within(host, &socket, patience).await {
                Ok(client) => return Ok(client),
                Err(error) => tried.push(format!("{}: {}", socket.display(), error.finding().message)),
            }
        }
        Err(Error::NoRuntime { tried: tried.join("; ") })
    }

    /// Connects to the runtime behind a unix socket of the node.
    ///
    /// # Errors
    /// It does not answer, or is neither containerd nor CRI-O.
    pub async fn connect(host: &Host, socket: &Path) -> Result<Self, Error> {
        Self::connect_within(host, socket, PATIENCE).await
    }

    /// The same; each call may take so long.
    ///
    /// # Errors
    /// As there.
    pub async fn connect_within(host: &Host, socket: &Path, patience: Duration) -> Result<Self, Error> {
        let path = host.path(socket);
        let connector = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is never looked at: the connector knows where to go.
        let channel = Endpoint::from_static("http://cri.invalid").connect_timeout(PATIENCE).timeout(patience).connect_with_connector_lazy(connector);
        let images = ImageServiceClient::new(channel.clone());
        let mut calls = RuntimeServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let answer = calls.version(VersionRequest::default()).await.map_err(failed("Version"))?.into_inner();
        let kind = match answer.runtime_name.as_str() {
            "containerd" => Kind::Containerd,
            "cri-o" => Kind::CriO,
            other => return Err(Error::NoRuntime { tried: format!("{}: it is {other}, not containerd or cri-o", socket.display()) }),
        };
        Ok(Self { calls, images, host: host.clone(), kind, name: answer.runtime_name, version: answer.runtime_version })
    }

    /// Which runtime it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its name as it says it.
    #[must_use]
    pub fn runtime_name(&self) -> &str {
        &self.name
    }

    /// Its version as it says it.
    #[must_use]
    pub fn runtime_version(&self) -> &str {
        &self.version
    }

    /// The runtime handlers that the runtime knows; the default one has an empty name. Runtimes that do not tell are asked for nothing and name none.
    ///
    /// # Errors
    /// The runtime failed.
    pub async fn handlers(&self) -> Result<Vec<String>, Error> {
        let reply = self.calls.clone().status(StatusRequest { verbose: false }).await.map_err(failed("Status"))?.into_inner();
        Ok(reply.runtime_handlers.into_iter().map(|handler| handler.name).collect())
    }

    /// Whether systemd makes the containers' cgroups, as the runtime tells the kubelet by `RuntimeConfig` (KEP-4033).
    ///
    /// # Errors
    /// The runtime failed, or does not tell.
    pub async fn systemd_cgroups(&self) -> Result<bool, Error> {
        let reply = self.calls.clone().runtime_config(RuntimeConfigRequest {}).await.map_err(failed("RuntimeConfig"))?.into_inner();
        Ok(reply.linux.is_some_and(|linux| linux.cgroup_driver() == CgroupDriver::Systemd))
    }

    /// UIDs of the pods that are being started: no container of theirs runs yet, or one is created and does not. A pod whose image cannot be pulled, or whose
    /// containers end again and again, is among them for as long; one that starts its next container beside others that run is seen only while that is created.
    /// Those of `expected` that have no sandbox are among them too: it may just be made, or be taken away.
    ///
    /// # Errors
    /// The runtime failed.
    pub async fn unsettled(&self, expected: BTreeSet<String>) -> Result<BTreeSet<String>, Error> {
        // In this order: a container that is made in between belongs to a sandbox that counts as starting.
        let sandboxes: Vec<PodSandbox> = self.sandboxes(PodSandboxFilter::default()).await?.filter(is_ready).collect();
        let containers = self.list(ContainerFilter::default()).await?;
        Ok(unsettled(&sandboxes, &containers, expected))
    }

    /// The sandbox of a pod: the one that is ready, else the newest; none when the node has none.
    ///
    /// # Errors
    /// The runtime failed, or describes the sandbox in an unknown way.
    pub async fn sandbox_of(&self, pod_uid: &str) -> Result<Option<Sandbox>, Error> {
        let items = self.sandboxes(PodSandboxFilter { label_selector: selector(pod_uid), ..PodSandboxFilter::default() }).await?;
        let Some(best) = items.max_by_key(|item| (is_ready(item), item.created_at)) else { return Ok(None) };
        let request = PodSandboxStatusRequest { pod_sandbox_id: best.id, verbose: true };
        let Some(answer) = found(self.calls.clone().pod_sandbox_status(request).await, "PodSandboxStatus")? else { return Ok(None) };
        Sandbox::read(&answer).map(Some)
    }

    /// The containers of a pod, init containers included, in whatever state, the newest attempt of each name, sorted by name.
    ///
    /// # Errors
    /// The runtime failed, or describes a container in an unknown way.
    pub async fn containers_of(&self, pod_uid: &str) -> Result<Vec<Container>, Error> {
        let newest = self.newest_of(pod_uid).await?;
        let handler = self.sandbox_of(pod_uid).await?.map(|sandbox| sandbox.runtime_handler).unwrap_or_default();
        let mut containers = Vec::new();
        for id in newest.into_values() {
            if let Some(answer) = self.status(&id).await? {
                containers.push(self.describe(&answer, handler.clone()).await?);
            }
        }
        Ok(containers)
    }

    /// One container; none when the runtime does not know it.
    ///
    /// # Errors
    /// The runtime failed, or describes the container in an unknown way.
    pub async fn container(&self, id: &str) -> Result<Option<Container>, Error> {
        let Some(answer) = self.status(id).await? else { return Ok(None) };
        let uid = answer.status.as_ref().and_then(|status| status.labels.get(LABEL_POD_UID)).cloned().unwrap_or_default();
        let handler = self.sandbox_of(&uid).await?.map(|sandbox| sandbox.runtime_handler).unwrap_or_default();
        self.describe(&answer, handler).await.map(Some)
    }

    /// Ids of the newest containers of a pod, whatever their state, by their names. One call.
    ///
    /// # Errors
    /// The runtime failed.
    pub async fn newest_of(&self, pod_uid: &str) -> Result<BTreeMap<String, String>, Error> {
        let items = self.list(ContainerFilter { label_selector: selector(pod_uid), ..ContainerFilter::default() }).await?;
        let mut newest: BTreeMap<String, ((u32, i64), String)> = BTreeMap::new();
        for item in items {
            let metadata = item.metadata.unwrap_or_default();
            let age = (metadata.attempt, item.created_at);
            let entry = newest.entry(metadata.name).or_insert_with(|| (age, item.id.clone()));
            if age > entry.0 {
                *entry = (age, item.id);
            }
        }
        Ok(newest.into_iter().map(|(name, (_, id))| (name, id)).collect())
    }

    /// The id of an image: the digest of its configuration. None when the runtime does not have it.
    ///
    /// # Errors
    /// The runtime failed.
    pub async fn image_id(&self, name: &str) -> Result<Option<String>, Error> {
        let request = ImageStatusRequest { image: Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() }), verbose: false };
        let reply = found(self.images.clone().image_status(request).await, "ImageStatus")?;
        Ok(reply.and_then(|reply| reply.image).map(|image| image.id.trim_start_matches("sha256:").to_owned()).filter(|id| !id.is_empty()))
    }

    /// Removes an image that has no other name.
    ///
    /// # Errors
    /// The runtime failed. An image that is not there is none.
    pub async fn remove_image(&self, name: &str) -> Result<(), Error> {
        let request = RemoveImageRequest { image: Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() }) };
        found(self.images.clone().remove_image(request).await, "RemoveImage").map(drop)
    }

    async fn sandboxes(&self, filter: PodSandboxFilter) -> Result<impl Iterator<Item = PodSandbox>, Error> {
        let reply = self.calls.clone().list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) }).await.map_err(failed("ListPodSandbox"))?;
        Ok(reply.into_inner().items.into_iter())
    }

    async fn list(&self, filter: ContainerFilter) -> Result<Vec<v1::Container>, Error> {
        let reply = self.calls.clone().list_containers(ListContainersRequest { filter: Some(filter) }).await.map_err(failed("ListContainers"))?;
        Ok(reply.into_inner().containers)
    }

    async fn status(&self, id: &str) -> Result<Option<ContainerStatusResponse>, Error> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        found(self.calls.clone().container_status(request).await, "ContainerStatus")
    }

    /// Reads files of the node, hence on a thread where that may block.
    async fn describe(&self, answer: &ContainerStatusResponse, handler: String) -> Result<Container, Error> {
        let (host, kind, answer) = (self.host.clone(), self.kind, answer.clone());
        let described = tokio::task::spawn_blocking(move || Container::read(&host, kind, &answer, handler)).await;
        described.unwrap_or_else(|error| Err(Error::Status { id: String::new(), why: error.to_string() }))
    }
}

fn is_ready(sandbox: &PodSandbox) -> bool {
    sandbox.state() == PodSandboxState::SandboxReady
}

fn unsettled(ready: &[PodSandbox], containers: &[v1::Container], expected: BTreeSet<String>) -> BTreeSet<String> {
    let pod = |labels: &HashMap<String, String>| labels.get(LABEL_POD_UID).cloned();
    let with = |state| containers.iter().filter(move |container| container.state() == state).filter_map(|container| pod(&container.labels)).collect();
    let (running, created): (BTreeSet<String>, BTreeSet<String>) = (with(ContainerState::ContainerRunning), with(ContainerState::ContainerCreated));
    let there: BTreeSet<String> = ready.iter().filter_map(|sandbox| pod(&sandbox.labels)).collect();
    let absent = expected.difference(&there);
    there.difference(&running).chain(&created).chain(absent).cloned().collect()
}

fn selector(pod_uid: &str) -> HashMap<String, String> {
    HashMap::from([(LABEL_POD_UID.to_owned(), pod_uid.to_owned())])
}

pub(super) fn failed(call: &'static str) -> impl Fn(tonic::Status) -> Error {
    move |status| Error::Call { call, source: Box::new(status) }
}

pub(super) fn found<T>(answer: Result<tonic::Response<T>, tonic::Status>, call: &'static str) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(failed(call)(status)),
    }
}

/// `containerRuntimeEndpoint: unix:///run/…` in the kubelet's configuration file, where kubeadm puts it.
fn configured(host: &Host) -> Option<PathBuf> {
    let text = fs::read_to_string(host.path(KUBELET_CONFIG)).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("containerRuntimeEndpoint:"))?;
    Some(value.trim().trim_matches(['"', '\'']).trim_start_matches("unix://").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_being_started_until_its_containers_run() {
        let ready = ["runs", "next", "empty"].map(|uid| PodSandbox { labels: selector(uid), ..PodSandbox::default() });
        let container = |uid: &str, state: ContainerState| v1::Container { labels: selector(uid), state: state.into(), ..v1::Container::default() };
        let containers = [
            container("runs", ContainerState::ContainerRunning),
            container("next", ContainerState::ContainerRunning),
            container("next", ContainerState::ContainerCreated),
            container("empty", ContainerState::ContainerExited),
        ];
        let expected = ["runs", "sandbox-to-come"].map(str::to_owned).into();
        let unsettled = unsettled(&ready, &containers, expected);
        assert_eq!(unsettled.into_iter().collect::<Vec<_>>(), ["empty", "next", "sandbox-to-come"]);
    }
}
