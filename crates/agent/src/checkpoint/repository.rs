//! A repository in an OCI registry as a store: a checkpoint is an artifact with a tag of its own. It is there when its manifest is, and that comes last.
//!
//! ```text
//!   <repository>:<name>-<uid>   manifest, artifactType application/vnd.godwit.checkpoint.v1 (OCI Image Specification 1.1, "Guidelines for Artifact Usage")
//!     config                    {}
//!     index.json                application/vnd.godwit.checkpoint.index.v1
//!     small.tar                 application/vnd.godwit.checkpoint.files.v1+tar     every file of less than 1 MiB
//!     <path>, …                 application/vnd.godwit.checkpoint.file.v1          every other one; its path is the title (org.opencontainers.image.title)
//! ```
//! What comes from a registry is believed no more than what lies in a directory: the index has a digest that the PodCheckpoint knows, and every file one that the index knows.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use godwit_node::host::Host;
use godwit_rpc::{
    Login,
    v1::{Checkpoint, Failure},
};
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::{DigestError, OciDistributionError, OciErrorCode},
    manifest::{OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest, OciManifest},
    secrets::RegistryAuth,
};
use tokio::io::AsyncWriteExt;

use super::{
    deletion::{Deleted, Deletion},
    index::{self, Index},
    registries::{Address, Registries},
    store::{LONGEST, damaged, unwritten},
};
use crate::failure::{failure, internal};

