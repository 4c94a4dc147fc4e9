//! The CA of controller and agents: made once for a cluster, kept in a Secret, signs certificates that live for a day.
//!
//! ```text
//!   agent: request(identity) ──▶ key (stays there) + CSR ──▶ Authority::sign(CSR, identity) ──▶ certificate ──▶ agent
//! ```
//!
//! From a request only the public key is taken. Name, uses and life of the certificate come from what the signer has found out about who asks.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::credentials::Material;
use crate::identity::{Identity, UnknownIdentity};

/// Life of the CA.
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Life of a certificate.
pub const LIFE: Duration = Duration::from_secs(24 * 3600);
/// By how much the clocks of two nodes may differ.
const SKEW: Duration = Duration::from_secs(300);

/// Why something could not be made or signed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is not one, or its signature is wrong.
    #[error("the certificate request cannot be read")]
    Request(#[source] rcgen::Error),
    /// The request names nobody that we know.
    #[error("the certificate request names nobody known")]
    Unknown(#[from] UnknownIdentity),
    /// The CA's certificate or key cannot be read.
    #[error("the CA cannot be read")]
    Authority(#[source] rcgen::Error),
    /// Making a key or signing failed.
    #[error("the certificate cannot be made")]
    Make(#[source] rcgen::Error),
}

/// The CA with its key.
pub struct Authority {
    certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a CA with a new key.
    ///
    /// # Errors
    /// [`Error::Make`] when the key cannot be made.
    pub fn create() -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(Error::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("godwit");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.not_before = (SystemTime::now() - SKEW).into();
        params.not_after = (SystemTime::now() + CA_LIFE).into();
        let certificate = params.self_signed(&key).map_err(Error::Make)?.pem();
        Self::load(&certificate, &key.serialize_pem())
    }

    /// Takes a CA from its certificate and key in PEM.
    ///
    /// # Errors
    /// [`Error::Authority`] when they cannot be read.
    pub fn load(certificate: &str, key: &str) -> Result<Self, Error> {
        let pair = KeyPair::from_pem(key).map_err(Error::Authority)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, pair).map_err(Error::Authority)?;
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), issuer })
    }

    /// The CA's certificate in PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The CA's private key in PEM.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Signs a certificate for `identity` over the public key of the request (PEM), for [`LIFE`].
    ///
    /// # Errors
    /// [`Error::Request`] when the request cannot be read or is not signed by its own key.
    pub fn sign(&self, request: &str, identity: &Identity) -> Result<String, Error> {
        let request = CertificateSigningRequestParams::from_pem(request).map_err(Error::Request)?;
        let params = leaf(identity)?;
        Ok(params.signed_by(&request.public_key, &self.issuer).map_err(Error::Make)?.pem())
    }

    /// Key and certificate for whoever holds the CA itself, that is the controller.
    ///
    /// # Errors
    /// [`Error::Make`] when the key cannot be made.
    pub fn issue(&self, identity: &Identity) -> Result<Material, Error> {
        let (key, request) = request(identity)?;
        let certificate = self.sign(&request, identity)?;
        Ok(Material { ca: self.certificate.clone(), certificate, key })
    }
}

/// A new key (PEM, PKCS #8) and a request (PEM) for `identity`.
///
/// # Errors
/// [`Error::Make`] when the key cannot be made.
pub fn request(identity: &Identity) -> Result<(String, String), Error> {
    let key = KeyPair::generate().map_err(Error::Make)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name(&identity.to_string());
    let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(Error::Make)?;
    Ok((key.serialize_pem(), request))
}

/// Whom a request (PEM) is for, by its common name. Says nothing about who sent it.
///
/// # Errors
/// [`Error::Request`] when it cannot be read, [`Error::Unknown`] when it names nobody known.
pub fn requested(request: &str) -> Result<Identity, Error> {
    let request = CertificateSigningRequestParams::from_pem(request).map_err(Error::Request)?;
    let name = match request.params.distinguished_name.get(&DnType::CommonName) {
        Some(rcgen::DnValue::Utf8String(name)) => name.clone(),
        Some(rcgen::DnValue::PrintableString(name)) => name.as_str().to_owned(),
        other => format!("{other:?}"),
    };
    Ok(name.parse::<Identity>()?)
}

fn leaf(identity: &Identity) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(vec![identity.server_name()]).map_err(Error::Make)?;
    params.distinguished_name = name(&identity.to_string());
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = (SystemTime::now() - SKEW).into();
    params.not_after = (SystemTime::now() + LIFE).into();
    Ok(params)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::Credentials;

    #[test]
    fn what_is_signed_is_who_asked_not_what_was_asked_for() {
        let authority = Authority::create().unwrap();
        let (key, csr) = request(&Identity::Controller).unwrap();
        assert_eq!(requested(&csr).unwrap(), Identity::Controller);
        let agent = Identity::Agent("node-a".into());
        let certificate = authority.sign(&csr, &agent).unwrap();
        let material = Material { ca: authority.certificate().into(), certificate, key };
        let credentials = Credentials::new(&material).unwrap();
        assert_eq!(credentials.identity(), agent);
        let left = credentials.not_after().duration_since(SystemTime::now()).unwrap();
        assert!(left <= LIFE && left > LIFE - Duration::from_secs(60));
        assert!(credentials.renew_at() < SystemTime::now() + LIFE / 2 + Duration::from_secs(1));
    }

    #[test]
    fn a_kept_ca_signs_as_before() {
        let first = Authority::create().unwrap();
        let again = Authority::load(first.certificate(), first.key()).unwrap();
        let material = again.issue(&Identity::Controller).unwrap();
        assert_eq!(material.ca, first.certificate());
        Credentials::new(&material).unwrap();
    }

    #[test]
    fn strangers_and_rubbish_are_refused() {
        assert!(matches!(requested("no PEM"), Err(Error::Request(_))));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = name("system:node:a");
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        assert!(matches!(requested(&csr), Err(Error::Unknown(_))));
    }
}
