//! How an agent gets its certificate: `certificates.k8s.io`, signer `godwit.dev/mtls`.
//!
//! ```text
//!   agent                                API server                                controller (leader)
//!     │ key stays here                                                                │
//!     │── CertificateSigningRequest (CN agent:<node>) ──▶│── userInfo of the token ──▶│ is it the agents' service account,
//!     │                                                  │   username, node-name      │ on the node that the name says?
//!     │◀── status.certificate ───────────────────────────│◀── approve, sign ──────────│
//!     │── ConfigMap godwit-ca ──▶ the CA
//! ```
//!
//! The node's name cannot be chosen by the pod: the API server copies it from the pod to which the service account token is bound
//! (`authentication.kubernetes.io/node-name`, Kubernetes 1.32 and later).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use godwit_api::names;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};

use crate::authority::{self, Authority};
use crate::credentials::{self, Credentials, Material};
use crate::identity::Identity;

/// How long one request may stay unanswered before another is made.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a request.
const LOOK: Duration = Duration::from_millis(250);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(2);

/// Why no certificate was obtained.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no, or is away.
    #[error("the API server did not answer as needed")]
    Kube(#[from] kube::Error),
    /// The ConfigMap with the CA is not there yet: no controller has run.
    #[error("ConfigMap {0} holds no ca.crt: is the controller running?")]
    NoAuthority(&'static str),
    /// The request was denied.
    #[error("the certificate request {name} was denied: {why}")]
    Denied {
        /// Name of the request.
        name: String,
        /// What the condition says.
        why: String,
    },
    /// Nobody has signed.
    #[error("the certificate request {0} was not signed in time: is the controller running?")]
    Unsigned(String),
    /// Making the request failed.
    #[error("the certificate request cannot be made")]
    Request(#[from] authority::Error),
    /// The answer cannot be used.
    #[error("the certificate that was signed cannot be used")]
    Credentials(#[from] credentials::Error),
}

/// Credentials for `identity` that nobody trusts and that trust nobody, for the time until [`obtain`] has got others in their place.
///
/// # Errors
/// [`Error`] when no key can be made.
pub fn placeholder(identity: &Identity) -> Result<Arc<Credentials>, Error> {
    Ok(Arc::new(Credentials::new(&Authority::create()?.issue(identity)?)?))
}

/// Asks until `credentials` have been replaced by signed ones of the same identity, then keeps them fresh in the background for the life of the process. `namespace` is that of Godwit's
/// own pods, where the ConfigMap of the CA is. Failures are logged and tried again; it returns when it has succeeded.
pub async fn obtain(client: Client, namespace: String, credentials: Arc<Credentials>) {
    let identity = credentials.identity();
    while let Err(error) = attempt(&client, &namespace, &identity).await.and_then(|material| Ok(credentials.replace(&material)?)) {
        wait_after(&error).await;
    }
    tokio::spawn(renew(client, namespace, identity, Arc::downgrade(&credentials)));
}

/// Asks once.
///
/// # Errors
/// [`Error`] when it was not answered with a certificate.
pub async fn attempt(client: &Client, namespace: &str, identity: &Identity) -> Result<Material, Error> {
    let ca = authority_certificate(client, namespace).await?;
    let (key, request) = authority::request(identity)?;
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let name = requests.create(&PostParams::default(), &object(identity, request)).await?.name_any();
    let end = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < end {
        let status = requests.get(&name).await?.status.unwrap_or_default();
        if let Some(certificate) = status.certificate {
            let certificate = String::from_utf8_lossy(&certificate.0).into_owned();
            return Ok(Material { ca, certificate, key });
        }
        if let Some(no) = status.conditions.iter().flatten().find(|condition| matches!(condition.type_.as_str(), "Denied" | "Failed")) {
            return Err(Error::Denied { name, why: no.message.clone().unwrap_or_default() });
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(Error::Unsigned(name))
}

/// The CA's certificate(s) from the ConfigMap.
///
/// # Errors
/// [`Error::NoAuthority`] while it is not there.
pub async fn authority_certificate(client: &Client, namespace: &str) -> Result<String, Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = maps.get_opt(names::CA_CONFIG_MAP).await?;
    map.and_then(|map| map.data).and_then(|mut data| data.remove("ca.crt")).ok_or(Error::NoAuthority(names::CA_CONFIG_MAP))
}

async fn renew(client: Client, namespace: String, identity: Identity, credentials: std::sync::Weak<Credentials>) {
    loop {
        let Some(wait) = credentials.upgrade().map(|credentials| credentials.renew_at().duration_since(SystemTime::now()).unwrap_or_default()) else {
            return;
        };
        // In small steps, so that a clock that is set does not make us late.
        if !wait.is_zero() {
            tokio::time::sleep(wait.min(Duration::from_secs(600))).await;
            continue;
        }
        let result = attempt(&client, &namespace, &identity).await;
        let Some(credentials) = credentials.upgrade() else {
            return;
        };
        match result.and_then(|material| Ok(credentials.replace(&material)?)) {
            Ok(()) => tracing::info!(%identity, "certificate renewed"),
            Err(error) => wait_after(&error).await,
        }
    }
}

async fn wait_after(error: &Error) {
    tracing::warn!(error = error as &dyn std::error::Error, "no certificate yet");
    tokio::time::sleep(PAUSE).await;
}

fn object(identity: &Identity, request: String) -> CertificateSigningRequest {
    CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("godwit-".into()),
            annotations: Some(BTreeMap::from([("godwit.dev/identity".to_owned(), identity.to_string())])),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            signer_name: names::SIGNER.into(),
            request: ByteString(request.into_bytes()),
            expiration_seconds: i32::try_from(authority::LIFE.as_secs()).ok(),
            usages: Some(vec!["digital signature".into(), "client auth".into(), "server auth".into()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}
