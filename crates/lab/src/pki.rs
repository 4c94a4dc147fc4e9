//! Certificates and keys of a cluster, made once for each cluster and kept in the state folder: a node that is added
//! or booted later is signed by the same authority.
//!
//! One CA signs everything. The API server checks kubelets by it and kubelets check the API server by it, so
//! `kubectl logs`, `exec` and `port-forward` work with authentication on.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

use crate::cache::digest;

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
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// Nodes that start at one time ask for the same certificate, kube-proxy's: it is made by one of them, and all have it.
    signing: Mutex<()>,
    /// The authority itself; its key also signs CSRs in the cluster.
    pub ca: Pair,
    /// Signs service account tokens.
    pub service_account_key: String,
    /// Checks service account tokens.
    pub service_account_public: String,
}

impl Authority {
    /// The authority kept in a folder; a new one if there is none.
    pub fn open(folder: &Path) -> Result<Self> {
        if !folder.join("complete").exists() {
            create(folder)?;
            fs::write(folder.join("complete"), "")?;
        }
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("{} is unreadable", path.display()))
        };
        let ca = Pair { cert: read("ca.crt")?, key: read("ca.key")? };
        let key = KeyPair::from_pem(&ca.key).context("the authority's key is damaged")?;
        Ok(Self {
            folder: folder.to_path_buf(),
            issuer: Issuer::from_ca_cert_pem(&ca.cert, key).context("the authority's certificate is damaged")?,
            signing: Mutex::default(),
            ca,
            service_account_key: read("sa.key")?,
            service_account_public: read("sa.pub")?,
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

    fn sign(&self, name: &str, group: Option<&str>, names: &[&str], usage: ExtendedKeyUsagePurpose) -> Result<Pair> {
        let about = format!("{name} {group:?} {names:?} {usage:?}");
        let file = self.folder.join(digest(&[&self.ca.cert, &about]));
        let _alone = self.signing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(known) = fs::read_to_string(&file)
            && let Some((cert, key)) = known.split_once('\0')
        {
            return Ok(Pair { cert: cert.to_owned(), key: key.to_owned() });
        }
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into()?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![usage];
        let cert = params.signed_by(&key, &self.issuer).with_context(|| format!("the certificate of {name} cannot be signed"))?;
        let pair = Pair { cert: cert.pem(), key: key.serialize_pem() };
        write_private(&file, &format!("{}\0{}", pair.cert, pair.key))?;
        Ok(pair)
    }
}

fn create(folder: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "godwit-lab");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let account = KeyPair::generate()?;
    for (name, content) in [
        ("ca.crt", params.self_signed(&key)?.pem()),
        ("ca.key", key.serialize_pem()),
        ("sa.key", account.serialize_pem()),
        ("sa.pub", account.public_key_pem()),
    ] {
        write_private(&folder.join(name), &content)?;
    }
    Ok(())
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
    let temporary = path.with_extension("new");
    fs::write(&temporary, content)
        .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600)))
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("{} cannot be written", path.display()))
}

fn base64(text: &str) -> String {
    BASE64.encode(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_reopened_authority_gives_the_same_certificates() {
        let folder = std::env::temp_dir().join(format!("godwit-pki-{}", std::process::id()));
        let names = ["10.88.1.1", "node-a"];
        let first = Authority::open(&folder).unwrap();
        let pair = first.server("node-a", &names).unwrap();
        assert!(pair.cert.starts_with("-----BEGIN CERTIFICATE"));
        assert!(kubeconfig("https://10.88.0.1:6443", &first.ca.cert, &pair).contains("client-key"));
        let again = Authority::open(&folder).unwrap();
        assert_eq!(again.server("node-a", &names).unwrap().key, pair.key);
        assert_ne!(again.client("node-a", None).unwrap().key, pair.key);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn all_who_ask_at_one_time_have_the_same_certificate() {
        let folder = std::env::temp_dir().join(format!("godwit-pki-rivals-{}", std::process::id()));
        let authority = Authority::open(&folder).unwrap();
        for round in 0..20 {
            let name = format!("rival-{round}");
            let keys: BTreeSet<String> = std::thread::scope(|scope| {
                let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| authority.client(&name, None).unwrap().key)).collect();
                asked.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(keys.len(), 1, "round {round}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
