//! Signs the certificate requests of agents: each only for the node that it runs on.
//!
//! Who asks and from where is what the API server wrote into the request's spec from the caller's token; the request's own text only says which identity
//! is wanted. Requests of others for our signer are denied, so that they see why.

use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use godwit_api::names;
use godwit_rpc::Identity;
use godwit_rpc::authority::{Authority, requested};

/// Where the API server tells the node of the pod to which a token is bound.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it is not for us, or done.
    Leave,
    /// Approve and sign for this identity.
    Sign(Identity),
    /// Deny, for this reason.
    Deny(String),
}

/// Judges a request. `account` is the agents' user name, `system:serviceaccount:<namespace>:<name>`.
#[must_use]
pub fn judge(request: &CertificateSigningRequest, account: &str) -> Verdict {
    let (spec, status) = (&request.spec, request.status.as_ref());
    let closed = status.is_some_and(|status| {
        status.certificate.is_some() || status.conditions.iter().flatten().any(|condition| matches!(condition.type_.as_str(), "Denied" | "Failed"))
    });
    if spec.signer_name != names::SIGNER || closed {
        return Verdict::Leave;
    }
    if spec.username.as_deref() != Some(account) {
        return Verdict::Deny(format!("only {account} gets certificates of {}", names::SIGNER));
    }
    let node = match spec.extra.as_ref().and_then(|extra| extra.get(NODE_NAME)).map(Vec::as_slice) {
        Some([node]) => node,
        _ => return Verdict::Deny("the token that asked is not bound to a pod on a node".into()),
    };
    match requested(&String::from_utf8_lossy(&spec.request.0)) {
        Ok(identity) if identity == Identity::Agent(node.clone()) => Verdict::Sign(identity),
        Ok(identity) => Verdict::Deny(format!("the agent on node {node} cannot be {identity}")),
        Err(error) => Verdict::Deny(error.to_string()),
    }
}

/// Judges and answers requests, for ever.
pub async fn run(client: Client, authority: Arc<Authority>, account: String) {
    let api: Api<CertificateSigningRequest> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.signerName={}", names::SIGNER));
    let stream = watcher(api.clone(), config).default_backoff().applied_objects();
    futures::pin_mut!(stream);
    while let Some(seen) = stream.next().await {
        let answered = match seen {
            Ok(request) => answer(&api, &authority, &account, request).await,
            Err(error) => {
                tracing::warn!(%error, "certificate requests cannot be watched");
                continue;
            }
        };
        // Every replica answers, so that an agent need not wait for a leader; one of them is first. Whoever asked in vain asks again after a while.
        match answered {
            Err(error) if is_conflict(&error) => tracing::debug!("another replica answered the certificate request"),
            Err(error) => tracing::warn!(%error, "a certificate request was not answered"),
            Ok(()) => {}
        }
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.is_conflict())
}

async fn answer(api: &Api<CertificateSigningRequest>, authority: &Authority, account: &str, mut request: CertificateSigningRequest) -> anyhow::Result<()> {
    let name = request.name_any();
    let (type_, reason, message, identity) = match judge(&request, account) {
        Verdict::Leave => return Ok(()),
        Verdict::Sign(identity) => ("Approved", "AgentOnItsNode", format!("{identity} asked from its own node"), Some(identity)),
        Verdict::Deny(why) => ("Denied", "NotAnAgent", why, None),
    };
    tracing::info!(name, verdict = type_, message, "certificate request");
    let conditions = request.status.get_or_insert_default().conditions.get_or_insert_default();
    if !conditions.iter().any(|condition| condition.type_ == type_) {
        let now = Some(Time(Timestamp::now()));
        conditions.push(CertificateSigningRequestCondition {
            type_: type_.into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_update_time: now.clone(),
            last_transition_time: now,
        });
        request = api.replace_subresource("approval", &name, &PostParams::default(), &request).await?;
    }
    let Some(identity) = identity else { return Ok(()) };
    let certificate = authority.sign(&String::from_utf8_lossy(&request.spec.request.0), &identity)?;
    request.status.get_or_insert_default().certificate = Some(ByteString(certificate.into_bytes()));
    api.replace_status(&name, &PostParams::default(), &request).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use k8s_openapi::api::certificates::v1::{CertificateSigningRequestSpec, CertificateSigningRequestStatus};

    const ACCOUNT: &str = "system:serviceaccount:godwit-system:godwit-agent";

    fn request(wanted: &Identity, user: &str, node: Option<&str>) -> CertificateSigningRequest {
        let (_, pem) = godwit_rpc::authority::request(wanted).unwrap();
        CertificateSigningRequest {
            spec: CertificateSigningRequestSpec {
                signer_name: names::SIGNER.into(),
                request: ByteString(pem.into_bytes()),
                username: Some(user.into()),
                extra: node.map(|node| [(NODE_NAME.to_owned(), vec![node.to_owned()])].into()),
                ..CertificateSigningRequestSpec::default()
            },
            ..CertificateSigningRequest::default()
        }
    }

    fn agent(node: &str) -> Identity {
        Identity::Agent(node.into())
    }

    #[test]
    fn an_agent_gets_its_own_node_only() {
        assert_eq!(judge(&request(&agent("a"), ACCOUNT, Some("a")), ACCOUNT), Verdict::Sign(agent("a")));
        for bad in [
            request(&agent("b"), ACCOUNT, Some("a")),
            request(&Identity::Controller, ACCOUNT, Some("a")),
            request(&agent("a"), ACCOUNT, None),
            request(&agent("a"), "system:serviceaccount:default:godwit-agent", Some("a")),
            request(&agent("a"), "kubernetes-admin", Some("a")),
        ] {
            assert!(matches!(judge(&bad, ACCOUNT), Verdict::Deny(_)), "{:?}", bad.spec.username);
        }
    }

    #[test]
    fn others_signers_and_answered_requests_are_left_alone() {
        let mut other = request(&agent("a"), ACCOUNT, Some("a"));
        other.spec.signer_name = "kubernetes.io/kubelet-serving".into();
        assert_eq!(judge(&other, ACCOUNT), Verdict::Leave);
        let mut done = request(&agent("a"), ACCOUNT, Some("a"));
        done.status = Some(CertificateSigningRequestStatus { certificate: Some(ByteString(vec![1])), ..Default::default() });
        assert_eq!(judge(&done, ACCOUNT), Verdict::Leave);
    }
}