const ARTIFACT: &str = "application/vnd.godwit.checkpoint.v1";
const INDEX: &str = "application/vnd.godwit.checkpoint.index.v1";
const FILES: &str = "application/vnd.godwit.checkpoint.files.v1+tar";
const FILE: &str = "application/vnd.godwit.checkpoint.file.v1";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const TITLE: &str = "org.opencontainers.image.title";
/// The empty configuration, and its digest (OCI Image Specification 1.1, "Guidance for an Empty Descriptor").
const NOTHING: (&[u8], &str) = (b"{}", "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
/// The archive of small files, beside the checkpoint's own.
const SMALL: &str = "small.tar";
/// A file that is shorter goes into the archive, in bytes.
const LARGE: u64 = 1 << 20;
/// How often a transfer is tried.
const TRIES: usize = 3;
/// How long a registry may say nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// How long it may take to be connected.
const CONNECTING: Duration = Duration::from_secs(10);
/// Sent at once, in bytes; registries take chunks of this size.
const CHUNK: usize = 4 << 20;
/// Longest tag (OCI Distribution Specification 1.1, "Pulling manifests").
const TAG: usize = 128;

/// See the module.
pub struct Repository {
    address: Address,
    client: Client,
    auth: RegistryAuth,
    deletion: Deletion,
}

/// The tag of a checkpoint.
#[must_use]
pub fn tag(checkpoint: &Checkpoint) -> String {
    let room = TAG.saturating_sub(checkpoint.uid.len() + 1);
    let name: String = checkpoint.name.chars().take(room).collect();
    format!("{name}-{}", checkpoint.uid)
}

impl Repository {
    /// The repository of this name (`HOST[:PORT]/PATH`). Nobody is asked yet.
    ///
    /// # Errors
    /// `StoreNotAllowed`, or when there can be no client.
    pub fn open(registries: &Registries, host: &Host, name: &str, login: Option<&Login>) -> Result<Self, Failure> {
        let address = registries.address(name)?;
        let authorities = if address.plain { Vec::new() } else { registries.authorities(host)? };
        let deletion = Deletion::new(&address, &authorities, login).map_err(|error| internal("no client for the registry", error))?;
        let client = Client::try_from(ClientConfig {
            protocol: if address.plain { ClientProtocol::Http } else { ClientProtocol::Https },
            tls_certs_only: authorities.iter().map(|one| Certificate { encoding: CertificateEncoding::Der, data: one.to_vec() }).collect(),
            platform_resolver: None,
            read_timeout: Some(SILENCE),
            connect_timeout: Some(CONNECTING),
            user_agent: concat!("godwit/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        });
        let client = client.map_err(|error| internal("no client for the registry", error))?;
        let auth = login.map_or(RegistryAuth::Anonymous, |login| RegistryAuth::Basic(login.user.clone(), login.password().to_owned()));
        Ok(Self { address, client, auth, deletion })
    }

    fn reference(&self, checkpoint: &Checkpoint) -> Reference {
        Reference::with_tag(self.address.host.clone(), self.address.repository.clone(), tag(checkpoint))
    }

    /// Logs in, and sends the empty configuration: before a pod stands still for it, one should know whether the registry takes anything.
    ///
    /// # Errors
    /// `StoreUnreachable` or `StoreDenied`.
    pub async fn try_writing(&self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let reference = self.reference(checkpoint);
        self.client.auth(&reference, &self.auth, RegistryOperation::Push).await.map_err(|error| self.told(&error))?;
        self.client.push_blob(&reference, NOTHING.0, NOTHING.1).await.map(drop).map_err(|error| self.told(&error))
    }

    /// Brings the index of a checkpoint into a folder, and gives its manifest. `None`: the registry does not have the checkpoint.
    ///
    /// # Errors
    /// `StoreUnreachable` or `StoreDenied`; `CheckpointDamaged` when it is no checkpoint of ours.
    pub async fn index(&self, checkpoint: &Checkpoint, folder: &Path) -> Result<Option<OciImageManifest>, Failure> {
        let Some(manifest) = self.manifest(checkpoint).await? else { return Ok(None) };
        let Some(layer) = manifest.layers.iter().find(|layer| layer.media_type == INDEX) else {
            return Err(damaged(checkpoint, "its manifest names no index"));
        };
        self.bring(checkpoint, layer, &folder.join(index::FILE), LONGEST).await?;
        Ok(Some(manifest))
    }

    async fn manifest(&self, checkpoint: &Checkpoint) -> Result<Option<OciImageManifest>, Failure> {
        match self.client.pull_manifest_raw(&self.reference(checkpoint), &self.auth, &[OCI_IMAGE_MEDIA_TYPE]).await {
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.told(&error)),
            Ok((text, _)) => {
                let manifest: OciImageManifest =
                    serde_json::from_slice(&text).map_err(|error| damaged(checkpoint, format!("its manifest cannot be understood: {error}")))?;
                if manifest.artifact_type.as_deref() != Some(ARTIFACT) {
                    return Err(damaged(checkpoint, "its manifest is of something else"));
                }
                Ok(Some(manifest))
            }
        }
    }

    /// Brings everything that the index names, of what the manifest names, into a folder.
    ///
    /// # Errors
    /// `StoreUnreachable` or `StoreDenied`; `CheckpointDamaged` when something is not there.
    pub async fn pull(&self, checkpoint: &Checkpoint, manifest: &OciImageManifest, index: &Index, folder: &Path) -> Result<(), Failure> {
        for layer in &manifest.layers {
            let title = layer.annotations.as_ref().and_then(|all| all.get(TITLE)).map(String::as_str).unwrap_or_default();
            if layer.media_type == FILES {
                let archive = folder.join(SMALL);
                // Every file in it has a header and an end of at most 1 KiB together; a longer path takes as much again.
                self.bring(checkpoint, layer, &archive, index.bytes() + (index.files.len() as u64 + 2) * 4096).await?;
                let (checkpoint, index, folder) = (checkpoint.clone(), index.clone(), folder.to_owned());
                let unpacked = tokio::task::spawn_blocking(move || unpack(&archive, &index, &folder).and_then(|()| fs::remove_file(&archive)));
                unpacked.await.map_err(|error| internal("unpacking ended early", error))?.map_err(|error| damaged(&checkpoint, error))?;
            } else if let Some(stored) = index.files.get(title).filter(|_| layer.media_type == FILE) {
                let path = index::below(folder, title).map_err(|error| damaged(checkpoint, error))?;
                self.bring(checkpoint, layer, &path, stored.length).await?;
            }
        }
        Ok(())
    }

    /// Brings one blob into a new file, or over one that an attempt before has left, and not more than so many bytes.
    async fn bring(&self, checkpoint: &Checkpoint, layer: &OciDescriptor, path: &Path, most: u64) -> Result<(), Failure> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| unwritten(&error))?;
        }
        let (reference, mut tries) = (self.reference(checkpoint), 0);
        loop {
            tries += 1;
            match self.bring_once(&reference, layer, path, most).await {
                Err(Trouble::Registry(error)) if tries < TRIES && is_passing(&error) => tokio::time::sleep(Duration::from_secs(1)).await,
                Err(Trouble::Registry(error)) if is_damaged(&error) => return Err(damaged(checkpoint, innermost(&error))),
                Err(Trouble::Registry(error)) if is_absent(&error) => return Err(damaged(checkpoint, format!("the registry has {} no more", layer.digest))),
                Err(Trouble::Registry(error)) => return Err(self.told(&error)),
                Err(Trouble::Here(error)) => return Err(unwritten(&error)),
                Err(Trouble::TooLong) => return Err(damaged(checkpoint, format!("{} is longer than it should be", layer.digest))),
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn bring_once(&self, reference: &Reference, layer: &OciDescriptor, path: &Path, most: u64) -> Result<(), Trouble> {
        fs::remove_file(path).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }).map_err(Trouble::Here)?;
        let mut file = tokio::fs::File::from_std(index::private(path).map_err(Trouble::Here)?);
        // By its digest alone: addresses that a manifest names are not asked.
        let mut stream = self.client.pull_blob_stream(reference, layer.digest.as_str()).await?.stream;
        let mut length = 0;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| Trouble::Registry(OciDistributionError::IoError(error)))?;
            length += piece.len() as u64;
            if length > most {
                return Err(Trouble::TooLong);
            }
            file.write_all(&piece).await.map_err(Trouble::Here)?;
        }
        file.flush().await.map_err(Trouble::Here)
    }

    /// Sends a checkpoint that is whole in a folder; the manifest is last.
    ///
    /// # Errors
    /// `StoreUnreachable` or `StoreDenied`; the registry has nothing with a name then, and removes the rest in its own time.
    pub async fn push(&self, checkpoint: &Checkpoint, index: &Index, folder: &Path) -> Result<(), Failure> {
        let reference = self.reference(checkpoint);
        let (small, large): (Vec<_>, Vec<_>) = index.files.iter().partition(|(_, stored)| stored.length < LARGE);
        let small: Vec<String> = small.into_iter().map(|(path, _)| path.clone()).collect();
        let (archive, from) = (folder.join(SMALL), folder.to_owned());
        let packed = {
            let archive = archive.clone();
            tokio::task::spawn_blocking(move || pack(&archive, &small, &from)).await
        };
        packed.map_err(|error| internal("packing ended early", error))?.map_err(|error| unwritten(&error))?;
        let mut layers =
            vec![self.send(&reference, &folder.join(index::FILE), INDEX, index::FILE).await?, self.send(&reference, &archive, FILES, SMALL).await?];
        for (path, _) in large {
            let file = index::below(folder, path).map_err(|error| internal("the checkpoint cannot be sent", error))?;
            layers.push(self.send(&reference, &file, FILE, path).await?);
        }
        let manifest = OciImageManifest {
            media_type: Some(OCI_IMAGE_MEDIA_TYPE.into()),
            artifact_type: Some(ARTIFACT.into()),
            config: OciDescriptor { media_type: EMPTY.into(), digest: NOTHING.1.into(), size: 2, ..OciDescriptor::default() },
            layers,
            annotations: Some(BTreeMap::from([
                ("dev.godwit.checkpoint.namespace".to_owned(), checkpoint.namespace.clone()),
                ("dev.godwit.checkpoint.name".to_owned(), checkpoint.name.clone()),
                ("dev.godwit.checkpoint.uid".to_owned(), checkpoint.uid.clone()),
            ])),
            ..OciImageManifest::default()
        };
        self.client.push_manifest(&reference, &OciManifest::Image(manifest)).await.map(drop).map_err(|error| self.told(&error))
    }

    async fn send(&self, reference: &Reference, path: &Path, media_type: &str, title: &str) -> Result<OciDescriptor, Failure> {
        let mut tries = 0;
        let sent = loop {
            tries += 1;
            let file = tokio::fs::File::open(path).await.map_err(|error| internal("the checkpoint cannot be sent", error))?;
            let pieces = tokio_util::io::ReaderStream::with_capacity(file, CHUNK).map_err(OciDistributionError::IoError);
            match self.client.push_blob_stream_chunked(reference, pieces).await {
                Err(error) if tries < TRIES && is_passing(&error) => tokio::time::sleep(Duration::from_secs(1)).await,
                outcome => break outcome.map_err(|error| self.told(&error))?,
            }
        };
        Ok(OciDescriptor {
            media_type: media_type.to_owned(),
            digest: sent.blob_digest,
            size: i64::try_from(sent.size).unwrap_or(i64::MAX),
            annotations: Some(BTreeMap::from([(TITLE.to_owned(), title.to_owned())])),
            ..OciDescriptor::default()
        })
    }

    /// Deletes the manifest of a checkpoint; what it named the registry removes in its own time. Says why it stays, if the registry deletes nothing, or not for whom we are.
    ///
    /// # Errors
    /// When it may be tried again.
    pub async fn remove(&self, checkpoint: &Checkpoint) -> Result<Option<String>, String> {
        let reference = self.reference(checkpoint);
        let stays = |why: &str| Ok(Some(format!("oci://{}/{}:{} stays in the registry: {why}", self.address.host, self.address.repository, tag(checkpoint))));
        let digest = match self.client.fetch_manifest_digest(&reference, &self.auth).await {
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) if is_denied(&error) => return stays("it does not let us in"),
            Err(error) => return Err(self.told(&error).message),
            Ok(digest) => digest,
        };
        match self.deletion.manifest(&digest).await? {
            Deleted::Yes => Ok(None),
            Deleted::Refused(status) => stays(&format!("it answered {status} to the order to delete it")),
        }
    }

    /// The registry does not have it.
    #[must_use]
    pub fn missing(&self, checkpoint: &Checkpoint) -> Failure {
        failure(
            "CheckpointMissing",
            format!("checkpoint {} is not in {}/{}", checkpoint.name, self.address.host, self.address.repository),
            "if it was deleted there by hand, delete the PodCheckpoint too",
        )
    }

    /// What the registry has said, for people.
    fn told(&self, error: &OciDistributionError) -> Failure {
        let host = &self.address.host;
        let told = innermost(error);
        if is_denied(error) {
            let who = match &self.auth {
                RegistryAuth::Basic(user, _) => format!("user {user}"),
                _ => "anybody who does not log in".to_owned(),
            };
            return failure(
                "StoreDenied",
                format!("registry {host} does not let {who} do this in {}: {told}", self.address.repository),
                "name a Secret of type kubernetes.io/dockerconfigjson with a login that may push to the repository and pull from it (--registry-secret)",
            );
        }
        failure(
            "StoreUnreachable",
            format!("registry {host} did not do what it was asked: {told}"),
            "see that the nodes reach it, and that they trust its certificate (checkpoints.registries.ca) or ask by plain HTTP (checkpoints.registries.plainHttp)",
        )
    }
}

