//! Keys of encrypted checkpoints: read from the Secret whenever one is needed, held for one request, never written down.
//!
//! ```text
//!   spec.encryption ─▶ Secret of the same namespace ─▶ value: 32 bytes or base64 of them ─▶ Key ─▶ request to the agent
//! ```
//! Whoever ordered it may `get` that Secret: the admission policies have asked the authorizer. The controller itself may only where it was allowed to
//! (ClusterRole godwit-checkpoint-keys).

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use zeroize::Zeroize;

use godwit_api::checkpoint::Encryption;
use godwit_api::migration::Failure;
use godwit_rpc::Key;

use crate::error::Error;
use crate::failure;

/// The key that is named. The inner result says why there is none.
///
/// # Errors
/// When the API server is away.
pub async fn read(client: &Client, namespace: &str, named: &Encryption) -> Result<Result<Key, Failure>, Error> {
    let secret = secret(client, namespace, &named.secret_name).await?;
    Ok(secret.map_err(|(why, remedy)| failure::key_missing(&why, &remedy)).and_then(|secret| choose(secret, named)))
}

/// A Secret that an order names. The inner result says why there is none, and what to do.
///
/// # Errors
/// When the API server is away.
pub async fn secret(client: &Client, namespace: &str, name: &str) -> Result<Result<Secret, (String, String)>, Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let missing = |why: String, remedy: &str| Ok(Err((why, remedy.to_owned())));
    match secrets.get_opt(name).await {
        Ok(Some(secret)) => Ok(Ok(secret)),
        Ok(None) => missing(format!("there is no Secret {name} in namespace {namespace}"), "Name the one that it was made with."),
        Err(kube::Error::Api(status)) if status.is_forbidden() => missing(
            format!("the controller may not read Secret {name} in namespace {namespace}"),
            "Allow it there: name the namespace in the chart's value checkpoints.keyNamespaces, or bind ClusterRole godwit-checkpoint-keys to the controller's ServiceAccount.",
        ),
        Err(error) => Err(error.into()),
    }
}

fn choose(secret: Secret, named: &Encryption) -> Result<Key, Failure> {
    let name = &named.secret_name;
    let mut data = secret.data.unwrap_or_default();
    let found = data.get(&named.key).map(|value| Key::parse(&value.0));
    data.values_mut().for_each(|value| value.0.zeroize());
    match found {
        None => Err(failure::key_missing(
            &format!("Secret {name} has no value {}", named.key),
            "Name the value that has the key (spec.encryption.key); the usual one is `key`.",
        )),
        Some(None) => Err(failure::key_invalid(name, &named.key)),
        Some(Some(key)) => Ok(key),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_secret_has_a_key_or_says_what_it_lacks() {
        let named = Encryption::with("vault");
        let secret = |data: serde_json::Value| serde_json::from_value::<Secret>(json!({"metadata": {"name": "vault"}, "data": data})).unwrap();
        // As in any Secret, values are base64 in JSON: the first is 32 bytes.
        let raw = choose(secret(json!({"key": "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="})), &named).unwrap();
        assert_eq!(raw.bytes(), &[7; 32]);
        let missing = choose(secret(json!({"other": "BwcH"})), &named).unwrap_err();
        assert_eq!(missing.reason, "CheckpointKeyMissing");
        let invalid = choose(secret(json!({"key": "c2VjcmV0IHdvcmQ="})), &named).unwrap_err();
        assert_eq!(invalid.reason, "CheckpointKeyInvalid");
        assert!(!invalid.message.contains("secret word"));
    }
}
