//! Certificates and keys of a cluster, made afresh at every start of one.
//!
//! One CA signs everything. The API server checks kubelets by it and kubelets check the API server by it, so
//! `kubectl logs`, `exec` and `port-forward` work with authentication on.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Certificate.
    pub cert: String,
    /// Private key, PKCS #8.
    pub key: String,
}

/// The cluster's authority and the service account key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The authority itself; its key also signs CSRs in the cluster.
    pub ca: Pair,
    /// Signs service account tokens.
    pub service_account_key: String,
    /// Checks service account tokens.
    pub service_account_public: String,
}

impl Authority {
    /// Makes a new authority.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "godwit-lab");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let ca = Pair {
            cert: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        };
        let account = KeyPair::generate()?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            ca,
            service_account_key: account.serialize_pem(),
            service_account_public: account.public_key_pem(),
        })
    }

    /// A client certificate: `name` is the user, `group` its group.
    pub fn client(&self, name: &str, group: Option<&str>) -> Result<Pair> {
        self.sign(name, group, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A server certificate for addresses and DNS names.
    pub fn server(&self, name: &str, names: &[&str]) -> Result<Pair> {
        self.sign(name, None, names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn sign(
        &self,
        name: &str,
        group: Option<&str>,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into()?),
            });
        }
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![usage];
        let cert = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("the certificate of {name} cannot be signed"))?;
        Ok(Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// A kubeconfig with everything inline.
pub fn kubeconfig(server: &str, ca: &str, pair: &Pair) -> String {
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "godwit-lab", "cluster": {
            "server": server, "certificate-authority-data": base64(ca)}}],
        "users": [{"name": "user", "user": {
            "client-certificate-data": base64(&pair.cert), "client-key-data": base64(&pair.key)}}],
        "contexts": [{"name": "godwit-lab", "context": {"cluster": "godwit-lab", "user": "user"}}],
        "current-context": "godwit-lab",
    });
    format!("{config:#}\n")
}

/// Writes a file that only root may read.
pub fn write_private(path: &Path, content: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)))
        .with_context(|| format!("{} cannot be written", path.display()))
}

fn base64(text: &str) -> String {
    BASE64.encode(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn authority_signs_for_users_and_addresses() {
        let authority = Authority::new().unwrap();
        let pair = authority
            .server("node-a", &["10.88.1.1", "node-a"])
            .unwrap();
        assert!(pair.cert.starts_with("-----BEGIN CERTIFICATE"));
        assert!(
            kubeconfig("https://10.88.0.1:6443", &authority.ca.cert, &pair)
                .contains("client-key-data")
        );
    }
}