enum Trouble {
    Registry(OciDistributionError),
    Here(io::Error),
    TooLong,
}

impl From<OciDistributionError> for Trouble {
    fn from(error: OciDistributionError) -> Self {
        Self::Registry(error)
    }
}

fn codes(error: &OciDistributionError) -> Vec<&OciErrorCode> {
    match error {
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().map(|one| &one.code).collect(),
        _ => Vec::new(),
    }
}

fn is_absent(error: &OciDistributionError) -> bool {
    let by_code = codes(error)
        .into_iter()
        .any(|code| matches!(code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound | OciErrorCode::BlobUnknown));
    by_code || matches!(error, OciDistributionError::ImageManifestNotFoundError(_) | OciDistributionError::ServerError { code: 404, .. })
}

fn is_denied(error: &OciDistributionError) -> bool {
    let by_code = codes(error).into_iter().any(|code| matches!(code, OciErrorCode::Unauthorized | OciErrorCode::Denied));
    by_code
        || matches!(
            error,
            OciDistributionError::UnauthorizedError { .. }
                | OciDistributionError::AuthenticationFailure(_)
                | OciDistributionError::ServerError { code: 401 | 403, .. }
        )
}

/// Whether what came is not what its digest says.
fn is_damaged(error: &OciDistributionError) -> bool {
    let within = match error {
        OciDistributionError::IoError(error) => error.get_ref().is_some_and(|inner| inner.is::<DigestError>()),
        _ => false,
    };
    within || matches!(error, OciDistributionError::DigestError(_))
}

