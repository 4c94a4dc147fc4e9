//! The CA in the cluster: a Secret for the leader, a ConfigMap for all, and the leader's own certificate.
//!
//! ```text
//!   Secret godwit-ca      tls.crt, tls.key, ticket.key     read and made by the leader only
//!   ConfigMap godwit-ca   ca.crt                            read by every agent
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use godwit_api::names;
use godwit_rpc::authority::{Authority, Error as AuthorityError};
use godwit_rpc::credentials::Error as CredentialsError;
use godwit_rpc::{Credentials, Identity};

/// Key of the CA's certificate in the Secret.
const CERTIFICATE: &str = "tls.crt";
/// Key of the CA's private key in the Secret.
const KEY: &str = "tls.key";
/// Key of the tickets' key in the Secret.
const TICKETS: &str = "ticket.key";

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no, or is away.
    #[error("the API server did not answer as needed")]
    Kube(#[from] kube::Error),
    /// Making or reading it failed.
    #[error("the CA cannot be used")]
    Authority(#[from] AuthorityError),
    /// The own certificate cannot be used.
    #[error("the own certificate cannot be used")]
    Credentials(#[from] CredentialsError),
    /// The Secret is not what we made.
    #[error("Secret {0} has no usable {1}: delete it and restart the agents, a new one is made")]
    Secret(&'static str, &'static str),
}

/// The CA and the key from which tickets are made.
pub struct Roots {
    /// Signs.
    pub authority: Arc<Authority>,
    /// Key of the tickets: the same for every leader.
    pub ticket_key: [u8; 32],
}

/// Reads the CA, or makes it.
///
/// # Errors
/// [`Error`].
pub async fn roots(client: &Client, namespace: &str) -> Result<Roots, Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = match secrets.get_opt(names::CA_SECRET).await? {
        Some(secret) => secret,
        None => match secrets.create(&PostParams::default(), &make()?).await {
            Ok(secret) => secret,
            Err(kube::Error::Api(status)) if status.is_already_exists() => secrets.get(names::CA_SECRET).await?,
            Err(error) => return Err(error.into()),
        },
    };
    let data = secret.data.unwrap_or_default();
    let get = |key: &'static str| data.get(key).map(|value| value.0.as_slice()).ok_or(Error::Secret(names::CA_SECRET, key));
    let text = |key: &'static str| get(key).and_then(|bytes| std::str::from_utf8(bytes).map_err(|_| Error::Secret(names::CA_SECRET, key)));
    let authority = Arc::new(Authority::load(text(CERTIFICATE)?, text(KEY)?)?);
    let ticket_key = get(TICKETS)?.try_into().map_err(|_| Error::Secret(names::CA_SECRET, TICKETS))?;
    publish(client, namespace, authority.certificate()).await?;
    Ok(Roots { authority, ticket_key })
}

fn make() -> Result<Secret, Error> {
    let authority = Authority::create()?;
    // A second fresh key, hashed, is 32 bytes that nobody knows.
    let tickets = blake3::derive_key("godwit.dev 2026 ticket key", Authority::create()?.key().as_bytes());
    let data = BTreeMap::from([
        (CERTIFICATE.to_owned(), ByteString(authority.certificate().as_bytes().to_vec())),
        (KEY.to_owned(), ByteString(authority.key().as_bytes().to_vec())),
        (TICKETS.to_owned(), ByteString(tickets.to_vec())),
    ]);
    Ok(Secret { metadata: metadata(names::CA_SECRET), data: Some(data), ..Secret::default() })
}

async fn publish(client: &Client, namespace: &str, certificate: &str) -> Result<(), Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let data = BTreeMap::from([("ca.crt".to_owned(), certificate.to_owned())]);
    match maps.get_opt(names::CA_CONFIG_MAP).await? {
        Some(map) if map.data.as_ref() == Some(&data) => {}
        Some(map) => {
            maps.replace(names::CA_CONFIG_MAP, &PostParams::default(), &ConfigMap { data: Some(data), ..map }).await?;
        }
        None => {
            let map = ConfigMap { metadata: metadata(names::CA_CONFIG_MAP), data: Some(data), ..ConfigMap::default() };
            maps.create(&PostParams::default(), &map).await?;
        }
    }
    Ok(())
}

fn metadata(name: &str) -> ObjectMeta {
    let labels = BTreeMap::from([("app.kubernetes.io/part-of".to_owned(), "godwit".to_owned())]);
    ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() }
}

/// The leader's own credentials, which it signs itself, kept fresh in the background.
///
/// # Errors
/// When the first cannot be made.
pub fn own(authority: &Arc<Authority>) -> Result<Arc<Credentials>, Error> {
    let credentials = Arc::new(Credentials::new(&authority.issue(&Identity::Controller)?)?);
    let (authority, kept) = (Arc::clone(authority), Arc::clone(&credentials));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(600)).await;
            if SystemTime::now() < kept.renew_at() {
                continue;
            }
            let renewed = authority.issue(&Identity::Controller).map_err(Error::from).and_then(|material| Ok(kept.replace(&material)?));
            if let Err(error) = renewed {
                tracing::warn!(%error, "the own certificate was not renewed");
            }
        }
    });
    Ok(credentials)
}
