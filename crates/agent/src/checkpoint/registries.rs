//! Registries that checkpoints may go to: what the installation says of them.

use godwit_api::checkpoint::is_within;
use godwit_node::host::Host;
use godwit_rpc::v1::Failure;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::failure::{failure, internal};

/// Where a node keeps the authorities that it trusts: Debian, Fedora, SUSE, Alpine.
const BUNDLES: [&str; 4] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"];

/// See the module.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Registries {
    /// Repositories of OCI registries in which checkpoints may be kept, with all that is below them: HOST[:PORT][/PATH]. None without it.
    #[arg(id = "registries", long = "checkpoint-registries", env = "GODWIT_CHECKPOINT_REGISTRIES", value_delimiter = ',')]
    allowed: Vec<String>,
    /// Hosts among them (HOST[:PORT]) that are asked by plain HTTP.
    #[arg(id = "plain_registries", long = "checkpoint-registries-plain-http", env = "GODWIT_CHECKPOINT_REGISTRIES_PLAIN_HTTP", value_delimiter = ',')]
    plain: Vec<String>,
    /// PEM of authorities that sign their certificates, beside those that the node trusts.
    #[arg(id = "registries_ca", long = "checkpoint-registries-ca", env = "GODWIT_CHECKPOINT_REGISTRIES_CA", default_value = "")]
    ca: String,
}

/// A repository that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// HOST[:PORT].
    pub host: String,
    /// What is below it.
    pub repository: String,
    /// Asked by plain HTTP.
    pub plain: bool,
}

impl Registries {
    /// The repository behind `oci://`.
    ///
    /// # Errors
    /// `StoreNotAllowed`.
    pub fn address(&self, repository: &str) -> Result<Address, Failure> {
        let split = repository.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty());
        match split {
            Some((host, path)) if self.allowed.iter().any(|allowed| is_within(repository, allowed)) => {
                Ok(Address { host: host.to_owned(), repository: path.to_owned(), plain: self.plain.iter().any(|plain| plain == host) })
            }
            _ => Err(failure(
                "StoreNotAllowed",
                format!("this installation keeps no checkpoints in {repository}"),
                "name it, or a path above it, in the chart's value checkpoints.registries.allowed, then upgrade the release",
            )),
        }
    }

    /// Certificates of the authorities that are trusted: the node's, and those of the installation.
    ///
    /// # Errors
    /// When those of the installation cannot be read.
    pub fn authorities(&self, host: &Host) -> Result<Vec<CertificateDer<'static>>, Failure> {
        let node = BUNDLES.iter().find_map(|path| std::fs::read(host.path(path)).ok()).unwrap_or_default();
        // One of the node's that nobody can read is not trusted; one of the installation's was meant to be.
        let mut all: Vec<_> = CertificateDer::pem_slice_iter(&node).filter_map(Result::ok).collect();
        let own: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.ca.as_bytes()).collect();
        let own = own.map_err(|error| internal("the registries' authorities (checkpoints.registries.ca) cannot be read", error))?;
        if own.is_empty() && !self.ca.trim().is_empty() {
            return Err(internal("the registries' authorities (checkpoints.registries.ca) cannot be read", "no certificate in PEM is in it"));
        }
        all.extend(own);
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn registries(allowed: &[&str]) -> Registries {
        Registries { allowed: allowed.iter().map(|one| (*one).to_owned()).collect(), plain: vec!["lab:5000".into()], ca: String::new() }
    }

    #[test]
    fn only_what_is_named_and_what_is_below_it() {
        let some = registries(&["registry.example/team", "lab:5000/"]);
        let address = some.address("registry.example/team/shop").unwrap();
        assert_eq!(address, Address { host: "registry.example".into(), repository: "team/shop".into(), plain: false });
        assert!(some.address("registry.example/team").is_ok());
        assert!(some.address("lab:5000/anything").unwrap().plain);
        for bad in ["registry.example/teams", "registry.example", "other/team", "", "/team", "lab:5000/", "lab:5000"] {
            assert_eq!(some.address(bad).unwrap_err().reason, "StoreNotAllowed", "{bad}");
        }
        assert!(registries(&[]).address("registry.example/team").is_err() && registries(&[""]).address("registry.example/team").is_err());
    }

    #[test]
    fn authorities_of_the_node_and_of_the_installation() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::at(folder.path());
        let none = Registries::default();
        assert!(none.authorities(&host).unwrap().is_empty());
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["lab".into()]).unwrap().self_signed(&key).unwrap().pem();
        std::fs::create_dir_all(folder.path().join("etc/ssl/certs")).unwrap();
        std::fs::write(folder.path().join("etc/ssl/certs/ca-certificates.crt"), certificate.repeat(2)).unwrap();
        let own = |ca: &str| Registries { ca: ca.to_owned(), ..Registries::default() };
        assert_eq!((none.authorities(&host).unwrap().len(), own(&certificate).authorities(&host).unwrap().len()), (2, 3));
        assert!(own("a path, say").authorities(&host).is_err());
    }
}
