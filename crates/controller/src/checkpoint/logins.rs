//! Who logs in to the registry of a checkpoint: read from a Secret whenever it is needed, held for one request, never written down.
//!
//! ```text
//!   spec.credentials ─▶ Secret of the same namespace, kubernetes.io/dockerconfigjson ─▶ the entry for this repository ─▶ Shelf in a request to the agent
//! ```
//! Whoever ordered it may `get` that Secret: the admission policies have asked the authorizer. The controller itself may only where it was allowed to
//! (ClusterRole godwit-checkpoint-keys).

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use serde::Deserialize;
use zeroize::Zeroizing;

use godwit_api::checkpoint::{Credentials, OCI, is_within};
use godwit_api::migration::Failure;
use godwit_rpc::{Login, v1::Shelf};

use super::keys;
use crate::error::Error;
use crate::failure;

/// The value of such a Secret.
const VALUE: &str = ".dockerconfigjson";

/// The store, and who logs in there, if anybody is named; and why there is nobody.
///
/// # Errors
/// When the API server is away.
pub async fn shelf(client: &Client, namespace: &str, store: &str, named: Option<&Credentials>) -> Result<(Shelf, Option<Failure>), Error> {
    let shelf = |login: Option<Login>| Shelf { store: store.to_owned(), login: login.as_ref().map(Login::message) };
    let Some(named) = named else { return Ok((shelf(None), None)) };
    let secret = keys::secret(client, namespace, &named.secret_name).await?;
    let login = secret.map_err(|(why, remedy)| failure::login_missing(&why, &remedy)).and_then(|secret| choose(secret, &named.secret_name, store));
    Ok(match login {
        Ok(login) => (shelf(Some(login)), None),
        Err(why) => (shelf(None), Some(why)),
    })
}

/// `.dockerconfigjson` (kubernetes.io: "Pull an Image from a Private Registry").
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl Entry {
    fn login(self) -> Option<Login> {
        if let (Some(user), Some(password)) = (self.username, self.password) {
            return Some(Login::new(user, password));
        }
        let decoded = Zeroizing::new(STANDARD.decode(self.auth?.trim()).ok()?);
        let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some(Login::new(user.to_owned(), password.to_owned()))
    }
}

fn choose(secret: Secret, name: &str, store: &str) -> Result<Login, Failure> {
    let mut data = secret.data.unwrap_or_default();
    let text = Zeroizing::new(data.remove(VALUE).unwrap_or_default().0);
    let config: Config = serde_json::from_slice(&text).map_err(|_| {
        failure::login_missing(
            &format!("Secret {name} has no value {VALUE} that can be understood"),
            "Make one: kubectl create secret docker-registry NAME --docker-server=HOST --docker-username=… --docker-password=…",
        )
    })?;
    let repository = store.strip_prefix(OCI).unwrap_or(store);
    // As the kubelet does: the longest entry that the repository begins with.
    let fitting = config.auths.into_iter().filter(|(server, _)| covers(server, repository)).max_by_key(|(server, _)| server.len());
    fitting.and_then(|(_, entry)| entry.login()).ok_or_else(|| {
        failure::login_missing(
            &format!("Secret {name} has no name and password for {repository}"),
            "Name a Secret that has them for the registry of this store: its entry must be HOST[:PORT], or that and a path above the repository.",
        )
    })
}

fn covers(server: &str, repository: &str) -> bool {
    is_within(repository, server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    fn secret(config: serde_json::Value) -> Secret {
        Secret { data: Some(BTreeMap::from([(VALUE.to_owned(), ByteString(config.to_string().into_bytes()))])), ..Secret::default() }
    }

    #[test]
    fn the_nearest_entry_logs_in() {
        let config = json!({"auths": {
            "registry.example": {"username": "all", "password": "1"},
            "https://registry.example/team/": {"auth": "dGVhbTpzZWNyZXQ6d29yZA=="},
            "other:5000": {},
        }});
        let login = |store: &str| choose(secret(config.clone()), "pull", store).map(|login| (login.user.clone(), login.password().to_owned()));
        assert_eq!(login("oci://registry.example/team/shop").unwrap(), ("team".into(), "secret:word".into()));
        assert_eq!(login("oci://registry.example/teams").unwrap(), ("all".into(), "1".into()));
        for bad in ["oci://other:5000/x", "oci://registry.example.evil/team", "oci://registry/x"] {
            let why = login(bad).unwrap_err();
            assert!(why.reason == "RegistryLoginMissing" && !why.message.contains("secret"), "{bad}: {why:?}");
        }
        assert_eq!(choose(secret(json!("text")), "pull", "oci://x/y").unwrap_err().reason, "RegistryLoginMissing");
        assert_eq!(choose(Secret::default(), "pull", "oci://x/y").unwrap_err().reason, "RegistryLoginMissing");
    }
}
