//! Own certificate, key and the CA, in the form that TLS needs, replaced while connections go on.
//!
//! Certificates live for a day and are renewed at half of it. A connection keeps what it began with; the next one takes what is there then. No session is
//! resumed: a resumed session would not look at certificates again.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Identity, UnknownIdentity};

/// What is needed to speak: all in PEM.
#[derive(Clone)]
pub struct Material {
    /// Certificates of the CA; several while it is replaced.
    pub ca: String,
    /// The own certificate.
    pub certificate: String,
    /// The own private key (PKCS #8).
    pub key: String,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").finish_non_exhaustive()
    }
}

/// Why material cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not PEM, or not what it should be.
    #[error("the {0} cannot be read")]
    Pem(&'static str, #[source] rustls::pki_types::pem::Error),
    /// There is no certificate in it.
    #[error("the {0} holds no certificate")]
    Empty(&'static str),
    /// Certificate and key do not fit, or the CA is no CA.
    #[error("the certificates cannot be used")]
    Tls(#[from] rustls::Error),
    /// The CA cannot verify clients.
    #[error("the CA cannot be used")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The own certificate cannot be parsed.
    #[error("the own certificate cannot be parsed")]
    Certificate,
    /// The own certificate is for somebody unknown.
    #[error("the own certificate is not one of ours")]
    Identity(#[from] UnknownIdentity),
}

/// Shared by every connection of a process.
pub struct Credentials {
    now: RwLock<Arc<Loaded>>,
}

/// One generation of credentials.
pub(crate) struct Loaded {
    pub identity: Identity,
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let now = self.now();
        f.debug_struct("Credentials").field("identity", &now.identity).field("not_after", &now.not_after).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Takes the material into use.
    ///
    /// # Errors
    /// [`Error`] when it does not fit together.
    pub fn new(material: &Material) -> Result<Self, Error> {
        Ok(Self { now: RwLock::new(Arc::new(load(material)?)) })
    }

    /// Replaces the material: new connections use it, existing ones go on. When the new material cannot be used the old one stays.
    ///
    /// # Errors
    /// [`Error`] when it does not fit together.
    pub fn replace(&self, material: &Material) -> Result<(), Error> {
        let loaded = Arc::new(load(material)?);
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    /// Whose credentials these are.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.now().identity.clone()
    }

    /// Until when the own certificate is valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.now().not_after
    }

    /// When the certificate should be renewed: at half of its life.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let now = self.now();
        let life = now.not_after.duration_since(now.not_before).unwrap_or_default();
        now.not_before + life / 2
    }

    pub(crate) fn now(&self) -> Arc<Loaded> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn load(material: &Material) -> Result<Loaded, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&material.ca, "CA")? {
        roots.add(certificate)?;
    }
    let roots = Arc::new(roots);
    let chain = certificates(&material.certificate, "own certificate")?;
    let key = || PrivateKeyDer::from_pem_slice(material.key.as_bytes()).map_err(|error| Error::Pem("own key", error));

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key()?)?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.alpn_protocols = vec![b"h2".to_vec()];

    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.clone(), key()?)?;
    client.resumption = rustls::client::Resumption::disabled();
    client.alpn_protocols = vec![b"h2".to_vec()];

    let own = chain.first().ok_or(Error::Empty("own certificate"))?;
    let (_, parsed) = X509Certificate::from_der(own).map_err(|_| Error::Certificate)?;
    Ok(Loaded {
        identity: Identity::of_certificate(own)?,
        server: Arc::new(server),
        client: Arc::new(client),
        not_before: at(parsed.validity().not_before.timestamp()),
        not_after: at(parsed.validity().not_after.timestamp()),
    })
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let list: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|error| Error::Pem(what, error))?;
    if list.is_empty() { Err(Error::Empty(what)) } else { Ok(list) }
}

fn at(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
