//! Deletes a manifest from a registry (OCI Distribution Specification 1.1, "Deleting manifests"), which the library for the rest of the protocol does not: asks, logs in as the answer
//! says, asks again.
//!
//! ```text
//!   DELETE ─▶ 202 │ 401 Basic ─▶ DELETE with name and password │ 401 Bearer realm, service, scope ─▶ GET realm ─▶ DELETE with the token
//! ```

use std::time::Duration;

use godwit_rpc::Login;
use http_auth::ChallengeParser;
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, header::WWW_AUTHENTICATE};
use rustls::pki_types::CertificateDer;
use serde::Deserialize;

use super::registries::Address;

/// How long each request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
pub struct Deletion {
    client: Client,
    manifests: String,
    login: Option<Login>,
}

/// What became of an order to delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone.
    Yes,
    /// The registry does not want to.
    Refused(StatusCode),
}

/// Where a token is to be had, as a registry says (Docker Registry: "Token Authentication Specification").
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, query: Vec<(&'static str, String)> },
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Deletion {
    /// In a repository, by one who trusts these authorities, or those of the system if there are none.
    ///
    /// # Errors
    /// When there can be no client.
    pub fn new(address: &Address, authorities: &[CertificateDer<'static>], login: Option<&Login>) -> reqwest::Result<Self> {
        let mut client = Client::builder().timeout(PATIENCE).user_agent(concat!("godwit/", env!("CARGO_PKG_VERSION")));
        if !authorities.is_empty() {
            client = client.tls_certs_only(authorities.iter().map(|one| Certificate::from_der(one)).collect::<Result<Vec<_>, _>>()?);
        }
        let scheme = if address.plain { "http" } else { "https" };
        let manifests = format!("{scheme}://{}/v2/{}/manifests", address.host, address.repository);
        Ok(Self { client: client.build()?, manifests, login: login.cloned() })
    }

    /// Deletes the manifest of this digest.
    ///
    /// # Errors
    /// When it may be tried again.
    pub async fn manifest(&self, digest: &str) -> Result<Deleted, String> {
        let url = format!("{}/{digest}", self.manifests);
        let first = send(self.client.delete(&url)).await?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return judge(&first);
        }
        let asked = match (challenge(&first), &self.login) {
            (Some(Challenge::Basic), Some(login)) => self.client.delete(&url).basic_auth(&login.user, Some(login.password())),
            (Some(Challenge::Bearer { realm, query }), login) => {
                let wanted = self.client.get(realm).query(&query);
                let wanted = login.iter().fold(wanted, |wanted, login| wanted.basic_auth(&login.user, Some(login.password())));
                let answer = send(wanted).await?;
                if !answer.status().is_success() {
                    return judge(&answer);
                }
                let Token { token, access_token } = answer.json().await.map_err(|error| format!("the registry's token cannot be understood: {error}"))?;
                self.client.delete(&url).bearer_auth(token.or(access_token).unwrap_or_default())
            }
            _ => return judge(&first),
        };
        judge(&send(asked).await?)
    }
}

async fn send(request: RequestBuilder) -> Result<Response, String> {
    request.send().await.map_err(|error| format!("the registry cannot be asked: {error}"))
}

fn judge(answer: &Response) -> Result<Deleted, String> {
    match answer.status() {
        status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(Deleted::Yes),
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Err(format!("the registry answered {status}")),
        status => Ok(Deleted::Refused(status)),
    }
}

fn challenge(answer: &Response) -> Option<Challenge> {
    let text = answer.headers().get(WWW_AUTHENTICATE)?.to_str().ok()?;
    understood(text)
}

fn understood(text: &str) -> Option<Challenge> {
    ChallengeParser::new(text).filter_map(Result::ok).find_map(|one| {
        let value = |name: &str| one.params.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped());
        if one.scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        let realm = value("realm").filter(|_| one.scheme.eq_ignore_ascii_case("bearer"))?;
        Some(Challenge::Bearer { realm, query: ["service", "scope"].into_iter().filter_map(|name| Some((name, value(name)?))).collect() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_understood() {
        assert_eq!(understood("Basic realm=\"lab\""), Some(Challenge::Basic));
        let bearer = understood("Bearer realm=\"https://auth.example/token\",service=\"registry.example\",scope=\"repository:team/x:delete\"");
        let query = vec![("service", "registry.example".to_owned()), ("scope", "repository:team/x:delete".to_owned())];
        assert_eq!(bearer, Some(Challenge::Bearer { realm: "https://auth.example/token".into(), query }));
        for bad in ["", "Bearer service=\"x\"", "Negotiate", "\"\""] {
            assert_eq!(understood(bad), None, "{bad}");
        }
    }
}