/// Whether it may go better in a moment.
fn is_passing(error: &OciDistributionError) -> bool {
    !is_damaged(error)
        && matches!(
            error,
            OciDistributionError::RequestError(_) | OciDistributionError::IoError(_) | OciDistributionError::ServerError { code: 429 | 500..=599, .. }
        )
}

/// The error with its causes: what is wrong is in the last one.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    // Some of them tell their cause's text themselves.
    causes.fold(String::new(), |text, cause| {
        if text.contains(&cause) { text } else { [text, cause].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ") }
    })
}

/// Packs files into an archive that nobody else can read.
fn pack(archive: &Path, paths: &[String], folder: &Path) -> io::Result<()> {
    let mut tar = tar::Builder::new(io::BufWriter::new(index::private(archive)?));
    for path in paths {
        let mut file = fs::File::open(index::below(folder, path)?)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(file.metadata()?.len());
        header.set_mode(0o600);
        tar.append_data(&mut header, path, &mut file)?;
    }
    tar.into_inner()?.into_inner().map(drop).map_err(io::IntoInnerError::into_error)
}

/// Unpacks what the index names, with the lengths that it names.
fn unpack(archive: &Path, index: &Index, folder: &Path) -> io::Result<()> {
    for entry in tar::Archive::new(io::BufReader::new(fs::File::open(archive)?)).entries()? {
        let entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let Some(stored) = index.files.get(&path) else { continue };
        let target: PathBuf = index::below(folder, &path)?;
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        io::copy(&mut entry.take(stored.length), &mut index::private(&target)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::checkpoint::index::Stored;

    fn checkpoint(name: &str) -> Checkpoint {
        Checkpoint { uid: "0f0e".repeat(9), namespace: "shop".into(), name: name.into() }
    }

    #[test]
    fn tags_are_short_enough_and_differ_by_their_ends() {
        assert_eq!(tag(&checkpoint("web")), format!("web-{}", "0f0e".repeat(9)));
        let long = tag(&checkpoint(&"x".repeat(253)));
        assert!(long.len() == TAG && long.ends_with(&"0f0e".repeat(9)));
    }

    #[test]
    fn only_what_the_index_names_comes_out_of_an_archive() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("web/images")).unwrap();
        for (path, text) in [("web/images/core-1.img", "core"), ("stranger", "x"), ("longer", "longer than it says")] {
            fs::write(from.path().join(path), text).unwrap();
        }
        let archive = from.path().join("a.tar");
        pack(&archive, &["web/images/core-1.img".into(), "stranger".into(), "longer".into()], from.path()).unwrap();
        let stored = |length| Stored { length, digest: String::new() };
        let files = BTreeMap::from([("web/images/core-1.img".to_owned(), stored(4)), ("longer".to_owned(), stored(6))]);
        unpack(&archive, &Index { files, ..Index::default() }, to.path()).unwrap();
        assert_eq!(fs::read(to.path().join("web/images/core-1.img")).unwrap(), b"core");
        assert_eq!(fs::read(to.path().join("longer")).unwrap(), b"longer");
        assert!(!to.path().join("stranger").exists());
        assert!(pack(&archive, &[], from.path()).is_err(), "never over a file that is there");
    }

    #[test]
    fn a_registry_that_is_away_is_told_of() {
        let registries: Registries = {
            use clap::Parser;
            #[derive(Parser)]
            struct Line {
                #[command(flatten)]
                registries: Registries,
            }
            Line::parse_from(["agent", "--checkpoint-registries", "127.0.0.1:1/x", "--checkpoint-registries-plain-http", "127.0.0.1:1"]).registries
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let login = Login::new("ada".into(), "secret word".into());
        let repository = Repository::open(&registries, &Host::at("/"), "127.0.0.1:1/x/y", Some(&login)).unwrap();
        let why = runtime.block_on(repository.try_writing(&checkpoint("web"))).unwrap_err();
        assert!(why.reason == "StoreUnreachable" && why.message.contains("refused") && !why.message.contains("secret"), "{why:?}");
        assert!(runtime.block_on(repository.remove(&checkpoint("web"))).is_err(), "tried again");
        assert_eq!(Repository::open(&registries, &Host::at("/"), "elsewhere/y", None).err().unwrap().reason, "StoreNotAllowed");
    }
}
